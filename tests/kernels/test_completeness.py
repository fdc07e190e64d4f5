"""No kernel lands without checks: each compiled function stands in the table, with its test."""

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import minidl_kernels
import pytest
from kernel_table import CUDA_KERNELS, DEVICE_FUNCTIONS, KERNELS


def _compiled(folder):
    from numba.core.dispatcher import Dispatcher

    kinds = [Dispatcher]
    if folder == "cuda":
        from numba.cuda.dispatcher import CUDADispatcher

        kinds.append(CUDADispatcher)
    package = importlib.import_module(f"minidl_kernels.{folder}")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"minidl_kernels.{folder}.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, tuple(kinds)):
                yield f"{folder}.{info.name}.{name}"


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_every_kernel_is_in_the_table(folder):
    if folder == "cuda" and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: the CUDA kernels cannot be imported")
    known = {name for name in KERNELS if name.startswith(folder + ".")}
    assert set(_compiled(folder)) == known


def test_every_cuda_kernel_is_compiled_in_the_tests():
    known = {name for name in KERNELS if name.startswith("cuda.")}
    assert CUDA_KERNELS.keys() | DEVICE_FUNCTIONS.keys() == known
    assert not CUDA_KERNELS.keys() & DEVICE_FUNCTIONS.keys()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_test_of_each_kernel_exists(kernel):
    file, name = KERNELS[kernel].split("::")
    source = (Path(__file__).parent / file).read_text()
    assert re.search(rf"^def {name}\(", source, re.MULTILINE)


def test_only_the_cuda_folder_names_cuda():
    root = Path(minidl_kernels.__file__).parent
    for path in root.rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) .*", path.read_text(), re.MULTILINE)
        names = " ".join(imports)
        assert "minidl." not in names, path
        if path.parent == root:
            assert "numba" not in names, path
        if path.parent.name != "cuda":
            assert "cuda" not in names, path
