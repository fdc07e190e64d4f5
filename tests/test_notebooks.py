"""What notebooks show: tables, curves, the progress bar, and the line before a compilation."""

import inspect
import sys
import types
from xml.etree import ElementTree

import numba
import numpy as np
import pytest
from minidl_kernels.cpu import jit
from minidl_kernels.surroundings import in_notebook
from tqdm import notebook, tqdm

import minidl
from minidl import (
    callbacks,
    constraints,
    distributed,
    initializers,
    layers,
    losses,
    metrics,
    models,
    notebooks,
    optimizers,
    regularizers,
)
from minidl.callbacks import progress
from minidl.optimizers import schedules
from minidl.trainer.state import History
from minidl.trainer.uncertainty import Uncertainty


@pytest.fixture
def in_kernel(monkeypatch):
    """Let the program run in the kernel of a notebook."""
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def html_of(thing):
    """Return the HTML of an object as an element; raise for HTML that is not well-formed."""
    return ElementTree.fromstring(f"<page>{thing._repr_html_()}</page>")


def cells(thing):
    return [[cell.text for cell in row] for row in html_of(thing).iter("tr")]


# ------------------------------------------------------------------------------ reprs


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (optimizers.Adam(), "Adam()"),
        (optimizers.AdamW(0.01, clipnorm=1.0), "AdamW(learning_rate=0.01, clipnorm=1.0)"),
        (
            optimizers.SGD(schedules.ExponentialDecay(0.1, 10, 0.5), momentum=0.9),
            "SGD(learning_rate=ExponentialDecay(initial_learning_rate=0.1, decay_steps=10, "
            "decay_rate=0.5), momentum=0.9)",
        ),
        (losses.Huber(), "Huber()"),
        (losses.BinaryCrossentropy(from_logits=True), "BinaryCrossentropy(from_logits=True)"),
        (losses.get(np.arctan2), "FunctionLoss(function=<ufunc 'arctan2'>)"),
        (metrics.MeanSquaredError(), "MeanSquaredError()"),
        (metrics.get("mse"), "MeanSquaredError(name='mse')"),
        (metrics.with_weighted([], ["mae"])[0], "Weighted(metric=MeanAbsoluteError(name='mae'))"),
        (initializers.RandomNormal(stddev=0.1, seed=3), "RandomNormal(stddev=0.1, seed=3)"),
        (regularizers.l2(0.1), "L2(l2=0.1)"),
        (constraints.MaxNorm(3), "MaxNorm(max_value=3.0)"),
        (callbacks.EarlyStopping(patience=3), "EarlyStopping(patience=3)"),
        (callbacks.ModelCheckpoint("m.safetensors"), "ModelCheckpoint('m.safetensors')"),
        (callbacks.BackupAndRestore("runs"), "BackupAndRestore('runs')"),
        (callbacks.LambdaCallback(), "LambdaCallback()"),
    ],
)
def test_repr_shows_arguments_that_are_not_defaults(thing, text):
    assert repr(thing) == text


def test_every_public_class_has_a_repr_of_its_own():
    modules = (callbacks, constraints, distributed, initializers, layers, losses, metrics, models)
    found = {
        f"{module.__name__}.{name}"
        for module in (*modules, minidl, optimizers, regularizers, schedules)
        for name in module.__all__
        if inspect.isclass(kind := getattr(module, name)) and kind.__repr__ is object.__repr__
    }
    assert found == {"minidl.callbacks.CallbackList"}  # which users do not make


def test_repr_of_history_and_uncertainty_are_one_line():
    history = History([(0, {"loss": 0.5}), (1, {"loss": 0.25, "val_loss": 1.0})])
    assert repr(history) == "<History of 2 epochs: loss, val_loss>"
    assert repr(History([(0, {"loss": 0.5})])) == "<History of 1 epoch: loss>"
    values = np.array([[0.25, 0.75], [0.5, 0.5]])
    text = "Uncertainty(mean: (2, 2), 0.25 to 0.75; std: (2, 2), 0.25 to 0.75)"
    assert repr(Uncertainty(values, values, None, None)) == text


class Unkept(optimizers.Optimizer):
    """An optimizer that does not keep its argument."""

    def __init__(self, speed):
        super().__init__(speed)


def test_repr_of_class_that_keeps_no_arguments_is_that_of_python():
    assert repr(Unkept(0.1)).startswith(f"<{__name__}.Unkept object")
    assert cells(Unkept(0.1)) == [["Argument", "Value"]]


def test_html_of_optimizer_shows_all_arguments():
    rows = dict(cells(optimizers.Adam(0.5)))
    assert rows["learning_rate"] == "0.5"
    assert rows["beta_1"] == "0.9"
    assert rows["clipnorm"] == "None"


def test_html_of_model_shows_layers_shapes_weights_and_rates():
    model = models.Sequential(
        [layers.Dense(3, input_shape=(4,), name="<b>"), layers.Dropout(0.25)], seed=1, name="a&b"
    )
    assert cells(model)[1:] == [
        ["<b> (Dense)", "(None, 3)", "15", "-"],
        ["dropout (Dropout)", "(None, 3)", "0", "0.25"],
    ]
    texts = list(html_of(model).itertext())
    assert texts[0] == "a&b"
    assert texts[-1].startswith(" Total params: 15 (60.00 B); Trainable params: 15 (")


