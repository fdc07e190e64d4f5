"""The law of the layers: a file imports from levels below its own, or from its own folder."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The first pattern that fits a file's path gives its level and the packages it may name besides
# the standard library.
LEVELS = (
    (r"kernels/minidl_kernels/cuda/", 0, {"numpy", "numba", "numba_cuda", "cuda", "cupy"}),
    (r"kernels/minidl_kernels/cpu/", 0, {"numpy", "numba", "llvmlite"}),
    (r"kernels/minidl_kernels/", 0, {"numpy"}),
    (r"minidl/backend/cupy_backend\.py", 1, {"numpy", "cupy"}),
    (r"minidl/backend/", 1, {"numpy"}),
    (r"minidl/(rng|ops|keras_gaps|by_name|constraints)\.py", 2, {"numpy"}),
    (r"minidl/(autograd|parameter|initializers)\.py", 3, {"numpy"}),
    (r"minidl/layers/", 4, {"numpy"}),
    (r"minidl/datasets/", 4, {"numpy", "pooch"}),
    (r"minidl/(losses|metrics|optimizers|schedules|batches|testing)\.py", 4, {"numpy"}),
    (r"minidl/(position|uncertainty|version)\.py", 4, {"numpy"}),
    (r"minidl/(files|tensor_file)\.py", 4, {"numpy", "safetensors"}),
    (r"minidl/callbacks/", 5, {"numpy", "tensorboardX"}),
    (r"minidl/progress\.py", 5, {"tqdm"}),
    (r"minidl/(fusion|models|summary|description|checkpoint)\.py", 5, {"numpy"}),
    (r"minidl/interchange/torch_weights\.py", 5, {"numpy"}),
    (r"minidl/interchange/keras_weights\.py", 5, {"numpy", "h5py"}),
    (r"minidl/interchange/onnx_export\.py", 5, {"numpy", "onnx"}),
    (r"minidl/interchange/__init__\.py", 5, set()),
    (r"minidl/__init__\.py", 6, set()),
    (r"minidl/images\.py", 5, {"numpy", "PIL"}),
    (r"minidl/(command_line|predict)\.py", 6, {"numpy"}),
    (r"minidl/report\.py", 6, {"numpy", "matplotlib"}),
    (r"minidl/run_folder\.py", 6, set()),
    (r"minidl/train\.py", 6, {"psutil"}),
    (r"examples/", 7, {"numpy", "matplotlib", "PIL", "common", "features"}),
)
PUBLIC_LEVEL = 7
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("kernels", "minidl", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def level_of(file):
    """Return a file's level and the packages it may name."""
    for pattern, level, packages in LEVELS:
        if re.match(pattern, file):
            return level, packages
    raise AssertionError(f"{file} has no place in LEVELS: give it one")


def imported_modules(source):
    """Return the dotted names that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def file_of(name):
    """Return the file of a module of ours, the package's where `name` is something in it."""
    parts = name.split(".")
    base = ROOT / "kernels" if parts[0] == "minidl_kernels" else ROOT
    for end in range(len(parts), 0, -1):
        stem = base.joinpath(*parts[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path.relative_to(ROOT).as_posix()
    raise AssertionError(f"{name} is no module of ours")


def folder_of(file):
    """Return a file's folder; the kernels, with a folder for each device, are one.

    So are models, the callbacks that they tell and the files that they write, which know them.
    """
    folder = Path(file).parts[:-1][:2]
    return folder[:1] if folder[1:] in (("callbacks",), ("interchange",)) else folder


def breaches(file, source):
    """Return what in a file breaks the law."""
    level, packages = level_of(file)
    found = []
    for name in imported_modules(source):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top not in ("minidl", "minidl_kernels"):
            if top not in packages:
                found.append(f"{file} may not name {top}")
            continue
        if level == PUBLIC_LEVEL:
            if any(part.startswith("_") for part in name.split(".")) or top != "minidl":
                found.append(f"{file} imports {name}, which is not public")
            continue
        other = file_of(name)
        same_folder = folder_of(other) == folder_of(file)
        if level_of(other)[0] >= level and not (same_folder and level_of(other)[0] == level):
            found.append(f"{file} (level {level}) imports {name} (level {level_of(other)[0]})")
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_below(file):
    assert breaches(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("minidl/ops.py", "import cupy"),
        ("minidl/ops.py", "def f():\n    from minidl.autograd import Tensor"),
        ("minidl/backend/base.py", "from minidl import rng"),
        ("minidl/layers/base.py", "from minidl import losses"),
        ("minidl/models.py", "import numba"),
        ("kernels/minidl_kernels/philox.py", "import minidl"),
        ("examples/keras_notes.py", "import minidl_kernels"),
    ],
)
def test_the_law_notices_a_breach(file, source):
    assert breaches(file, source)


def test_no_module_hides_one_of_the_standard_library_or_numpy():
    stems = {Path(file).stem for file in FILES} - {"__init__"}
    assert not stems & (set(sys.stdlib_module_names) | {"numpy", "cupy", "numba"})


def test_the_word_cupy_stays_in_files_whose_path_says_cuda():
    naming = {file for file in FILES if re.search(r"\bcupy\b", (ROOT / file).read_text())}
    assert {file for file in naming if not re.search("cuda|cupy", file)} == set()
