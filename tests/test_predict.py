"""Predictions: Monte-Carlo dropout in the library, and the command that classifies images."""

import gzip
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from minidl import datasets, images, layers, models, rng
from minidl.commands import predict

ROOT = Path(__file__).parent.parent


# ------------------------------------------------------------------------------ model.predict


def probabilities(rate=0.5, device="cpu", **dropout):
    stack = [layers.Dense(16, "relu"), layers.Dropout(rate, **dropout), layers.Dense(3, "softmax")]
    return models.Sequential([layers.Input((4,)), *stack], seed=7, device=device)


X = np.random.default_rng(0).normal(size=(11, 4)).astype("float32")


def test_the_draws_are_those_of_the_contract(device):
    model = models.Sequential([layers.Input((6,)), layers.Dropout(0.3)], seed=5, device=device)
    found = model.predict(np.ones((9, 6)), batch_size=4, samples=3)
    masks = [rng.keep_mask((9, 6), 0.3, seed=5, stream=2**30, step=sample) for sample in range(3)]
    outputs = np.array(masks) * np.float64(np.float32(1 / 0.7))
    np.testing.assert_allclose(found.mean, outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, outputs.std(axis=0), rtol=1e-6, atol=1e-15)
    assert found.predictive_entropy is found.mutual_information is None


def test_a_second_layer_draws_from_its_own_stream():
    stack = [layers.Dropout(0.5), layers.Dropout(0.5)]
    model = models.Sequential([layers.Input((6,)), *stack], seed=5)
    found = model.predict(np.ones((9, 6)), samples=1)
    masks = [rng.keep_mask((9, 6), 0.5, seed=5, stream=2**30 + n, step=0) for n in (0, 1)]
    assert np.array_equal(found.mean > 0, masks[0] & masks[1])


def test_the_numbers_are_those_of_the_formulas():
    model = probabilities()
    single = []
    for sample in range(40):
        with rng.monte_carlo(sample=sample, row_offset=0):
            single.append(model(X).numpy().astype("float64"))
    p = np.array(single)

    def entropy(q):
        return -(q * np.log(q)).sum(axis=-1)

    found = model.predict(X, samples=40)
    np.testing.assert_allclose(found.mean, p.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, p.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.predictive_entropy, entropy(p.mean(axis=0)), rtol=1e-6)
    information = entropy(p.mean(axis=0)) - entropy(p).mean(axis=0)
    np.testing.assert_allclose(found.mutual_information, information, rtol=1e-4, atol=1e-7)
    assert all(part.dtype == np.float32 for part in found)
    assert (found.mutual_information > 0).all()


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_the_batch_size_changes_nothing_but_the_rounding(batch_size, device):
    expected = probabilities().predict(X, samples=8)
    found = probabilities(device=device).predict(X, batch_size=batch_size, samples=8)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_other_seeds_draw_otherwise():
    model, other = probabilities(), probabilities(seed=8)
    other.set_weights(model.get_weights())
    assert np.abs(model.predict(X, samples=8).mean - other.predict(X, samples=8).mean).max() > 1e-3


def test_without_dropout_the_network_is_sure_of_itself():
    found = probabilities(rate=0).predict(X, samples=3)
    assert np.array_equal(found.mean, probabilities(rate=0).predict(X))
    assert not found.std.any()
    assert found.mutual_information.max() < 1e-15
    assert (found.predictive_entropy > 0).all()


def test_dropout_that_scales_in_inference_only_drops():
    model = models.Sequential([layers.Input((6,)), layers.Dropout(0.5, scaling="inference")])
    assert set(model.predict(np.ones((9, 6)), samples=1).mean.flat) == {0.0, 1.0}
    assert set(model.predict(np.ones((9, 6))).flat) == {0.5}


def test_training_is_not_disturbed():
    one, other = probabilities(), probabilities()
    y = np.arange(11) % 3
    for model in (one, other):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(X, y, epochs=1, batch_size=4, verbose=0)
    before = repr(one.layers[1])
    one.predict(X, samples=5)
    assert repr(one.layers[1]) == before
    for model in (one, other):
        model.fit(X, y, epochs=1, batch_size=4, verbose=0)
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_memory_does_not_grow_with_the_number_of_draws():
    model = probabilities()
    x = np.ones((2000, 4), "float32")

    def peak(samples):
        model.predict(x, batch_size=500, samples=samples)
        tracemalloc.start()
        model.predict(x, batch_size=500, samples=samples)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(60) < 1.2 * peak(3)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_a_number_of_draws_that_is_none_is_refused(samples):
    with pytest.raises(ValueError, match="predict: samples must be a positive integer, received"):
        probabilities().predict(X, samples=samples)


