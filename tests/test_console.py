"""Printed output: streams of all kinds, narrow encodings, and logged values for people."""

import contextlib
import decimal
import math
import sys

import numpy as np
import pytest
from streams import STREAMS, Failing, Flusher, Writer, encoded, written

from minidl import console, layers, models
from minidl.callbacks import Callback
from minidl.callbacks.progress import ProgressBar
from minidl.commands import report
from minidl.metrics import Metric

X, Y = np.random.default_rng(0).random((12, 4)), np.arange(12) % 3
NAMES = ["точность", "größe", "模型", "b\udcff"]


class Named(Metric):
    """Metric of any name."""

    def __init__(self, name):
        self.name = name

    def per_sample(self, y, outputs):
        return (outputs * 0).sum(axis=-1)


def network(name="model", metrics=()):
    model = models.Sequential([layers.Dense(3, "softmax", name=name)], seed=1, name=name)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=list(metrics))
    return model


# ------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_ends_a_run(name, verbose, monkeypatch):
    model, same = network("模型", [Named("模")]), network("模型", [Named("模")])
    same.fit(X, Y, epochs=2, verbose=0)
    monkeypatch.setattr(sys, "stdout", STREAMS[name]())
    model.fit(X, Y, epochs=2, batch_size=None, validation_data=(X, Y), verbose=verbose)
    model.evaluate(X, Y, verbose=verbose)
    outputs = model.predict(X, verbose=verbose)
    model.summary()
    assert outputs.tobytes() == same.predict(X, verbose=0).tobytes()


@pytest.mark.parametrize("make", [Writer, Flusher])
def test_object_with_write_gets_lines_without_a_bar(make, monkeypatch):
    monkeypatch.setattr(sys, "stdout", make())
    network().fit(X, Y, epochs=2)
    assert sys.stdout.text.startswith("Epoch 1/2 - ")
    assert sys.stdout.text.count("\n") == 2


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_write_passes_on_interrupts(raised):
    with pytest.raises(raised):
        console.write("text", Failing(raised()))


@pytest.mark.parametrize(
    ("name", "error"), [("broken pipe", BrokenPipeError), ("full disk", OSError), ("odd", None)]
)
def test_write_returns_errors_of_the_system(name, error):
    returned = console.write("text", STREAMS[name]())
    assert returned is None if error is None else isinstance(returned, error)


def test_write_returns_errors_of_flush():
    stream = Flusher()
    stream.flush = lambda: (_ for _ in ()).throw(BrokenPipeError())
    assert isinstance(console.write("text", stream), BrokenPipeError)


@pytest.mark.parametrize("name", ["none", "closed", "detached", "memory", "write only"])
def test_is_terminal_is_false_for_streams_that_are_none(name):
    assert not console.is_terminal(STREAMS[name]())


def test_bar_on_a_terminal_of_a_narrow_encoding_is_ascii(monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded("cp1252", is_terminal=True))
    network(metrics=[Named("模")]).fit(X, Y, batch_size=1)
    assert "Epoch 1/1:" in written(sys.stdout)
    assert "/12 [" in written(sys.stdout)
    assert r" - \u6a21: 0.0000" in written(sys.stdout)


class Noisy(Callback):
    """Callback whose warning `fit` issues."""

    def on_epoch_end(self, epoch, logs):
        self.model.run.warnings.append("Noisy: a warning")


@pytest.mark.parametrize("name", ["none", "closed", "write only", "full disk", "ascii"])
@pytest.mark.filterwarnings("default")
def test_warnings_of_fit_end_no_run(name, monkeypatch):
    monkeypatch.setattr("warnings.showwarning", write_warning)
    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    assert network().fit(X, Y, callbacks=[Noisy()], verbose=0).epoch == [0]


