"""The prediction command: its table, and errors in one line."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_runs import environment, rejection
from streams import STREAMS

from minidl import datasets, images, layers, models
from minidl.commands import predict

pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
DIGIT = datasets.mnist_5k.load_data()[1][0][0]


def picture(path, pixels=DIGIT):
    pillow.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the file of a network that recognises some digits, and the network."""
    (x, y), _ = datasets.mnist_5k.load_data()
    stack = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(32, "relu")]
    stack += [layers.Dropout(0.3), layers.Dense(10, "softmax")]
    model = models.Sequential([layers.Input((28, 28)), *stack], seed=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path, model


def test_predict_prints_a_line_for_each_image(saved, tmp_path, capsys):
    path, model = saved
    _, (x, y) = datasets.mnist_5k.load_data()
    np.save(tmp_path / "many.npy", x[1:4])
    files = [str(picture(tmp_path / "one.png", x[0])), str(tmp_path / "many.npy")]
    assert predict.main([str(path), *files]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "probability", "second", "third"]
    expected = model.predict(np.concatenate([images.prepare(x[0]), x[1:4]]))
    names = [files[0], *(f"{files[1]}[{n}]" for n in range(3))]
    for line, name, row in zip(lines, names, expected, strict=True):
        best, second, third = np.argsort(row)[:-4:-1]
        top = [str(best), f"{row[best]:.2%}", str(second), f"{row[second]:.2%}"]
        assert line.split()[:7] == [name, *top, str(third), f"{row[third]:.2%}"]
    assert (expected.argmax(axis=1) == y[:4]).mean() >= 0.75


def test_predict_with_samples_prints_the_uncertainty(saved, tmp_path, capsys):
    path, model = saved
    x = datasets.mnist_5k.load_data()[1][0][:5]
    np.save(tmp_path / "x.npy", x)
    assert predict.main([str(path), str(tmp_path / "x.npy"), "--samples", "20"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "image",
        "class",
        "probability",
        "std",
        "entropy",
        "mutual",
        "information",
        "second",
        "third",
    ]
    found = model.predict(x, samples=20)
    for row, line in enumerate(lines):
        best = found.mean[row].argmax()
        assert line.split()[1:6] == [
            str(best),
            f"{found.mean[row, best]:.2%}",
            f"{found.std[row, best]:.4f}",
            f"{found.predictive_entropy[row]:.4f}",
            f"{found.mutual_information[row]:.4f}",
        ]


def test_predict_with_no_prepare_only_resizes(saved, tmp_path, capsys):
    path, model = saved
    image = picture(tmp_path / "x.png", 255 - DIGIT)
    for options, expected in (((), 255 - DIGIT), (("--invert",), DIGIT)):
        assert predict.main([str(path), str(image), "--no-prepare", *options]) == 0
        line = capsys.readouterr().out.splitlines()[1]
        assert line.split()[2] == f"{model.predict(expected[None]).max():.2%}"


def test_predict_reads_the_digits_of_a_sheet_and_shows_them(saved, tmp_path, capsys):
    sheet = picture(
        tmp_path / "x.png", np.pad(255 - np.hstack([DIGIT] * 3), 9, constant_values=255)
    )
    shown = tmp_path / "seen.png"
    assert predict.main([str(saved[0]), str(sheet), "--show", str(shown)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [f"{sheet}[{n}]" for n in range(3)]
    seen = np.asarray(pillow.open(shown))
    assert seen.shape == (4 * 30, 4 * 90)
    assert np.array_equal(seen[4:116:4, 4:116:4], images.prepare(sheet)[0])


@pytest.mark.parametrize(("limit", "is_marked"), [(0.0, True), (10.0, False)])
def test_predict_marks_unsure_images(limit, is_marked, saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "UNSURE", limit)
    for options, note in (
        ((), "unsure, or no digit"),
        (("--no-prepare", "--samples", "9"), "unsure"),
    ):
        image = picture(tmp_path / "x.png", DIGIT)
        assert predict.main([str(saved[0]), str(image), *options]) == 0
        line = capsys.readouterr().out.splitlines()[1]
        assert line.endswith(f"%  {note}") is is_marked


def test_predict_rejects_a_blank_page(saved, tmp_path, capsys):
    blank = picture(tmp_path / "x.png", np.full((50, 50), 255, "uint8"))
    line = rejection(predict, capsys, saved[0], blank)
    assert f"{blank}: expected a drawn digit, found no ink" in line


def test_predict_rejects_a_preview_that_it_cannot_write(saved, tmp_path, capsys):
    image = picture(tmp_path / "x.png")
    content = image.read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(image)
    for path in (image, f"{tmp_path}/./x.png", link):
        assert "expected a new file" in rejection(predict, capsys, saved[0], image, "--show", path)
        assert image.read_bytes() == content
    missing = tmp_path / "missing" / "x.png"
    assert str(missing.parent) in rejection(predict, capsys, saved[0], image, "--show", missing)
    models.Sequential([layers.Input((4,)), layers.Dense(3, "softmax")]).save(
        tmp_path / "m.safetensors"
    )
    np.save(tmp_path / "x.npy", np.zeros((2, 4)))
    arguments = (tmp_path / "m.safetensors", tmp_path / "x.npy", "--show", tmp_path / "y.png")
    assert "expected images of 2 dimensions" in rejection(predict, capsys, *arguments)


def test_predict_rejects_missing_files(saved, tmp_path, capsys):
    image, missing = picture(tmp_path / "x.png"), tmp_path / "missing.safetensors"
    for arguments in ((missing, image), (saved[0], image, missing)):
        expected = f"minidl.predict: {missing}: No such file or directory\n"
        assert rejection(predict, capsys, *arguments) == expected


def test_predict_rejects_files_of_other_formats(saved, tmp_path, capsys):
    image, bad = picture(tmp_path / "x.png"), tmp_path / "bad.safetensors"
    bad.write_bytes(b"bad")
    assert f"{bad}: expected a safetensors file" in rejection(predict, capsys, bad, image)
    assert f"{bad}: expected a PNG, JPEG, IDX or NPY" in rejection(
        predict, capsys, saved[0], image, bad
    )
    assert f"{image}: expected a file name that ends in .safetensors" in rejection(
        predict, capsys, image, image
    )


def test_predict_rejects_unknown_device(saved, tmp_path, capsys):
    line = rejection(predict, capsys, saved[0], picture(tmp_path / "x.png"), "--device", "tpu")
    assert 'expected "cpu"' in line
    assert "tpu" in line


@pytest.mark.parametrize("samples", [(), ("--samples", "2")])
@pytest.mark.parametrize(
    "ending",
    [
        (layers.Dense(10),),
        (layers.Dense(1, "sigmoid", kernel_initializer="zeros"), layers.Rescaling(2.0)),
        (layers.Dense(2, "sigmoid", kernel_initializer="zeros"),),  # 0.5 and 0.5
    ],
    ids=["scores", "one", "pair"],
)
def test_predict_rejects_networks_without_probabilities(ending, samples, tmp_path, capsys):
    network = models.Sequential([layers.Input((28, 28)), layers.Flatten(), *ending])
    network.save(tmp_path / "x.safetensors")
    arguments = (tmp_path / "x.safetensors", picture(tmp_path / "x.png"), *samples)
    if ending[0].units == 2 and not samples:  # one output looks like one of a softmax
        assert predict.main([str(argument) for argument in arguments]) == 0
    else:
        message = f"{tmp_path / 'x.safetensors'}: expected probabilities of classes"
        assert message in rejection(predict, capsys, *arguments)


def test_predict_rejects_networks_that_are_not_built(tmp_path, capsys):
    models.Sequential([layers.Dense(10)]).save(tmp_path / "new.safetensors")
    line = rejection(predict, capsys, tmp_path / "new.safetensors", picture(tmp_path / "x.png"))
    assert f"{tmp_path / 'new.safetensors'}: expected a built network" in line


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", ">f4", ">f8", ">i2"])
def test_predict_accepts_common_dtypes(dtype, saved, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((2, 28, 28), dtype))
    assert predict.main([str(saved[0]), str(tmp_path / "x.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_predict_names_an_image_with_invalid_numbers(value, saved, tmp_path, capsys):
    x = np.zeros((3, 28, 28))
    x[1, 2, 3] = value
    np.save(tmp_path / "x.npy", x)
    message = rejection(predict, capsys, saved[0], tmp_path / "x.npy")
    assert f"{tmp_path / 'x.npy'}[1]: expected finite numbers" in message
    assert "float32" in message


def test_predict_names_the_files_of_outputs_that_are_not_finite(saved, tmp_path, capsys):
    model = models.load(saved[0])
    large = [weight * np.float32(1e19) for weight in model.get_weights()]
    model.set_weights(large)
    model.save(tmp_path / "large.safetensors")
    np.save(tmp_path / "x.npy", np.full((28, 28), 1e25))
    with np.errstate(all="ignore"):
        message = rejection(predict, capsys, tmp_path / "large.safetensors", tmp_path / "x.npy")
    expected = f"{tmp_path / 'x.npy'}: expected finite outputs of the network in {tmp_path}"
    assert f"{expected}/large" in message
    large[-1][:] = np.nan
    model.set_weights(large)
    model.save(tmp_path / "nan.safetensors")
    with np.errstate(all="ignore"):
        message = rejection(predict, capsys, tmp_path / "nan.safetensors", tmp_path / "x.npy")
    assert f"{expected}/nan" in message


STRANGE = {
    b"x\xff.png": r"x\udcff.png",
    b"x\x1b[31m\n.png": r"x\x1b[31m\n.png",
    "gr\u00fcn\u200b.png".encode(): r"gr\u00fcn\u200b.png".replace(r"\u00fc", "\u00fc"),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems reject such names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_predict_escapes_names_that_cannot_be_printed(encoding, saved, tmp_path):
    program = """
import sys
from minidl import predict
model, *paths = sys.argv[1:]
for path in paths:
    assert predict.main([model, path]) == 0  # the name is in a line
    print(flush=True)
    assert predict.main([path, path]) == 2  # and in an error
    print(file=sys.stderr, flush=True)
"""
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in STRANGE]
    for path in paths:
        os.replace(picture(tmp_path / "x.png"), path)
    result = subprocess.run(
        [sys.executable, "-c", program, os.fsencode(saved[0]), *paths],
        env=environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"\x1b" not in result.stdout + result.stderr
    names = [rb"x\\udcff", rb"x\\x1b\[31m", rb"gr.*\\u200b"]
    for written, lines in ((result.stdout, 2), (result.stderr, 1)):
        parts = written.split(b"\n\n")[:-1]
        for name, part in zip(names, parts, strict=True):
            assert part.count(b"\n") == lines - 1
            assert re.search(name, part), part


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reject such names")
@pytest.mark.parametrize(("name", "printed"), STRANGE.items())
def test_table_and_errors_escape_names(name, printed, saved, tmp_path, capsys):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    os.replace(picture(tmp_path / "x.png"), path)
    assert predict.main([str(saved[0]), path]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{tmp_path / printed}  ")
    in_one_line = printed.replace("\\n", " ")
    assert f"minidl.predict: {tmp_path / in_one_line}: " in rejection(predict, capsys, path, path)


@pytest.mark.parametrize("name", STREAMS)
def test_stream_decides_the_exit_status(name, saved, tmp_path, monkeypatch):
    path = picture(tmp_path / "模.png")
    monkeypatch.setattr(sys, "stdout", STREAMS[name]())
    status = predict.main([str(saved[0]), str(path)])
    assert status == {"broken pipe": 1, "full disk": 2, "read only": 2}.get(name, 0)


def test_predict_returns_130_after_ctrl_c(saved, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "load", interrupt)
    assert predict.main([str(saved[0]), "x.png"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM between processes")
def test_predict_returns_143_after_sigterm(saved, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(predict, "predict", lambda _: signal.raise_signal(signal.SIGTERM))
    assert predict.main([str(saved[0]), "x.png"]) == 143
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows raises another error")
def test_predict_returns_1_if_its_output_is_closed(saved, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "minidl.predict", saved[0], picture(tmp_path / "x.png")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("samples", ["0", "1", "1.5", "many", str(2**32 + 1)])
def test_command_rejects_invalid_samples(samples, capsys):
    with pytest.raises(SystemExit) as error:
        predict.main(["model", "image", "--samples", samples])
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("minidl.predict: argument --samples: expected an integer from 2 ")
    assert repr(samples) in line
    assert line.count("\n") == 1


def test_predict_runs_as_a_module(saved, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "minidl.predict", saved[0], picture(tmp_path / "x.png")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
