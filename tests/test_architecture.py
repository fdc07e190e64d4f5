"""The law of the storeys: who may import whom, circles, and the budget of code lines.

Everything is read from the source files, so imports inside of functions and for type checkers
count, too. `CONTRIBUTING.md` states the law and the budget.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
GROUND = 0
MAX_LINES = 450  # of a file


class Room(NamedTuple):
    """A folder, or files beside it: its storey, and the packages that it may import."""

    pattern: str
    storey: int
    packages: frozenset[str] = frozenset()


def room(pattern: str, storey: int, *packages: str) -> Room:
    return Room(pattern, storey, frozenset(packages))


# The first pattern that matches the path of a file counts. The standard library is free.
ROOMS = (
    room(r"kernels/minidl_kernels/cuda/", 1, "numpy", "numba", "numba_cuda", "cuda", "cupy"),
    room(r"kernels/minidl_kernels/cpu/", 1, "numpy", "numba", "llvmlite"),
    room(r"kernels/minidl_kernels/", 1, "numpy"),
    room(r"minidl/backend/cupy_backend\.py", 2, "numpy", "cupy"),
    room(r"minidl/backend/", 2, "numpy"),
    room(r"minidl/engine/", 3, "numpy"),
    room(r"minidl/(rng|constraints)\.py", 3, "numpy"),
    room(r"minidl/(layers|losses|metrics|optimizers)/", 4, "numpy"),
    room(r"minidl/(initializers|regularizers|batches|testing)\.py", 4, "numpy"),
    room(r"minidl/callbacks/progress\.py", 5, "tqdm"),
    room(r"minidl/callbacks/logs\.py", 5, "tensorboardX"),
    room(r"minidl/distributed/mpi\.py", 5, "numpy", "mpi4py"),
    room(r"minidl/distributed/cuda_transfer\.py", 5, "numpy", "cupy"),
    room(r"minidl/(callbacks|trainer|distributed|models)/", 5, "numpy"),
    room(r"minidl/formats/keras_weights\.py", 6, "numpy", "h5py"),
    room(r"minidl/formats/onnx_export\.py", 6, "numpy", "onnx"),
    room(r"minidl/formats/", 6, "numpy"),
    room(r"minidl/commands/(page|report|sweep_page)\.py", 6, "numpy", "matplotlib"),
    room(r"minidl/commands/", 6, "numpy", "psutil"),
    room(r"minidl/sklearn/", 6, "numpy", "sklearn"),
    room(r"minidl/(__init__|__main__|checkpoint|playground|predict|sweep|train)\.py", 6),
    room(r"minidl/storage/", GROUND, "numpy", "safetensors"),
    room(r"minidl/datasets/", GROUND, "numpy", "pooch"),
    room(r"minidl/(handwriting|images)\.py", GROUND, "numpy", "PIL"),
    room(r"minidl/(alternatives|arguments|console|notebooks|version)\.py", GROUND, "numpy"),
)
OURS = ("minidl", "minidl_kernels")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("kernels", "minidl")
    for path in (ROOT / folder).rglob("*.py")
)
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("bench", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


# ------------------------------------------------------------------------------ who imports whom


def room_of(file: str) -> Room:
    """Return the room of a file."""
    for candidate in ROOMS:
        if re.match(candidate.pattern, file):
            return candidate
    raise AssertionError(f"{file}: expected a place in ROOMS, got none. Add it.")


def imported_modules(source: str) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def file_of(name: str) -> str:
    """Return the file of one of our modules, or that of the package which defines a name."""
    parts = name.split(".")
    base = ROOT / "kernels" if parts[0] == "minidl_kernels" else ROOT
    for end in range(len(parts), 0, -1):
        stem = base.joinpath(*parts[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path.relative_to(ROOT).as_posix()
    raise AssertionError(f"{name}: expected one of our modules")


def our_imports(source: str) -> set[str]:
    """Return the files of ours that a file imports."""
    return {file_of(n) for n in imported_modules(source) if n.split(".")[0] in OURS}


def breaches(file: str, source: str) -> list[str]:
    """Return the imports of a file that break the law."""
    here = room_of(file)
    found = []
    for name in imported_modules(source):
        top = name.split(".")[0]
        if top not in OURS:
            if top not in sys.stdlib_module_names and top not in here.packages:
                found.append(f"{file}: expected packages of its room, got {top}")
            continue
        other = file_of(name)
        storey = room_of(other).storey
        is_allowed = storey == GROUND if here.storey == GROUND else storey <= here.storey
        if here.storey == 1 and top == "minidl":
            is_allowed = False
        if not is_allowed:
            found.append(f"{file}: expected imports from storeys up to {here.storey}, got {other}")
    return sorted(found)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of files that import each other in a circle."""
    reached = {file: _reachable(graph, file) for file in graph}
    found = {
        tuple(sorted(other for other in reached[file] if file in reached[other]))
        for file in graph
        if file in reached[file]
    }
    return sorted(map(list, found))


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return the files that `start` imports, directly or not."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for other in graph.get(stack.pop(), set()) - found:
            found.add(other)
            stack.append(other)
    return found


@pytest.mark.parametrize("file", FILES)
def test_file_imports_only_from_its_storey_and_below(file):
    assert breaches(file, (ROOT / file).read_text()) == []