# ------------------------------------------------------------------------------ images


pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
DIGIT = datasets.mnist_5k.load_data()[1][0][0]


def picture(path, pixels=DIGIT, mode=None, **options):
    pillow.fromarray(pixels).convert(mode or "L").save(path, **options)
    return path


@pytest.mark.parametrize("name", ["x.png", "misnamed.jpg"])
def test_a_png_is_read_as_it_is(name, tmp_path):
    found = images.read(picture(tmp_path / name, format="PNG"), (28, 28))
    assert found.dtype == np.uint8
    assert np.array_equal(found, DIGIT[None])


def test_a_jpeg_is_read_with_its_losses(tmp_path):
    found = images.read(picture(tmp_path / "x.jpg", quality=100), (28, 28))
    assert np.abs(found[0].astype(int) - DIGIT).max() < 10


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_colours_become_brightness(mode, tmp_path):
    black_and_white = np.where(DIGIT > 127, 255, 0).astype("uint8")
    found = images.read(picture(tmp_path / "x.png", black_and_white, mode), (28, 28))
    assert np.array_equal(found[0], black_and_white)


def test_dark_ink_is_inverted_where_asked_and_glass_is_paper(tmp_path):
    path = picture(tmp_path / "x.png", 255 - DIGIT)
    assert np.array_equal(images.read(path, (28, 28), invert=True)[0], DIGIT)
    ink = np.zeros((28, 28, 4), "uint8")  # black ink on glass
    ink[..., 3] = DIGIT
    pillow.fromarray(ink).save(tmp_path / "glass.png")
    found = images.read(tmp_path / "glass.png", (28, 28), invert=True)[0]
    assert np.abs(found.astype(int) - DIGIT).max() <= 1


def test_a_photo_is_turned_as_viewers_show_it(tmp_path):
    turned = pillow.Exif()
    turned[274] = 6  # the tag of the orientation: turn it clockwise by a quarter to view it
    stored = np.rot90(DIGIT)
    assert not np.array_equal(stored, DIGIT)
    path = picture(tmp_path / "x.png", stored, exif=turned)
    assert np.array_equal(images.read(path, (28, 28))[0], DIGIT)


def test_another_size_is_resized(tmp_path):
    large = np.kron(DIGIT, np.ones((4, 4), "uint8"))
    found = images.read(picture(tmp_path / "x.png", large), (28, 28))
    assert np.array_equal(found[0], DIGIT)
    assert images.read(picture(tmp_path / "y.png"), (14, 20)).shape == (1, 14, 20)


def idx_file(path, array, compress=False):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


def test_arrays_are_one_sample_or_several(tmp_path):
    several = np.stack([DIGIT, 255 - DIGIT])
    for array, expected in ((DIGIT, DIGIT[None]), (several, several)):
        np.save(tmp_path / "x.npy", array)
        paths = [tmp_path / "x.npy", idx_file(tmp_path / "x.idx", array)]
        paths.append(idx_file(tmp_path / "x.gz", array, compress=True))
        for path in paths:
            assert np.array_equal(images.read(path, (28, 28)), expected)
    np.save(tmp_path / "float.npy", DIGIT / 255)
    assert images.read(tmp_path / "float.npy", (28, 28)).dtype == np.float64


def npy(shape, descr="<f8", content=b""):
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    head += b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


LONGDOUBLE = np.dtype("longdouble")  # a double in disguise on some systems


