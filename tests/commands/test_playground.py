"""The playground command and the page that it writes, without a browser."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from command_runs import ROOT, environment

from minidl import datasets, layers, models
from minidl.commands import report, train
from minidl.commands.playground import command, page
from minidl.commands.playground.network import check_network, packed_weights
from minidl.layers import Dense, Dropout, Flatten, Rescaling

TEST = datasets.mnist_5k.load_data()[1]
FEW = TEST[0][:60], TEST[1][:60]


def network(*stack, shape=(28, 28), **arguments):
    """Return a built network, by default of the smallest kind that the page shows."""
    stack = stack or (Flatten(), Dense(8, "relu"), Dropout(0.5), Dense(10, "softmax"))
    return models.Sequential([layers.Input(shape), *stack], **{"seed": 3} | arguments)


def parts_of(text):
    """Return the network's JSON and its weights in base64, as a page holds them."""
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]
    return json.loads(data), re.search(r'<script type="text/plain"[^>]*>(.*?)</script>', text)[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("playground") / "model.safetensors"
    network().save(path)
    return path


# ------------------------------------------------------------------------------ the network


@pytest.mark.parametrize(
    "stack",
    [
        [],
        [Rescaling(1 / 255), Flatten(), Dropout(0.2), Dense(10, "softmax")],
        [Flatten(), Rescaling(0.1, 1.0), Dense(5, "relu"), Dropout(0.1), Dense(10, "softmax")],
        [
            *[Flatten(), Dropout(0.2), Dense(5, "relu", use_bias=False), Dense(5, "relu")],
            *[Dropout(0.0), Dense(5, "relu"), Dropout(0.5), Dense(10, "softmax")],
        ],
    ],
)
def test_page_takes_networks_of_dense_and_dropout(stack):
    model = network(*stack)
    described, weights = parts_of(page.page_of(model, *FEW))
    kinds = [layer["kind"] for layer in described["layers"]]
    sizes = [layer["inputs"] * layer["units"] for layer in described["layers"] if "inputs" in layer]
    units = [layer["units"] for layer in described["layers"] if "inputs" in layer]
    assert kinds.count("dropout") == sum(isinstance(layer, Dropout) for layer in model.layers)
    assert len(base64.b64decode(weights)) == 2 * sum(sizes) + 8 * sum(units)


def test_page_takes_flat_inputs_and_float64():
    stack = [Dense(4, "relu"), Dropout(0.5), Dense(10, "softmax")]
    check_network(network(*stack, shape=(784,), dtype="float64"))


def head():
    return [Flatten(), Dense(4, "relu")]


def tail():
    return [Dropout(0.5), Dense(10, "softmax")]


REJECTED = {
    "a built Sequential, got Functional": lambda: functional(),
    "a built Sequential, got Sequential": lambda: models.Sequential(head() + tail()),
    "inputs of 28 x 28 numbers, got (8, 8)": lambda: network(*head(), *tail(), shape=(8, 8)),
    "float32 or float64, got float16": lambda: network(dtype="float16"),
    "got Flatten, Dense, BatchNormalization, Dropout, Dense": lambda: network(
        *head(), layers.BatchNormalization(), *tail()
    ),
    "got Flatten, Dense, Dropout, Dropout, Dense": lambda: network(*head(), Dropout(0.1), *tail()),
    "got Flatten, Own, Dropout, Dense": lambda: network(Flatten(), Own(4, "relu"), *tail()),
    "activation relu of": lambda: network(Flatten(), Dense(4, "tanh"), *tail()),
    "activation softmax of": lambda: network(*head(), Dropout(0.5), Dense(10)),
    "10 outputs, got 3": lambda: network(*head(), Dropout(0.5), Dense(3, "softmax")),
    "a network with Dropout, got one without": lambda: network(*head(), Dense(10, "softmax")),
    "a number below 1 as rate and no noise_shape": lambda: network(
        *head(), Dropout(lambda step: 0.5), Dense(10, "softmax")
    ),
    "rate 1.0 and noise_shape": lambda: network(*head(), Dropout(1.0), Dense(10, "softmax")),
    "noise_shape (1, None)": lambda: network(
        *head(), Dropout(0.5, (1, None)), Dense(10, "softmax")
    ),
    "scaling 'train', got 'inference'": lambda: network(
        *head(), Dropout(0.5, scaling="inference"), Dense(10, "softmax")
    ),
    "at most 2,000,000 weights, got 2,3": lambda: network(Flatten(), Dense(3000, "relu"), *tail()),
    "finite weights, got NaN": lambda: diverged(),
}


class Own(Dense):
    """A user's layer, which may compute anything."""


def functional():
    inputs = layers.Input((28, 28))
    outputs = inputs
    for layer in head() + tail():
        outputs = layer(outputs)
    return models.Model(inputs, outputs)


def diverged():
    model = network()
    model.set_weights([np.full_like(array, np.nan) for array in model.get_weights()])
    return model


@pytest.mark.parametrize("text", REJECTED)
def test_page_rejects_other_networks(text, tmp_path):
    with pytest.raises(ValueError, match=r"^playground: expected .*, got .*\. .*\.$") as error:
        page.write(tmp_path / "page.html", REJECTED[text](), *FEW)
    assert text in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_packed_weights_are_within_half_a_step_of_the_weights():
    model = network(Flatten(), Dense(6, "relu"), *tail())
    weight, bias = model.get_weights()[:2]
    weight[:, 1], weight[:, 2], bias[3] = 0, 1e-42, 7
    model.set_weights([weight, bias, *model.get_weights()[2:]])
    packed = packed_weights(model)
    biases, scale = np.frombuffer(packed[:48], "<f4").reshape(2, 6)
    integers = np.frombuffer(packed[48 : 48 + 2 * 784 * 6], "<i2").reshape(784, 6)
    assert biases.tolist() == bias.tolist()
    assert (np.abs(integers * scale.astype(float) - weight) <= scale * 0.501).all()
    assert np.abs(integers).max() == 32767


def test_page_takes_white_for_networks_without_rescaling():
    scales = [
        parts_of(page.page_of(model, *FEW, white=white))[0]["layers"][0]["scale"] * 255
        for model, white in [
            (network(), None),
            (network(), 2.0),
            (network(Rescaling(1 / 255), *head(), *tail()), None),
        ]
    ]
    np.testing.assert_allclose(scales, [1, 2, 255])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((FEW[0] / 255, FEW[1]), "expected images of uint8"),
        ((FEW[0][:, :20], FEW[1]), "got uint8 of shape (60, 20, 28)"),
        ((FEW[0][:0], FEW[1][:0]), "got uint8 of shape (0, 28, 28)"),
        ((FEW[0], FEW[1][:5]), "expected 60 digits"),
        ((FEW[0], FEW[1] + 5), "expected 60 digits"),
    ],
)
def test_page_rejects_other_images(arguments, text):
    with pytest.raises(ValueError, match=r"^playground: ") as error:
        page.page_of(network(), *arguments)
    assert text in str(error.value)


