"""Installation of devices for tests, and their removal at the end."""

import sys
from types import ModuleType

import numpy as np
import pytest

import minidl
from minidl.backend import DeviceError

pytest_plugins = ["pytester"]


def install(**options):
    """Return the context that installs the double."""
    from cuda_double.install import cuda_double

    return cuda_double(**options)


@pytest.fixture(autouse=True)
def _needs_the_double(cuda_double):
    """Skip where the double cannot be built."""


def test_backend_of_the_double_is_the_real_one():
    backend = minidl.get_backend("cuda")
    assert type(backend).__module__ == "minidl.backend.cupy_backend"
    assert backend.xp is sys.modules["cupy"]
    assert backend.name == "cuda:0"
    assert minidl.get_backend("auto") is backend


def test_double_leaves_the_backend_of_the_cpu():
    before = minidl.get_backend("cpu")
    with install():
        assert minidl.get_backend("cpu") is before
    assert minidl.get_backend("cpu") is before


def test_double_leaves_nothing_behind():
    from minidl_kernels.cuda import launch

    double, run = sys.modules.pop("cupy"), launch.launch
    kept = ModuleType("cupy")
    sys.modules["cupy"] = kept
    with install():
        assert sys.modules["cupy"] is double
        minidl.get_backend("cuda")
    assert sys.modules["cupy"] is kept
    assert launch.launch is run
    assert "minidl.backend.cupy_backend" not in sys.modules
    sys.modules["cupy"] = double


def test_machine_without_a_device_raises():
    with (
        install(device_count=0),
        pytest.raises(DeviceError, match=r"^cuda: .* cudaErrorNoDevice"),
    ):
        minidl.get_backend("cuda")


def test_device_beyond_those_of_the_machine_raises():
    with (
        install(device_count=2),
        pytest.raises(DeviceError, match=r"^cuda:2: expected a number below 2, .* got 2"),
    ):
        minidl.get_backend("cuda:2")


def test_arrays_of_two_devices_do_not_mix():
    with install(device_count=2) as counts:
        first, second = map(minidl.get_backend, ("cuda:0", "cuda:1"))
        ones = second.asarray(np.ones(3))
        assert ones.device == second.active
        assert ones.__dlpack_device__() == (2, 1)
        assert counts.device_switches == 2
        with pytest.raises(ValueError, match="array device = 1 while current = 0"):
            ones + 1
        with second.active:
            doubled = ones + ones
        np.testing.assert_array_equal(second.to_numpy(doubled), [2, 2, 2])
        with first.active, pytest.raises(ValueError, match="Array device must be same"):
            first.asarray(np.ones(3)) + ones


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        (["--device", "cpu", "--device", "cuda:99"], {"passed": 1, "errors": 1}),
        pytest.param([], {"passed": 2}, marks=pytest.mark.slow),
        pytest.param(["--device", "cuda-double"], {"passed": 1}, marks=pytest.mark.slow),
    ],
)
def test_option_chooses_the_device(options, outcomes, pytester):
    _copy_of_the_conftest(pytester)
    pytester.makepyfile(
        """
        import minidl
        def test_somewhere(device, backend):
            assert minidl.get_backend(device) is backend
        """
    )
    pytester.runpytest_subprocess(*options).assert_outcomes(**outcomes)


def test_option_rejects_another_device(pytester):
    _copy_of_the_conftest(pytester)
    said = pytester.runpytest_subprocess("--device", "gpu")
    said.stderr.fnmatch_lines(['*expected "cpu", "cuda", "cuda:N" or "auto"*and cuda-double*'])
    assert said.ret == pytest.ExitCode.USAGE_ERROR


def test_double_without_its_libraries_is_skipped_with_a_reason(pytester):
    _copy_of_the_conftest(pytester, "NEEDED_BY_THE_DOUBLE = ('cupy', 'no_such_library')")
    pytester.makepyfile("def test_somewhere(device): pass")
    done = pytester.runpytest_subprocess("-rs")
    done.assert_outcomes(passed=1, skipped=1)
    done.stdout.fnmatch_lines(["*no_such_library not installed (the extra cuda-double)*"])


def _copy_of_the_conftest(pytester, addition=""):
    """Make the root's conftest that of the new folder."""
    root = minidl.__path__[0] + "/.."
    pytester.makeconftest(
        f"""
        from pathlib import Path
        import sys
        sys.path[:0] = [{root!r}, {root + "/kernels"!r}]
        source = (Path({root!r}) / "conftest.py").read_text()
        exec(source.replace("Path(__file__)", "Path({root!r} + '/conftest.py')"))
        {addition}
        """
    )
