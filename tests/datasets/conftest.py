"""Fixtures for data sets: an independent IDX encoder, mirrors on 127.0.0.1, and a cache."""

import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

TYPE_CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def encode_idx(array):
    magic = bytes([0, 0, TYPE_CODES[array.dtype.name], array.ndim])
    header = magic + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(scope="session")
def encode():
    return encode_idx


class Mirror(ThreadingHTTPServer):
    """HTTP server of `files`, a dictionary; `requests` lists the requested paths.

    A `status` other than 200 is the answer to every request; `cut` closes the connection after that
    many bytes; a `silent` server never answers.
    """

    daemon_threads = True

    def __init__(self, files=(), *, status=200, cut=None, silent=False):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.status = status
        self.cut = cut
        self.requests = []
        self.may_answer = threading.Event()
        if not silent:
            self.may_answer.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.may_answer.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        mirror = self.server
        name = self.path.lstrip("/")
        mirror.requests.append(name)
        mirror.may_answer.wait()
        status = mirror.status if name in mirror.files else 404
        body = mirror.files[name] if status == 200 else b"not found"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: mirror.cut])

    def log_message(self, *arguments):
        """Write nothing."""


@pytest.fixture
def start_mirror(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirrors = []

    def start(*arguments, **options):
        mirrors.append(Mirror(*arguments, **options))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, in a temporary folder."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("pooch.os_cache", lambda project: folder / project)
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    return folder / "minidl"


@pytest.fixture
def small_arrays():
    """Return x_train, y_train, x_test, y_test of 5 and 3 samples."""
    pixels = np.arange(8 * 28 * 28, dtype=np.uint32) * 2654435761 >> 24
    images = pixels.astype(np.uint8).reshape(8, 28, 28)
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.uint8)
    return images[:5], labels[:5], images[5:], labels[5:]
