"""The folder of a run and its page."""

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from minidl_kernels.threads import num_threads

import minidl
from minidl import callbacks, layers, models
from minidl.commands import report, train
from minidl.commands.run_folder import LOCK, RunFolder
from minidl.storage.folders import lock_folder

pytest.importorskip("matplotlib", reason="needs the extra plot")
pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2")


class Page(HTMLParser):
    """Take a page apart."""

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
    """Return the folder of a run."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train.main([*SMALL, "--out", str(out), "--quiet"]) == 0
    return out


def test_the_folder_holds_what_belongs_to_a_run(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {".run", "config.json", "history.jsonl", "checkpoints", "report.html"}
    configuration = json.loads((folder / "config.json").read_text())
    assert configuration["hidden"] == [16]
    assert configuration["seed"] == 0
    assert (configuration["data"], configuration["lr"]) == ("mnist-5k", 0.001)
    assert configuration["environment"] == {
        "minidl": minidl.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "numba": version("numba"),
        "threads": num_threads(),
    }
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert checkpoints == ["step-0000000032.safetensors", "step-0000000064.safetensors"]


def test_the_page_needs_nothing_but_itself(folder):
    page = Page(folder / "report.html")
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert page.addresses.count("data:,") == 1  # no browser looks for an icon
    for tag in ("html", "head", "body", "title", "h1"):
        assert page.tags.count(tag) == 1


def test_the_page_holds_every_picture_and_fact(folder):
    page = Page(folder / "report.html")
    assert list(page.pictures) == [
        "Learning curves",
        "Confusion",
        "The worst mistakes",
        "The first layer",
        "Activations with and without dropout",
    ]
    for picture in page.pictures.values():
        assert min(picture.size) > 150
        assert len(picture.convert("L").getcolors(100_000)) > 10  # something is drawn
    text = "".join(page.texts)
    command = json.loads((folder / "config.json").read_text())["command"]
    for expected in (command, 'Model: "sequential"', "12,730", "mnist-5k", "2 of 2"):
        assert expected in text
    assert "adam, learning rate 0.001" in text
    assert f", numpy {np.__version__}, " in text
    assert f", threads {num_threads()}" in text
    assert "the first 16 of 16 units of dense look" in text
    assert "some are dropped; what is kept is scaled up in training." in text


def test_what_is_written_into_the_page_is_text(tmp_path):
    model = models.Sequential(
        [layers.Input((4, 4)), layers.Flatten(), layers.Dense(3, "softmax", name="<b>bold</b>")]
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
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)</script>" in "".join(page.texts)
    # Neither history nor dropout: there is nothing to draw of them.
    assert set(page.pictures) == {"Confusion", "The worst mistakes", "The first layer"}


def test_a_network_without_mistakes_has_no_picture_of_them(tmp_path):
    model = models.Sequential([layers.Input((2, 2)), layers.Flatten(), layers.Softmax()])
    x = np.eye(4).reshape(4, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    assert list(Page(tmp_path / "x.html").pictures) == ["Confusion"]


def test_the_confusion_is_counted_by_class_and_guess():
    figure = report.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert figure.axes[0].get_ylabel() == "is (class)"
    assert figure.axes[1].get_ylabel() == "images"


def test_the_worst_mistakes_come_first():
    y = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    figure = report.mistakes(np.zeros((4, 2, 2)), y, probabilities)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["1, read as 0\n80.0%", "0, read as 1\n70.0%", "1, read as 0\n60.0%"]


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28)).astype("uint8")


def weights_of(units):
    model = models.Sequential([layers.Input((784,)), layers.Dense(units)], seed=1)
    return report.first_weights(model.layers[0], (28, 28))


@pytest.mark.parametrize(
    "figure",
    [
        *(report.mistakes(pixels(n), np.ones(n, int), np.tile([1, 0], (n, 1))) for n in (1, 3, 24)),
        *(weights_of(units) for units in (1, 8, 9, 32)),
        report.confusion(np.repeat(np.arange(10), 1000), np.repeat(np.arange(10), 1000), 10),
    ],
)
def test_nothing_of_a_figure_is_cut_off(figure):
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # in inches
    assert min(box.x0, box.y0) > 0
    assert box.x1 < figure.get_figwidth()
    assert box.y1 < figure.get_figheight()


def test_the_ticks_of_the_confusion_are_as_far_apart_as_its_colours():
    for counts, ticks in ((1, [0, 1]), (100, [0, 4, 16, 36, 64, 100])):
        y = np.repeat(np.arange(2), counts)
        assert report.confusion(y, y, 2).axes[1].get_yticks().tolist() == ticks


def test_one_epoch_is_one_tick():
    history = callbacks.History()
    history.on_epoch_end(0, {"loss": 1.0})
    (axes,) = report.curves(history).axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_dropout_that_scales_in_prediction_is_told(tmp_path):
    stack = [layers.Input((2, 2)), layers.Flatten(), layers.Dropout(0.5, scaling="inference")]
    model = models.Sequential([*stack, layers.Softmax()], seed=1)
    x = np.eye(4).reshape(4, 2, 2)
    report.write(tmp_path / "x.html", model, x, np.arange(4), facts={}, command="x")
    text = "".join(Page(tmp_path / "x.html").texts)
    assert "some are dropped; all is scaled down in prediction." in text


def test_dropout_changes_the_activations_that_are_drawn():
    model = models.Sequential([layers.Input((1000,)), layers.Dropout(0.5)], seed=1)
    (axes,) = report.activations(model, np.ones((5, 1000))).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "without dropout (0% are 0)"
    assert labels[1] in (f"with dropout ({n}% are 0)" for n in (49, 50, 51))


# ------------------------------------------------------------------------------ the command


def test_a_run_goes_on_in_its_folder_and_no_other_begins_there(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert train.main([*SMALL, "--out", out]) == 0
    before = (tmp_path / "run" / "history.jsonl").read_text()
    capsys.readouterr()
    assert train.main([*SMALL, "--out", out]) == 2
    assert "has a run already; go on with it, --resume latest, or" in capsys.readouterr().err
    assert (tmp_path / "run" / "history.jsonl").read_text() == before
    # An epoch that was logged after the last checkpoint is taken again, not told twice.
    (tmp_path / "run" / "history.jsonl").write_text(before + '{"epoch": 3}\n')
    assert train.main([*SMALL, "--out", out, "--resume", "latest", "--epochs", "4"]) == 0
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert "\n".join(lines).startswith(before.strip())
    # Folder and page tell how to get the whole run again.
    configuration = json.loads((tmp_path / "run" / "config.json").read_text())
    assert configuration["epochs"] == 4
    assert " --epochs 4 " in configuration["command"]
    assert not configuration.keys() & train.KEEPING
    text = "".join(Page(tmp_path / "run" / "report.html").texts)
    assert " --epochs 4 " in text
    assert "--resume" not in text


def test_a_page_tells_no_times_where_nothing_was_trained(tmp_path, capsys, monkeypatch):
    for threads in (1, 2):
        monkeypatch.setattr(train, "num_threads", lambda threads=threads: threads)
        again = ("--out", str(tmp_path), "--resume", "latest")
        assert train.main([*SMALL, *again, "--quiet"]) == 0
    first, second = capsys.readouterr().out.split("report ")[:2]
    assert "images a second" in first
    assert "from start to test" in first
    for text in (second, "".join(Page(tmp_path / "report.html").texts)):
        assert "images a second" not in text
        assert "from start to test" not in text
        assert "2 of 2" in text
    # The numbers are those of the first command, and so is what they depend on.
    configuration = json.loads((tmp_path / "config.json").read_text())
    assert configuration["environment"]["threads"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--hidden", "16", "--dropout", "0.5", "--max-norm", "3", "--input-dropout", "0.1"),
        ("--hidden", "--optimizer", "sgd", "--scaling", "inference", "--quiet"),
    ],
)
def test_the_command_of_the_page_gives_the_numbers_again(options, tmp_path, capsys):
    run = ("--data", "mnist-5k", "--epochs", "1", *options, "--checkpoint-every", "20")
    assert train.main([*run, "--out", str(tmp_path / "a b")]) == 0
    first = capsys.readouterr().out
    text = (tmp_path / "a b" / "config.json").read_text()
    python, dash_m, module, *again = shlex.split(json.loads(text)["command"])
    assert (python, dash_m, module) == ("python", "-m", "minidl.train")
    assert train.main(again) == 0
    second = capsys.readouterr().out
    losses = [re.search(r"test loss +(\S+)", printed)[1] for printed in (first, second)]
    assert losses[0] == losses[1]


def test_the_command_of_the_page_names_the_data_that_were_used(tmp_path, monkeypatch):
    def no_mirror(_):
        raise OSError("no mirror")

    monkeypatch.setitem(train.LOADERS, "mnist", no_mirror)
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    assert train.main(["--hidden", "4", "--epochs", "1", "--out", str(tmp_path), "--quiet"]) == 0
    configuration = json.loads((tmp_path / "config.json").read_text())
    assert configuration["data"] == "mnist-5k"
    assert configuration["command"].endswith(" --data mnist-5k")


class Sometimes(callbacks.Callback):
    """Log something in every other epoch."""

    def on_epoch_end(self, epoch, logs):
        if epoch % 2 == 1:
            logs["odd"] = float(epoch)


def test_what_is_logged_now_and_then_is_in_folder_and_curves(tmp_path):
    model = models.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    run = {"x": np.ones((4, 1)), "y": np.ones((4, 1)), "verbose": 0}
    for epochs, goes_on in ((2, False), (4, True)):
        keeper = RunFolder(tmp_path / "run", {}, goes_on=goes_on)
        model.fit(**run, epochs=epochs, callbacks=[keeper, Sometimes()], resume=goes_on)
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line).get("odd") for line in lines] == [None, 1, None, 3]
    model.save(tmp_path / "model.safetensors")
    history = models.load(tmp_path / "model.safetensors").history
    assert history.history["odd"] == model.history.history["odd"] == [1, 3]
    odd = report.curves(history).axes[1].lines[0]
    assert (odd.get_xdata().tolist(), odd.get_ydata()[1::2].tolist()) == ([1, 2, 3, 4], [1, 3])
    assert np.isnan(odd.get_ydata()[::2]).all()


def test_a_run_that_is_refused_leaves_the_folder_of_another_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train.main([*SMALL, "--out", str(folder), "--quiet"]) == 0
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    capsys.readouterr()
    with lock_folder(folder / LOCK):  # as another run would hold it
        resumed = ("--resume", "latest", "--epochs", "3", "--quiet")
        assert train.main([*SMALL, "--out", str(folder), *resumed]) == 2
    assert "another run, or another callback, writes here" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert train.main([*SMALL, "--out", str(folder), *resumed]) == 0  # free again


def test_the_checkpoints_may_be_in_the_folder_of_the_run(tmp_path):
    out = str(tmp_path)
    assert train.main([*SMALL, "--out", out, "--checkpoint-dir", out, "--quiet"]) == 0
    assert (tmp_path / "step-0000000064.safetensors").exists()


def test_without_matplotlib_the_run_works_and_says_how_to_get_the_page(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert train.main([*SMALL, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert (
        "report           needs matplotlib: pip install 'minidl[plot]'" in capsys.readouterr().out
    )
    assert not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "history.jsonl").exists()


def test_matplotlib_is_loaded_for_the_page_only():
    code = "import sys, minidl.train; print('matplotlib' in sys.modules, 'PIL' in sys.modules)"
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels")))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["False", "False"]