def test_no_circle_of_imports():
    graph = {file: our_imports((ROOT / file).read_text()) for file in FILES}
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("minidl/engine/tensor.py", "import cupy"),
        ("minidl/engine/backward.py", "def f():\n    from minidl.layers import Dense"),
        ("minidl/backend/base.py", "from minidl import rng"),
        ("minidl/layers/base.py", "from minidl.models import Model"),
        (
            "minidl/layers/base.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import minidl.trainer.step",
        ),
        ("minidl/callbacks/base.py", "from minidl import formats"),
        ("minidl/models/model.py", "import numba"),
        ("minidl/models/model.py", "from minidl import Tensor"),
        ("minidl/storage/atomic.py", "from minidl import backend"),
        ("minidl/datasets/mnist.py", "from minidl.engine.tensor import Tensor"),
        ("kernels/minidl_kernels/philox.py", "import minidl.arguments"),
        ("kernels/minidl_kernels/philox.py", "import numba"),
        ("kernels/minidl_kernels/cpu/dense.py", "from numba_cuda import x"),
    ],
)
def test_law_rejects_bad_import(file, source):
    assert len(breaches(file, source)) == 1


def test_law_finds_circle_through_a_third_file():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}, "f": {"f"}}
    assert circles(graph) == [["a", "b", "c"], ["f"]]


def test_law_sees_imports_in_functions_and_for_type_checkers():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from minidl.models.model import Model
def f():
    import minidl.trainer.loop
"""
    assert our_imports(source) == {"minidl/models/model.py", "minidl/trainer/loop.py"}


# ------------------------------------------------------------------------------ public names

# What programs may import: the public modules, and the kernels for their own benchmark.
PUBLIC = {
    *("backend", "callbacks", "checkpoint", "constraints", "datasets", "distributed", "engine"),
    *(
        "initializers",
        "layers",
        "losses",
        "metrics",
        "models",
        "optimizers",
        "rng",
        "sweep",
        "sklearn",
        "testing",
        "train",
        "predict",
        "playground",
    ),
}


def private_uses(file: str, source: str) -> list[str]:
    """Return the names of minidl that a program uses and that are not public."""
    found = []
    for name in imported_modules(source):
        top, *rest = name.split(".")
        if top == "minidl_kernels" and not file.startswith("bench/"):
            found.append(name)
        if top == "minidl" and rest and (rest[0] not in PUBLIC | set(public_names())):
            found.append(name)
        if top in OURS and any(part.startswith("_") for part in rest):
            found.append(name)
    return sorted(set(found))


def public_names() -> list[str]:
    import minidl

    return minidl.__all__


@pytest.mark.parametrize("file", PROGRAMS)
def test_program_uses_public_names_only(file):
    assert private_uses(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("examples/keras_notes.py", "import minidl_kernels"),
        ("examples/keras_notes.py", "from minidl.trainer import fusion"),
        ("bench/gpu.py", "from minidl_kernels.cpu.dropout import _drop"),
        ("bench/gpu.py", "from minidl.rng import _block"),
    ],
)
def test_law_rejects_private_name(file, source):
    assert private_uses(file, source)


# ------------------------------------------------------------------------------ names and sizes


def test_no_module_has_the_name_of_a_standard_or_numpy_module():
    stems = {Path(file).stem for file in [*FILES, *PROGRAMS]} - {"__init__", "__main__"}
    assert not stems & (set(sys.stdlib_module_names) | {"numpy", "cupy", "numba"})


def test_cupy_is_named_only_in_files_whose_path_says_cuda_or_cupy():
    naming = {file for file in FILES if re.search(r"\bcupy\b", (ROOT / file).read_text())}
    assert {file for file in naming if not re.search("cuda|cupy", file)} == set()


@pytest.mark.parametrize("file", FILES)
def test_file_has_at_most_450_lines(file):
    assert len((ROOT / file).read_text().splitlines()) <= MAX_LINES


def code_lines(source: str) -> int:
    """Return the number of lines with code: without comments, docstrings and blank lines."""
    silent = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - set(_docstring_lines(ast.parse(source))))


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            value = first.value if isinstance(first, ast.Expr) else None
            if first and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def test_code_lines_counts_code_only():
    source = '''"""Module.

Text.
"""

# comment
x = 1  # comment
def f():
    """Function."""
    return (
        x
    )
y = """a
b"""
'''
    assert code_lines(source) == 7


def budgets() -> dict[int, int]:
    """Return the budget of each storey from the table in CONTRIBUTING.md; the ground is 0."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d|ground) [^|]*\|[^|]*\| *([\d,]+) *\|", text, re.MULTILINE)
    return {
        GROUND if name == "ground" else int(name): int(number.replace(",", ""))
        for name, number in rows
    }


def test_storeys_stay_within_their_budgets_of_code_lines():
    counts = dict.fromkeys(range(7), 0)
    for file in FILES:
        counts[room_of(file).storey] += code_lines((ROOT / file).read_text())
    over = {s: (count, budgets()[s]) for s, count in counts.items() if count > budgets()[s]}
    assert over == {}, "code lines above the budget in CONTRIBUTING.md: {storey: (lines, budget)}"
    unused = {s: (n, budgets()[s]) for s, n in counts.items() if n < 0.9 * budgets()[s]}
    assert unused == {}, "lower the budget in CONTRIBUTING.md: {storey: (lines, budget)}"