def write_warning(message, *_, **__):
    """Write a warning as Python does, without pytest's record of it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{message}\n")


# ------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_summary_has_ascii_lines_if_the_encoding_lacks_lines(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded(encoding))
    models.Sequential([layers.Dense(3, input_shape=(4,), name="dense")], name="模").summary()
    title, *lines = written(sys.stdout).splitlines()[:6]
    assert title == r'Model: "\u6a21"'
    assert lines[0] == lines[2] == lines[4] == "+---------------+--------------+---------+"
    assert lines[1] == "| Layer (type)  | Output Shape | Param # |"
    assert lines[3] == "| dense (Dense) | (None, 3)    |      15 |"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_summary_keeps_its_lines_in_unicode(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded(encoding))
    models.Sequential([layers.Dense(3, input_shape=(4,), name="模")]).summary()
    assert "│ 模 (Dense)" in written(sys.stdout)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_name_of_a_metric_is_escaped_where_needed(name, encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded(encoding))
    network(metrics=[Named(name)]).fit(X, Y, epochs=2)
    escaped = name.encode(encoding, "backslashreplace").decode(encoding)
    lines = written(sys.stdout).splitlines()
    assert [line.count(f" - {escaped}: ") for line in lines] == [1, 1]


class Hidden(Flusher):
    """ASCII stream that does not name its encoding, or names another."""

    def write(self, text):
        text.encode("ascii")
        super().write(text)


@pytest.mark.parametrize("named", [None, "utf-8", "unknown", 3])
def test_write_escapes_for_streams_that_name_another_encoding(named):
    stream = Hidden()
    if named is not None:
        stream.encoding = named
    assert console.write("größe", stream) is None
    assert stream.text == "gr\\xf6\\xdfe\n"


def test_report_escapes_bytes_that_are_not_utf_8(tmp_path):
    pytest.importorskip("matplotlib")
    stack = [layers.Flatten(input_shape=(2, 2)), layers.Dense(3, "softmax")]
    model, x = models.Sequential(stack, seed=1), X.reshape(12, 2, 2)
    text = "/d\udcff"
    facts = {"saved": text, text: "größe"}
    path = tmp_path / "report.html"
    report.write(path, model, x, Y, facts=facts, command=f"--data-dir '{text}'")
    page = path.read_text("utf-8")
    assert page.count(r"/d\udcff") == 3
    assert "größe" in page


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1e-06, "3.1000e-06"),
        (-3.1e-06, "-3.1000e-06"),
        (0.001, "1.0000e-03"),
        (0.0010001, "0.0010"),
        (0.0, "0.0000"),
        (2.5, "2.5000"),
        (-2.5, "-2.5000"),
        (1234567.891, "1234567.8910"),
        (1e30, "1.0000e+30"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (7, "7"),
        (True, "True"),
        (10**400, "1" + "0" * 400),
        (np.int64(7), "7"),
        (np.float16(0.25), "0.2500"),
        (np.float32(3.1e-06), "3.1000e-06"),
        (np.array(0.25), "0.2500"),
        (decimal.Decimal("0.25"), "0.2500"),
        ("late", "late"),
        ("3.5", "3.5"),
        ("two\nlines", r"two\nlines"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_readable_shows_any_value(value, text):
    assert console.readable(value) == text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_line_of_an_epoch_shows_values_that_callbacks_add(is_terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded("utf-8", is_terminal=is_terminal))
    bar = ProgressBar()
    bar.model, bar.params = network(), {"epochs": 1, "steps": 1, "verbose": 1}
    bar.on_train_begin({})
    logs = {"loss": 3.1e-06, "phase": "warm", "count": 3, "rate": np.float32(1e30)}
    bar.on_epoch_begin(0, {})
    bar.on_train_batch_end(0, logs)
    bar.on_epoch_end(0, logs)
    line = written(sys.stdout)
    assert line.endswith(" - loss: 3.1000e-06 - phase: warm - count: 3 - rate: 1.0000e+30\n")


def test_small_loss_is_not_shown_as_zero(capsys):
    model = models.Sequential(
        [layers.Dense(1, kernel_initializer="zeros", input_shape=(1,))], seed=1
    )
    model.compile("sgd", "mean_squared_error")
    y = np.full((4, 1), math.sqrt(3.1e-06))
    model.evaluate(np.zeros((4, 1)), y)
    model.fit(np.zeros((4, 1)), y, validation_data=(np.zeros((4, 1)), y))
    evaluated, trained = capsys.readouterr().out.splitlines()
    assert evaluated == "Evaluation - loss: 3.1000e-06"
    assert " - loss: 3.1000e-06 - val_loss: " in trained
    assert trained.endswith("e-06")
