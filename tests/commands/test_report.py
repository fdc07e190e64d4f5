"""The report page of a run: its text and its figures."""

import base64
import io
import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from command_runs import run_python
from minidl_kernels.threads import num_threads

from minidl import layers, models
from minidl.commands import report, train
from minidl.trainer.state import History

pytest.importorskip("matplotlib", reason="needs the extra plot")
pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2")


class Page(HTMLParser):
    """The tags, texts, addresses and pictures of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.addresses, self.pictures = [], [], [], {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag == "img":
            data = found["src"].removeprefix("data:image/png;base64,")
            self.pictures[found["alt"]] = pillow.open(io.BytesIO(base64.b64decode(data)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a run with a page."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train.main([*SMALL, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder / "report.html")


def test_page_loads_nothing_and_links_to_the_playground(page):
    others = [address for address in page.addresses if not address.startswith("data:")]
    assert others == ["playground.html"]
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert page.addresses.count("data:,") == 1  # so that no browser requests an icon
    for tag in ("html", "head", "body", "title", "h1"):
        assert page.tags.count(tag) == 1


def test_page_has_all_pictures_and_facts(page, folder):
    assert list(page.pictures) == [
        "Learning curves: loss",
        "Learning curves: accuracy",
        "Confusion matrix",
        "Calibration",
        "Worst mistakes",
        "Most uncertain images",
        "Weights of the first layer",
        "Activations with and without dropout: dropout",
    ]
    for picture in page.pictures.values():
        assert min(picture.size) > 150
        assert len(picture.convert("L").getcolors(100_000)) > 10  # something is drawn
    text = "".join(page.texts)
    command = json.loads((folder / "config.json").read_text())["command"]
    for expected in (
        *(command, "sequential", "2 of 2"),
        "dense 16 > dropout 0.5 > dense 10 (12,730 weights)",
        "mnist-5k: 4,000 training images, 1,000 test images",
        "images/s in training",
        f"({os.cpu_count()} cores), ",
    ):
        assert expected in text
    assert "adam, learning rate 0.001" in text
    assert f", numpy {np.__version__}, " in text
    assert f", threads {num_threads()}" in text
    assert "The first 16 of 16 units of the layer dense, with a weight for each pixel" in text
    assert "as in training; kept values are scaled up in training." in text


def test_page_links_to_the_playground_beside_it(tmp_path):
    model = models.Sequential([layers.Input((2, 2)), layers.Flatten(), layers.Softmax()])
    addresses = []
    for place in (tmp_path, tmp_path / "other"):
        place.mkdir(exist_ok=True)
        (tmp_path / "playground.html").touch()
        images = np.eye(4).reshape(4, 2, 2)
        report.write(place / "x.html", model, images, np.arange(4), facts={}, command="x")
        addresses.append("playground.html" in Page(place / "x.html").addresses)
    assert addresses == [True, False]


def test_page_escapes_its_texts(tmp_path):
    model = models.Sequential(
        [layers.Input((4, 4)), layers.Flatten(), layers.Dense(3, "softmax", name="<em>bold</em>")]
    )
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype("uint8")
    report.write(
        tmp_path / "x.html",
        model,
        x,
        np.arange(20) % 3,
        facts={"a & b": "<script>alert(1)</script>"},
        command="python --name '</pre>'",
    )
    page = Page(tmp_path / "x.html")
    assert not {"script", "em"} & set(page.tags)
    assert "<script>alert(1)</script>" in "".join(page.texts)
    # There is neither history nor dropout to draw.
    assert set(page.pictures) == {
        "Confusion matrix",
        "Calibration",
        "Worst mistakes",
        "Weights of the first layer",
    }


def test_page_without_mistakes_has_no_picture_of_them(tmp_path):
    model = models.Sequential([layers.Input((2, 2)), layers.Flatten(), layers.Softmax()])
    x = np.eye(4).reshape(4, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    assert list(Page(tmp_path / "x.html").pictures) == ["Confusion matrix", "Calibration"]


def test_confusion_counts_images_by_class_and_guess():
    figure = report.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert figure.axes[0].get_ylabel() == "true class"
    assert figure.axes[1].get_ylabel() == "images"


def test_mistakes_are_sorted_by_probability_of_the_class():
    y = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    figure = report.mistakes(np.zeros((4, 2, 2)), y, probabilities)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["1, predicted 0\n80.0%", "0, predicted 1\n70.0%", "1, predicted 0\n60.0%"]


def test_calibration_equals_its_formula_in_a_loop():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 200).astype("float32")
    probabilities[:2] = [1, 0, 0, 0], [0.2, 0.2, 0.2, 0.4]  # on edges of bins
    y = generator.integers(0, 4, 200)
    found, error = report.Calibration.of(probabilities, y), 0.0
    confidence, is_right = probabilities.max(1).astype("float64"), probabilities.argmax(1) == y
    for place in range(15):
        inside = (confidence > place / 15) & (confidence <= (place + 1) / 15)
        assert found.counts[place] == inside.sum()
        if inside.any():
            means = found.confidence[place], found.accuracy[place]
            assert means == pytest.approx((confidence[inside].mean(), is_right[inside].mean()))
            error += inside.mean() * abs(is_right[inside].mean() - confidence[inside].mean())
    assert found.error == pytest.approx(error)
    assert np.isnan(found.accuracy[0])  # no maximum of four is below 1/4


def test_reliability_draws_accuracy_over_confidence():
    found = report.Calibration.of(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    bars = report.reliability(found).axes[0].patches
    (bar,) = (bar for bar in bars if np.isfinite(bar.get_height()))
    assert (bar.get_x(), bar.get_height()) == (pytest.approx(13 / 15), 0.5)


def test_uncertain_images_are_sorted_by_mutual_information():
    information = np.array([0.1, 0.3, 0.2])
    figure = report.uncertain(np.zeros((3, 2, 2)), np.arange(3), np.arange(3), information)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        f"{n}, predicted {n}\n{nats} nats" for n, nats in ((1, "0.30"), (2, "0.20"), (0, "0.10"))
    ]


@pytest.mark.parametrize(("rate", "is_shown"), [(0.5, True), (0.0, False)])
def test_page_shows_uncertain_images_of_networks_that_drop(rate, is_shown, tmp_path):
    stack = [layers.Flatten(input_shape=(2, 2)), layers.Dropout(rate)]
    model = models.Sequential([*stack, layers.Dense(4, "softmax")], seed=1)
    x = np.eye(4).reshape(4, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    assert ("Most uncertain images" in Page(tmp_path / "x.html").pictures) is is_shown


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28)).astype("uint8")


def weights_of(units):
    model = models.Sequential([layers.Input((784,)), layers.Dense(units)], seed=1)
    return report.first_weights(model.layers[0], (28, 28))


def mistakes_of(count):
    return report.mistakes(pixels(count), np.ones(count, int), np.tile([1, 0], (count, 1)))


def confusion_of(count):
    y = np.repeat(np.arange(10), count)
    return report.confusion(y, y, 10)


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (mistakes_of, 1),
        pytest.param(mistakes_of, 3, marks=pytest.mark.slow),
        (mistakes_of, 24),
        pytest.param(weights_of, 1, marks=pytest.mark.slow),
        pytest.param(weights_of, 8, marks=pytest.mark.slow),
        (weights_of, 9),
        pytest.param(weights_of, 32, marks=pytest.mark.slow),
        (confusion_of, 1000),
    ],
)
def test_figure_is_not_cut_off(draw, size):
    figure = draw(size)
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # in inches
    assert min(box.x0, box.y0) > 0
    assert box.x1 < figure.get_figwidth()
    assert box.y1 < figure.get_figheight()


def test_confusion_has_ticks_at_equal_steps_of_colour():
    for counts, ticks in ((1, [0, 1]), (100, [0, 4, 16, 36, 64, 100])):
        y = np.repeat(np.arange(2), counts)
        assert report.confusion(y, y, 2).axes[1].get_yticks().tolist() == ticks


def test_curves_of_one_epoch_have_one_tick():
    (axes,) = report.curves(History([(0, {"loss": 1.0})]))["loss"].axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_page_names_scaling_in_prediction(tmp_path):
    stack = [layers.Input((2, 2)), layers.Flatten(), layers.Dropout(0.5, scaling="inference")]
    model = models.Sequential([*stack, layers.Softmax()], seed=1)
    x = np.eye(4).reshape(4, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    text = "".join(Page(tmp_path / "x.html").texts)
    assert "as in training; all values are scaled down in prediction." in text


def test_page_shows_layers_without_a_scaling(tmp_path):
    stack = [layers.Input((2, 2)), layers.Flatten(), layers.AlphaDropout(0.5)]
    model = models.Sequential([*stack, layers.DropConnect(3, 0.5, activation="softmax")], seed=1)
    x = np.eye(4)[:3].reshape(3, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(3), facts={}, command="x")
    assert "with dropout as in training." in "".join(Page(tmp_path / "x.html").texts)


def test_activations_show_the_share_of_zeros():
    model = models.Sequential([layers.Input((1000,)), layers.Dropout(0.5)], seed=1)
    (axes,) = report.activations(model, np.ones((5, 1000)))["dropout"].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "without dropout (0% are 0)"
    assert labels[1] in (f"with dropout ({n}% are 0)" for n in (49, 50, 51))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_activations_of_a_diverged_network_are_drawn(value):
    model = models.Sequential([layers.Input((100,)), layers.Dropout(0.5)], seed=1)
    x = np.linspace(-1, 1, 500, dtype="float32").reshape(5, 100)
    x[0, :2] = value, -value
    with np.errstate(all="ignore"):
        (axes,) = report.activations(model, x)["dropout"].axes
    assert np.isfinite(axes.get_xlim()).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_page_of_a_diverged_network_has_no_predictions(value, tmp_path):
    stack = [layers.Flatten(input_shape=(2, 2)), layers.Dense(4, "softmax")]
    model = models.Sequential(stack, seed=1)
    model.set_weights([np.full((4, 4), value), np.zeros(4)])
    x = np.eye(4).reshape(4, 2, 2)
    with np.errstate(all="ignore"):
        report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    assert Page(tmp_path / "x.html").pictures == {}


def test_curves_show_logs_of_some_epochs():
    rows = [(epoch, {"loss": 1.0} | ({"odd": epoch} if epoch % 2 else {})) for epoch in range(4)]
    odd = report.curves(History(rows))["odd"].axes[0].lines[0]
    assert (odd.get_xdata().tolist(), odd.get_ydata()[1::2].tolist()) == ([1, 2, 3, 4], [1, 3])
    assert np.isnan(odd.get_ydata()[::2]).all()


def test_train_imports_matplotlib_for_the_page_only():
    code = "import sys, minidl.train; print('matplotlib' in sys.modules, 'PIL' in sys.modules)"
    assert run_python("-c", code).stdout.split() == ["False", "False"]