@pytest.mark.parametrize("white", [0.0, -1.0, np.nan, np.inf])
def test_page_rejects_white_that_is_no_factor(white):
    with pytest.raises(ValueError, match=r"playground: expected white above 0, got"):
        page.page_of(network(), *FEW, white=white)


# ------------------------------------------------------------------------------ examples


def test_examples_are_hard_and_easy_digits_and_gaps_are_those_of_the_draws():
    model = network(Flatten(), Dense(32, "relu"), Dropout(0.5), Dense(10, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = datasets.mnist_5k.load_data()[0]
    model.fit(x[:1000] / 255, y[:1000], epochs=3, verbose=0)
    images, labels = TEST[0][:200], TEST[1][:200]
    found = parts_of(page.page_of(model, images, labels))[0]["examples"]
    whole, drawn = model.predict(images / 255), model.predict(images / 255, samples=100)
    order = np.argsort(drawn.mutual_information)
    shown = {
        kind: np.frombuffer(base64.b64decode(found[kind]["pixels"]), np.uint8).reshape(-1, 28, 28)
        for kind in ("easy", "hard")
    }
    assert (shown["hard"] == images[order[::-1][:10]]).all()
    assert found["hard"]["labels"] == labels[order[::-1][:10]].tolist()
    correct = [row for row in order if whole[row].argmax() == labels[row]]
    easy = [row for digit in range(10) for row in correct if labels[row] == digit][:1]
    assert (shown["easy"][0] == images[easy[0]]).all()
    assert found["easy"]["labels"] == sorted({int(labels[row]) for row in correct})
    tops = whole.argmax(axis=1)
    gap = (whole - drawn.mean)[np.arange(200), tops].mean()
    assert found["gap"]["mean"] == pytest.approx(gap, abs=1e-5)
    assert 0 < found["gap"]["geometric"] < abs(gap)
    assert found["gap"]["images"] == 200


# ------------------------------------------------------------------------------ the page


def test_page_holds_its_policy_and_scripts_and_names_no_other_place():
    text = page.page_of(network(), *FEW)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert len(scripts) == len(page.SCRIPTS)
    for inline in [style, *scripts]:
        assert page.hashed(inline) in policy
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@[A-Z]+@", text)


def test_sources_of_the_page_fit_on_one_screen_each():
    folder = ROOT / "minidl" / "commands" / "playground"
    sizes = {
        path.name: len(path.read_text().splitlines())
        for path in folder.iterdir()
        if path.suffix in (".js", ".css", ".html")
    }
    assert {f"{name}.js" for name in page.SCRIPTS} == {n for n in sizes if n.endswith(".js")}
    assert max(sizes.values()) <= 450


def test_page_in_docs_is_made_of_these_sources():
    text = (ROOT / "docs" / "playground.html").read_text(encoding="utf-8")
    assert page.assembled(*parts_of(text)) == text, "make it again: see CONTRIBUTING.md"
    assert len(text.encode()) < 1_600_000


# ------------------------------------------------------------------------------ the command


def test_command_writes_the_page(saved, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert command.main([str(saved), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{out}: {out.stat().st_size:,} bytes; open it in a browser\n"
    assert parts_of(out.read_text())[0]["layers"][-1]["units"] == 10


def rejection(capsys, *arguments):
    """Run the command on input that it rejects, and return its one line."""
    try:
        status = command.main(list(map(str, arguments)))
    except SystemExit as error:
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith("minidl.playground: ")
    return printed.err


def test_command_rejects_bad_input(saved, tmp_path, capsys):
    out = tmp_path / "page.html"
    (tmp_path / "text.safetensors").write_text("no network")
    network(*head(), Dense(10, "softmax")).save(tmp_path / "dense.safetensors")
    assert "--out FILE or --serve" in rejection(capsys, saved)
    assert "No such file" in rejection(capsys, tmp_path / "absent.safetensors", "--out", out)
    assert "expected" in rejection(capsys, tmp_path / "text.safetensors", "--out", out)
    assert "does not exist" in rejection(capsys, saved, "--out", tmp_path / "absent" / "page.html")
    assert "--port" in rejection(capsys, saved, "--serve", "--port", "70000")
    assert "--white" in rejection(capsys, saved, "--out", out, "--white", "0")
    dense = rejection(capsys, tmp_path / "dense.safetensors", "--out", out)
    assert "dense.safetensors: expected a network with Dropout" in dense
    assert "playground: expected" not in dense
    assert "expected a name" in rejection(capsys, saved, "--out", "")
    assert not out.exists()


def test_command_keeps_the_model_if_the_page_would_replace_it(saved, tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    model.write_bytes(saved.read_bytes())
    for path in (model, f"{tmp_path}/./model.safetensors"):
        assert "expected a new file" in rejection(capsys, model, "--out", path)
    assert model.read_bytes() == saved.read_bytes()


def test_command_rejects_port_in_use(saved, capsys):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        line = rejection(capsys, saved, "--serve", "--port", port)
    assert f"--port: expected a free port, got {port}: " in line


@pytest.mark.parametrize(("error", "is_printed"), [(BrokenPipeError, False), (KeyError, True)])
def test_server_prints_no_traceback_if_a_connection_is_closed(error, is_printed, capsys):
    with command.PageServer(("127.0.0.1", 0), command.handler_of(b"page")) as server:
        try:
            raise error
        except error:
            server.handle_error(None, ("127.0.0.1", 1))
    assert bool(capsys.readouterr().err) == is_printed


@pytest.mark.slow
def test_command_serves_the_page_to_this_machine_until_interrupted(saved):
    started = subprocess.Popen(
        [sys.executable, "-m", "minidl.playground", str(saved), "--serve", "--port", "0"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        address = re.match(r"(http://127\.0\.0\.1:\d+/) ", started.stdout.readline())[1]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert parts_of(answer.read().decode())[0]["samples"] == 100
        with pytest.raises(urllib.error.HTTPError, match="404") as error:
            urllib.request.urlopen(f"{address}etc/passwd", timeout=30)
        error.value.close()
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 130


def test_train_writes_the_page_beside_the_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda *_: ())  # figures take seconds
    run = ["--data", "mnist-5k", "--epochs", "1", "--hidden", "8", "--dropout", "0.5", "--quiet"]
    assert train.main([*run, "--out", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "playground.html"
    assert f"playground       {path}\n" in capsys.readouterr().out
    assert parts_of(path.read_text())[0]["examples"]["gap"]["images"] == 1000


@pytest.mark.slow
def test_train_says_why_it_writes_no_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda *_: ())  # figures take seconds
    run = ["--data", "mnist-5k", "--epochs", "1", "--hidden", "8", "--dropout", "0.5", "--quiet"]
    run += ["--scaling", "inference", "--out", str(tmp_path / "run")]
    assert train.main(run) == 0
    assert "playground       not written; playground: expected " in capsys.readouterr().out
    assert not (tmp_path / "run" / "playground.html").exists()
