"""What all tests share: the devices they run on, and a compiler cache that is never stale."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent / "kernels"


def _cache_folder() -> str:
    """Return a folder for compiled kernels that changes with any of their sources.

    Numba sees a change in the file of a kernel, but not in the files that the kernel calls.
    """
    sources = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*.py")):
        sources.update(path.read_bytes())
    return os.path.join(tempfile.gettempdir(), f"minidl-kernels-{sources.hexdigest()[:16]}")


os.environ["NUMBA_CACHE_DIR"] = _cache_folder()  # before Numba is imported


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of devices."""
    parser.addoption(
        "--device",
        action="append",
        help="run the cross-backend tests on this device (may be repeated; default: cpu)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `device` once on each device that was chosen."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.getoption("--device") or ["cpu"])


@pytest.fixture
def backend(device):
    """Return the backend of the device; one that was asked for and is not there is an error."""
    from minidl import get_backend

    return get_backend(device)