def png(width, height):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PNG, JPEG, IDX or NPY file, found b''"),
        (b"GIF89a", "expected a PNG, JPEG, IDX or NPY file"),
        (b"\x89PNG\r\n\x1a\n", "expected an intact image .* found"),
        (b"\xff\xd8\xff\xe0 and so on", "expected an intact image .* found"),
        (png(28, 28), "expected an intact image .* found"),
        (png(2**31 - 1, 2**31 - 1), "expected an intact image .* found: .*pixels"),
        (png(5000, 5000), r"at most 16,777,216 pixels, found: \(5000, 5000\) pixels"),
        (b"\0\0\x08\x01\0\0", "expected 4 bytes for 1 dimensions, found 2"),
        (b"\x93NUMPY", "expected an intact NPY file, found"),
        (npy((2**40,)), "expected an intact NPY file, found"),
        (npy((2, 28, 28), "|O"), "expected an intact NPY file, found"),
        (npy((28, 28), "|S1", b"x" * 784), "expected integers, bool, or floats .* found"),
        (npy((28, 28), "<c8", bytes(8 * 784)), "expected integers, .* found complex64"),
        *(
            [(npy((28, 28), LONGDOUBLE.str, bytes(784 * LONGDOUBLE.itemsize)), "of 16, 32 or 64")]
            if LONGDOUBLE.itemsize > 8
            else []
        ),
        (npy((28, 27), "|u1", b"x" * 756), r"samples of shape \(28, 28\), found an array of shape"),
        (npy((0, 28, 28), "|u1", b""), "expected an intact NPY file|found an array of shape"),
        (npy((1,), "|u1").replace(b"(1,)", b"(" * 4), "expected an intact NPY file, found"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        images.read(tmp_path / "x", (28, 28))


def test_pictures_that_say_too_much_are_refused(tmp_path):
    pillow.fromarray(np.full((28, 28), 40_000, "uint16")).save(tmp_path / "x.png")
    with pytest.raises(
        ValueError, match=r"of 8 bits a channel .*: 16 bits or more; convert it to 8"
    ):
        images.read(tmp_path / "x.png", (28, 28))
    with pytest.raises(ValueError, match=r"samples of shape \(784,\), which are no images"):
        images.read(picture(tmp_path / "y.png"), (784,))


def test_pictures_need_pillow_and_arrays_do_not(tmp_path, monkeypatch):
    path = picture(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", DIGIT)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'minidl\[images\]'"):
        images.read(path, (28, 28))
    assert images.read(tmp_path / "x.npy", (28, 28)).shape == (1, 28, 28)


# ------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a network that knows some digits."""
    (x, y), _ = datasets.mnist_5k.load_data()
    stack = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(32, "relu")]
    stack += [layers.Dropout(0.3), layers.Dense(10, "softmax")]
    model = models.Sequential([layers.Input((28, 28)), *stack], seed=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path, model


def test_the_command_prints_a_line_an_image(saved, tmp_path, capsys):
    path, model = saved
    _, (x, y) = datasets.mnist_5k.load_data()
    np.save(tmp_path / "many.npy", x[1:4])
    files = [str(picture(tmp_path / "one.png", x[0])), str(tmp_path / "many.npy")]
    assert predict.main([str(path), *files]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "probability"]
    expected = model.predict(x[:4])
    names = [files[0], *(f"{files[1]}[{n}]" for n in range(3))]
    for line, name, row in zip(lines, names, expected, strict=True):
        assert line.split() == [name, str(row.argmax()), f"{row.max():.2%}"]
    assert (expected.argmax(axis=1) == y[:4]).mean() >= 0.75


def test_the_command_says_how_sure_it_is(saved, tmp_path, capsys):
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
    ]
    found = model.predict(x, samples=20)
    for row, line in enumerate(lines):
        best = found.mean[row].argmax()
        assert line.split()[1:] == [
            str(best),
            f"{found.mean[row, best]:.2%}",
            f"{found.std[row, best]:.4f}",
            f"{found.predictive_entropy[row]:.4f}",
            f"{found.mutual_information[row]:.4f}",
        ]


