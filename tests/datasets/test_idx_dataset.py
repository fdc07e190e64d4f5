"""Data sets in IDX files: search, download and checks."""

import gzip
import hashlib
import io
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from minidl.datasets import idx_dataset
from minidl.datasets.idx_dataset import FILES, IdxDataset


@pytest.fixture
def contents(small_arrays, encode):
    """Return the four files' uncompressed content."""
    return {file: encode(array) for file, array in zip(FILES, small_arrays, strict=True)}


@pytest.fixture
def archives(contents):
    return {f"{file}.gz": gzip.compress(content) for file, content in contents.items()}


@pytest.fixture
def hashes(contents, archives):
    return {
        "content_sha256": {
            file: hashlib.sha256(content).hexdigest() for file, content in contents.items()
        },
        "gz_md5": {
            name.removesuffix(".gz"): hashlib.md5(archive).hexdigest()
            for name, archive in archives.items()
        },
    }


@pytest.fixture
def describe(hashes):
    def describe_dataset(*mirrors, check="content_sha256"):
        urls = tuple(getattr(mirror, "url", mirror) for mirror in mirrors)
        return IdxDataset(
            "small", urls, samples=(5, 3), **({check: hashes[check]} if check else {})
        )

    return describe_dataset


@pytest.fixture
def refusing_url():
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound_but_deaf.getsockname()[1]}/"


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check(loaded, small_arrays):
    (x_train, y_train), (x_test, y_test) = loaded
    for array, expected in zip((x_train, y_train, x_test, y_test), small_arrays, strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("compressed", [True, False])
def test_load_reads_the_folder(tmp_path, describe, contents, archives, small_arrays, compressed):
    fill(tmp_path / "small", archives if compressed else contents)
    check(describe().load(tmp_path), small_arrays)
    check(describe().load(str(tmp_path)), small_arrays)


def test_load_rejects_folder_without_the_data_set(
    tmp_path, cache, describe, archives, start_mirror, monkeypatch
):
    fill(cache / "small", archives)
    mirror = start_mirror(archives)
    message = r"small: expected train-images-idx3-ubyte.gz or .* in .*nowhere.*, got neither"
    with pytest.raises(FileNotFoundError, match=message):
        describe(mirror).load(tmp_path / "nowhere")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=message):
        describe(mirror).load()
    del archives["t10k-labels-idx1-ubyte.gz"]
    fill(tmp_path / "small", archives)
    with pytest.raises(FileNotFoundError, match="small: expected t10k-labels-idx1-ubyte"):
        describe(mirror).load(tmp_path)
    assert mirror.requests == []


def test_load_rejects_folder_with_another_file(tmp_path, describe, contents, encode):
    contents["t10k-labels-idx1-ubyte"] = encode(np.array([9, 2, 7], np.uint8))
    fill(tmp_path / "small", contents)
    message = rf"{tmp_path / 'small'}.t10k-labels-idx1-ubyte: expected .* SHA-256 \w+, got \w+"
    with pytest.raises(ValueError, match=message):
        describe().load(tmp_path)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train-labels", np.zeros(4, np.uint8), r"of shape \(5,\), got uint8 of \(4,\)"),
        ("train-labels", np.zeros(6, np.uint8), "at most 5 bytes"),
        ("train-labels", np.zeros(5, np.int8), "of shape .*, got int8"),
        ("t10k-labels", np.array([1, 10, 2], np.uint8), "labels below 10, got 10"),
        ("t10k-images", np.zeros((3, 14, 56), np.uint8), r"got uint8 of \(3, 14, 56"),
    ],
)
def test_load_without_hash_checks_shapes_dtypes_and_labels(
    tmp_path, describe, contents, encode, file, array, message
):
    (name,) = (name for name in FILES if name.startswith(file))
    contents[name] = encode(array)
    fill(tmp_path / "small", contents)
    # The MD5 is that of the published archives; a folder may hold others.
    with pytest.raises(ValueError, match=f"{tmp_path / 'small' / name}: expected .*{message}"):
        describe(check="gz_md5").load(tmp_path)


def test_load_searches_argument_environment_cache_and_mirror(
    tmp_path, cache, describe, contents, archives, small_arrays, encode, start_mirror, monkeypatch
):
    def variant(pixel):
        images = np.full((5, 28, 28), pixel, np.uint8)
        return contents | {"train-images-idx3-ubyte": encode(images)}

    def first_pixel(data_dir=None):
        return dataset.load(data_dir)[0][0][0, 0, 0]

    mirror = start_mirror(archives)
    dataset = describe(mirror, check=None)
    fill(tmp_path / "argument" / "small", variant(11))
    fill(tmp_path / "environment" / "small", variant(22))
    fill(cache / "small", {f"{file}.gz": content for file, content in variant(33).items()})
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "environment"))
    assert first_pixel(tmp_path / "argument") == 11
    assert first_pixel() == 22
    monkeypatch.setenv("MINIDL_DATA", "")
    assert first_pixel() == 33
    assert mirror.requests == []
    for path in (cache / "small").iterdir():
        path.unlink()
    check(dataset.load(), small_arrays)
    assert mirror.requests == list(archives)


