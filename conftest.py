"""What all tests share: the devices they run on, and a compiler cache that is never stale."""

import gc
import hashlib
import os
import signal
import sys
import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
KERNELS = ROOT / "kernels"

# cuda_double, ptxrun, op_table, layer_table
sys.path += [str(ROOT / "tests" / folder) for folder in ("", "ptx", "engine", "layers")]

NEEDED_BY_THE_DOUBLE = ("cupy", "numba_cuda")


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
        help="run the cross-backend tests on this device: cpu, cuda-double (the CUDA backend over "
        "a double of its array library, its compiled kernels executed on the CPU), cuda or cuda:N; "
        "may be repeated; default: cpu and cuda-double",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a device that minidl does not know; one that is not there fails in the tests.

    Tests of Ctrl-C need Python's handler, also where a shell started pytest in the background,
    with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from minidl import DeviceError, get_backend

    for name in set(config.getoption("--device") or ()) - {"cuda-double"}:
        try:
            get_backend(name)
        except ValueError as error:
            raise pytest.UsageError(f"--device: {error}, and cuda-double") from error
        except DeviceError:
            pass


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `device` once on each device that was chosen."""
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device") or ["cpu", "cuda-double"]
        metafunc.parametrize("device", chosen, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test as slow or exhaustive on the devices that `slow_on` or `exhaustive_on` names."""
    for item in items:
        for name in ("slow", "exhaustive"):
            for mark in item.iter_markers(f"{name}_on"):
                if item.callspec.params["device"] in mark.args:
                    item.add_marker(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the CPU does not do here: threads need TBB, and recordings OpenBLAS, too."""
    chosen = getattr(item, "callspec", None)
    if chosen is not None and chosen.params.get("device", "cpu") != "cpu":
        return
    from minidl_kernels.cpu import pool, products

    if item.get_closest_marker("needs_threads") and not pool.has_tbb():
        pytest.skip("Numba's threads are not those of TBB")
    if item.get_closest_marker("needs_recordings") and not products._is_compiled():
        pytest.skip("the CPU records no steps: NumPy computes the products")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the tests are collected, nor ever modules and tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        hide_from_the_collector()
        gc.enable()


def hide_from_the_collector() -> None:
    """Let the garbage collector skip all objects that exist now.

    Each `record` of the CUDA kernels collects garbage, which took a tenth of the tests' time.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Refuse test files that choose a number of threads for all tests when they are imported."""
    from minidl_kernels import threads

    if threads._chosen is not None:
        raise pytest.UsageError(
            f"expected no number of threads after the import of all tests, got {threads._chosen}. "
            "Create DataParallel and call set_num_threads within tests only."
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of the tests that run in a browser, if they were selected."""
    counts = {
        outcome: len({r.nodeid for r in reports if "_browser.py" in getattr(r, "nodeid", "")})
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed", "error", "skipped")
    }
    if any(counts.values()):
        found = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        terminalreporter.write_line(f"browser tests: {found}")


@pytest.fixture(autouse=True)
def _threads_of_before():
    """Restore the number of threads after each test: `DataParallel` chooses one."""
    from minidl_kernels import threads

    before = threads._chosen, threads._default
    yield
    threads._chosen, threads._default = before


@pytest.fixture
def device(request):
    """Return a device by the name that minidl takes; for "cuda-double" the double is installed."""
    if request.param == "cuda-double":
        request.getfixturevalue("cuda_double")
        return "cuda:0"
    return request.param


@pytest.fixture
def backend(device):
    """Return the backend of the device; one that was asked for and is not there is an error."""
    from minidl import get_backend

    return get_backend(device)


@pytest.fixture
def cuda_double():
    """Run "cuda" on the double for the length of a test; return its counts."""
    missing = [name for name in NEEDED_BY_THE_DOUBLE if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (the extra cuda-double)")
    from cuda_double.install import cuda_double

    hide_from_the_collector()  # the kernels that earlier tests compiled
    with cuda_double() as counts:
        yield counts