def refusal(capsys, *arguments):
    assert predict.main([str(argument) for argument in arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("minidl.predict: ")
    assert written.err.count("\n") == 1
    return written.err


def test_bad_input_ends_in_one_line(saved, tmp_path, capsys):
    path, _ = saved
    image = picture(tmp_path / "x.png")
    (tmp_path / "bad").write_bytes(b"bad")
    for arguments in ((tmp_path / "missing", image), (path, image, tmp_path / "missing")):
        expected = f"minidl.predict: {tmp_path / 'missing'}: No such file or directory\n"
        assert refusal(capsys, *arguments) == expected
    assert "expected a safetensors file" in refusal(capsys, tmp_path / "bad", image)
    assert "expected a PNG, JPEG, IDX or NPY" in refusal(capsys, path, image, tmp_path / "bad")
    assert 'expected "cpu"' in refusal(capsys, path, image, "--device", "tpu")
    ends = {
        "scores": [layers.Dense(10)],
        "one": [layers.Dense(1, "sigmoid", kernel_initializer="zeros"), layers.Rescaling(2.0)],
        "pair": [layers.Dense(2, "sigmoid", kernel_initializer="zeros")],  # 0.5 and 0.5
    }
    message = "the outputs of the network in it are no probabilities of classes"
    for name, end in ends.items():
        network = models.Sequential([layers.Input((28, 28)), layers.Flatten(), *end])
        network.save(tmp_path / f"{name}.safetensors")
        assert message in refusal(capsys, tmp_path / f"{name}.safetensors", image, "--samples", "2")
        if name != "pair":  # which cannot be told from a softmax by one output
            assert message in refusal(capsys, tmp_path / f"{name}.safetensors", image)
    models.Sequential([layers.Dense(10)]).save(tmp_path / "new.safetensors")
    assert "was never built" in refusal(capsys, tmp_path / "new.safetensors", image)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", ">f4", ">f8", ">i2"])
def test_arrays_of_every_common_dtype_are_predicted_on(dtype, saved, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((2, 28, 28), dtype))
    assert predict.main([str(saved[0]), str(tmp_path / "x.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_an_image_that_holds_no_numbers_is_named(value, saved, tmp_path, capsys):
    x = np.zeros((3, 28, 28))
    x[1, 2, 3] = value
    np.save(tmp_path / "x.npy", x)
    message = refusal(capsys, saved[0], tmp_path / "x.npy")
    assert f"{tmp_path / 'x.npy'}[1]: holds NaN, infinity, or numbers too large for" in message
    assert "float32" in message


def test_weights_and_outputs_that_are_not_finite_are_named(saved, tmp_path, capsys):
    model = models.load(saved[0])
    large = [weight * np.float32(1e19) for weight in model.get_weights()]
    model.set_weights(large)
    model.save(tmp_path / "large.safetensors")
    np.save(tmp_path / "x.npy", np.full((28, 28), 1e25))
    with np.errstate(all="ignore"):
        message = refusal(capsys, tmp_path / "large.safetensors", tmp_path / "x.npy")
    assert f"{tmp_path / 'x.npy'}: the outputs of the network in {tmp_path / 'large'}" in message
    assert "are NaN or infinite" in message
    large[-1][:] = np.nan
    model.set_weights(large)
    model.save(tmp_path / "nan.safetensors")
    message = refusal(capsys, tmp_path / "nan.safetensors", tmp_path / "x.npy")
    assert f"{tmp_path / 'nan.safetensors'}: weights in it are NaN or infinite" in message


STRANGE = [b"x\xff.png", b"x\x1b[31m\n.png", "grün\u200b.png".encode()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_cannot_be_printed_are_escaped(name, encoding, saved, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.replace(picture(tmp_path / "x.png"), path)
    paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    for model, status in ((os.fsencode(saved[0]), 0), (path, 2)):  # the name in a line, an error
        result = subprocess.run(
            [sys.executable, "-m", "minidl.predict", model, path],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert result.returncode == status, result.stderr
        written = result.stdout + result.stderr
        assert written.count(b"\n") == 2 - status // 2
        assert b"\x1b" not in written
        assert re.search(rb"x\\udcff|x\\x1b\[31m|gr.*\\u200b", written), written


def test_ctrl_c_ends_with_130(saved, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "load", interrupted)
    assert predict.main([str(saved[0]), "x.png"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another error for it")
def test_a_reader_of_the_table_may_leave(saved, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "minidl.predict", saved[0], picture(tmp_path / "x.png")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("samples", ["0", "1.5", "many", str(2**32 + 1)])
def test_bad_arguments_end_in_one_line(samples, capsys):
    with pytest.raises(SystemExit) as error:
        predict.main(["model", "image", "--samples", samples])
    assert error.value.code == 2
    assert "argument --samples: expected a whole number at least 1" in capsys.readouterr().err


def test_it_runs_as_a_module(saved, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "minidl.predict", saved[0], picture(tmp_path / "x.png")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