# ------------------------------------------------------------------------------ downloads


def test_load_caches_downloads(
    cache, describe, archives, small_arrays, start_mirror, capfd, caplog
):
    caplog.set_level("WARNING", "minidl")  # the training command sets INFO
    mirror = start_mirror(archives)
    check(describe(mirror).load(), small_arrays)
    assert mirror.requests == list(archives)
    assert names_in(cache / "small") == sorted(archives)
    check(describe(mirror).load(), small_arrays)
    assert mirror.requests == list(archives)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_download_shows_progress_in_a_terminal(
    cache, describe, archives, start_mirror, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    describe(start_mirror(archives)).load()
    assert "100%" in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"status": 404}, "404 Client Error"),
        ({"status": 500}, "500 Server Error"),
        ({"cut": 10}, "IncompleteRead"),
        pytest.param({"silent": True}, "Read timed out", marks=pytest.mark.slow),
    ],
)
def test_download_tries_the_next_mirror_after_a_failure(
    cache, describe, archives, small_arrays, start_mirror, monkeypatch, options, reason
):
    monkeypatch.setattr(idx_dataset, "READ_SECONDS", 0.2)
    bad, good = start_mirror(archives, **options), start_mirror(archives)
    with pytest.raises(OSError, match=reason):
        describe(bad).load()
    assert names_in(cache / "small") == []
    assert len(bad.requests) == 1  # no retries
    check(describe(bad, good).load(), small_arrays)
    assert good.requests == list(archives)
    assert names_in(cache / "small") == sorted(archives)


def test_download_tries_the_next_mirror_after_a_refused_connection(
    cache, describe, archives, small_arrays, start_mirror, refusing_url
):
    check(describe(refusing_url, start_mirror(archives)).load(), small_arrays)


@pytest.mark.parametrize("kind", ["content_sha256", "gz_md5"])
def test_download_tries_the_next_mirror_after_other_files(
    cache, describe, archives, contents, small_arrays, start_mirror, kind
):
    name = "train-labels-idx1-ubyte.gz"
    other_content = contents["train-labels-idx1-ubyte"][:-1] + b"\0"
    other = start_mirror(archives | {name: gzip.compress(other_content)})
    good = start_mirror(archives)
    with pytest.raises(OSError, match=r"expected .*(SHA-256|MD5) \w+, got \w+"):
        describe(other, check=kind).load()
    assert names_in(cache / "small") == ["train-images-idx3-ubyte.gz"]
    check(describe(other, good, check=kind).load(), small_arrays)
    assert good.requests == [name]


def test_download_accepts_recompressed_files_of_known_content(
    cache, describe, contents, small_arrays, start_mirror
):
    anew = {f"{file}.gz": gzip.compress(data, 1, mtime=7) for file, data in contents.items()}
    check(describe(start_mirror(anew)).load(), small_arrays)


def test_download_lists_the_errors_of_all_mirrors(
    cache, describe, archives, start_mirror, refusing_url
):
    mirrors = start_mirror(status=404), start_mirror({"train-images-idx3-ubyte.gz": b"<html>"})
    with pytest.raises(OSError, match="small: expected train-images-idx3") as error:
        describe(*mirrors, refusing_url).load()
    first, second, third, *advice = error.value.__notes__
    assert first.strip().startswith(f"{mirrors[0].url}: 404 Client Error")
    assert second.strip().startswith(f"{mirrors[1].url}: ")
    assert "expected an IDX file, which starts with bytes 00 00, got b'<htm'" in second
    assert re.fullmatch(rf"{refusing_url}: Failed to .*Connection refused.*", third.strip())
    for part in ("mnist_5k", "DIR/small", "data_dir", "--data-dir", "MINIDL_DATA", *archives):
        assert part in "\n".join(advice)
    # The first file that no mirror delivers ends the search.
    assert [mirror.requests for mirror in mirrors] == [["train-images-idx3-ubyte.gz"]] * 2
    assert names_in(cache / "small") == []


def test_load_replaces_damaged_files_in_the_cache(
    cache, describe, archives, small_arrays, start_mirror, caplog
):
    caplog.set_level("WARNING", "minidl")  # the training command sets INFO
    name = "t10k-images-idx3-ubyte.gz"
    fill(cache / "small", archives | {name: archives[name][:-20]})
    with pytest.raises(OSError, match=f"small: expected {name} from a mirror"):
        describe().load()
    assert (cache / "small" / name).exists()
    caplog.clear()
    mirror = start_mirror(archives)
    check(describe(mirror).load(), small_arrays)
    assert mirror.requests == [name]
    assert (cache / "small" / name).read_bytes() == archives[name]
    (message,) = caplog.messages
    assert message.startswith("small: ")
    assert f"{name}: expected an intact gzip file" in message
    assert "Downloading" in message


def test_download_from_invalid_urls_raises_os_error(cache, describe):
    with pytest.raises(OSError, match="small: expected train-images-idx3"):
        describe("http://[not a url/", "ftp://127.0.0.1/", "nothing").load()


def test_import_of_datasets_imports_no_downloader():
    program = "import minidl.datasets, sys; sys.exit(bool({'pooch', 'requests'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], check=True)