def test_html_of_model_without_shapes_says_so():
    model = models.Sequential([layers.Dense(3), layers.Dropout(lambda step: 0.5)])
    assert cells(model)[1:] == [
        ["dense (Dense)", "?", "0 (unbuilt)", "-"],
        ["dropout (Dropout)", "?", "0 (unbuilt)", "0.5"],
    ]


def test_html_of_history_draws_a_curve_for_each_number():
    logs = [
        {"loss": 2.0, "val_loss": 3.0, "rate": 0.1, "note": "<a>"},
        {"loss": np.nan, "val_loss": 1.0, "rate": 0.1, "note": "<a>"},
        {"loss": np.float32(1), "val_loss": np.inf, "rate": np.zeros(2), "note": None},
    ]
    page = html_of(History(enumerate(logs)))
    lines = [line.get("points") for line in page.iter("polyline")]
    assert lines == [
        "10.0,75.0 310.0,130.0 310.0,130.0",
        "10.0,20.0 160.0,130.0 160.0,130.0",
        "10.0,20.0 310.0,20.0 310.0,20.0",
    ]
    assert [name.text for name in page.iter("b")] == ["loss 1", "val_loss 1", "rate 0.1"]
    assert "epochs 1 to 3" in [text.text for text in page.iter("text")]


def test_html_of_history_without_epochs_is_empty():
    assert History()._repr_html_() == ""
    assert History([(0, {"loss": np.nan})])._repr_html_() == ""


def test_curve_of_largest_numbers_does_not_overflow():
    largest = np.finfo(float).max
    page = ElementTree.fromstring(notebooks.curves({"<a>": [(1, -largest), (2, largest)]}))
    (line,) = page.iter("polyline")
    assert line.get("points") == "10.0,130.0 310.0,20.0 310.0,20.0"


def test_html_of_uncertainty_shows_shapes_and_ranges():
    values = np.array([[0.25, 0.75]], "float32")
    assert cells(Uncertainty(values, values, None, values[:, 0]))[1:] == [
        ["mean", "(1, 2)", "0.25", "0.5", "0.75"],
        ["std", "(1, 2)", "0.25", "0.5", "0.75"],
        ["mutual_information", "(1,)", "0.25", "0.25", "0.25"],
    ]


# ------------------------------------------------------------------------------ progress


def network():
    model = models.Sequential([layers.Dense(1, input_shape=(2,))], seed=1)
    model.compile("sgd", "mse")
    return model


def test_terminal_of_ipython_is_no_notebook(monkeypatch):
    assert not in_notebook()
    shell = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()


@pytest.mark.usefixtures("in_kernel")
def test_notebook_without_widgets_gets_a_bar_of_text(monkeypatch, capsys):
    monkeypatch.setattr(notebook, "IProgress", None, raising=False)
    network().fit(np.ones((4, 2)), np.ones(4), batch_size=2, verbose=1)
    assert "Epoch 1/1:" in capsys.readouterr().out


@pytest.mark.usefixtures("in_kernel")
def test_notebook_with_widgets_gets_their_bar(monkeypatch):
    class Bar(tqdm):
        """A bar that draws nothing."""

        titles = ()

        def __init__(self, **options):
            Bar.titles += (options["desc"],)
            assert not options["disable"]
            super().__init__(**options | {"disable": True})

    monkeypatch.setattr(notebook, "IProgress", object(), raising=False)
    monkeypatch.setattr(notebook, "tqdm", Bar)
    model = network()
    model.fit(np.ones((4, 2)), np.ones(4), verbose=1)
    model.predict(np.ones((4, 2)))
    assert Bar.titles == ("Epoch 1/1", "Prediction")
    assert progress._kind_of_bar() is Bar


@pytest.fixture
def announcements(monkeypatch, tmp_path):
    """Let a compilation be announced again, without a logger that shows it."""
    listeners = numba.core.event._registered["numba:compile"]
    (ours,) = [listener for listener in listeners if isinstance(listener, jit._Announcer)]
    monkeypatch.setattr(ours, "announced", set())
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit._log, "level", 30)


@pytest.mark.parametrize("is_notebook", [True, False])
@pytest.mark.usefixtures("announcements")
def test_notebook_alone_prints_that_kernels_compile(is_notebook, monkeypatch, request, capsys):
    if is_notebook:
        request.getfixturevalue("in_kernel")
    kernel = jit.kernel(lambda x: x + 1)
    kernel(1)
    kernel(1.0)
    assert capsys.readouterr().out == f"{jit._CACHED}\n" * is_notebook


@pytest.mark.usefixtures("in_kernel", "announcements")
def test_notebook_that_shows_logs_prints_no_line(monkeypatch, caplog, capsys):
    with caplog.at_level("INFO", "minidl_kernels"):
        jit.kernel(lambda x: x + 2)(1)
    assert caplog.messages == [jit._CACHED]
    assert capsys.readouterr().out == ""
