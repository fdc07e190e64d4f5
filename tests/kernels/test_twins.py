"""Twins: each kernel has one name, file and signature on both devices, and in the backend."""

import ast
import inspect
from pathlib import Path

import minidl_kernels
import pytest

from minidl.backend.base import Backend
from minidl.backend.kernel import kernel

FOLDER = Path(minidl_kernels.__file__).parent
# Files that exist for one device only.
MACHINERY = {
    "cpu": {"jit", "pool", "products", "blas", "calls", "current"},
    "cuda": {"jit", "reduction", "blas", "scalars"},
}
LAUNCH = "launch"  # launches kernels: the arguments before theirs differ between the devices
NO_KERNELS = {LAUNCH, "recording"}


def public_functions(source):
    """Return the signature of each public function that host code can call, by its name.

    A decorated function is compiled: a part of kernels, not a kernel.
    """
    return {
        node.name: ast.unparse(node.args)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not node.decorator_list
    }


def files(folder):
    """Return the source of each file of a device that has a twin."""
    return {
        path.stem: path.read_text()
        for path in (FOLDER / folder).glob("*.py")
        if path.stem not in MACHINERY[folder] | {"__init__"}
    }


def differences(cpu, cuda):
    """Yield where the files of two devices differ in their functions."""
    if cpu.keys() != cuda.keys():
        yield f"files: {sorted(cpu.keys() ^ cuda.keys())}"
    for stem in sorted(cpu.keys() & cuda.keys()):
        here, there = public_functions(cpu[stem]), public_functions(cuda[stem])
        if stem == LAUNCH:
            here, there = (sorted({LAUNCH} & functions.keys()) for functions in (here, there))
        if here != there:
            yield f"{stem}: {here} and {there}"


def test_kernels_of_both_devices_are_twins():
    cpu, cuda = files("cpu"), files("cuda")
    assert list(differences(cpu, cuda)) == []
    assert {"dropout", "dense", "launch"} <= cpu.keys()


@pytest.mark.parametrize(
    ("stem", "old", "new"),
    [
        ("dropout", "def dropout(x: Any", "def dropout(y: Any"),
        ("dropout", "def dropout(", "def drop_out("),
        ("optimizers", "    epsilon: float,\n", ""),
        ("optimizers", "    epsilon: float,\n", "    epsilon: float = 1e-7,\n"),
        ("gather", "    *,\n", ""),
        ("launch", "def launch(", "def start("),
    ],
)
def test_twin_with_another_signature_is_noticed(stem, old, new):
    """The negative control."""
    cpu, cuda = files("cpu"), files("cuda")
    assert old in cpu[stem]
    assert list(differences(cpu | {stem: cpu[stem].replace(old, new)}, cuda)) != []
    assert list(differences(cpu, cuda | {stem: cuda[stem].replace(old, new)})) != []


def test_missing_twin_is_noticed():
    cpu = files("cpu")
    assert list(differences(cpu, {stem: cpu[stem] for stem in cpu if stem != "gather"})) != []


METHODS = {
    name: method
    for owner in Backend.__mro__
    for name, method in vars(owner).items()
    if isinstance(method, kernel)
}


@pytest.mark.parametrize("name", METHODS)
def test_method_of_a_kernel_has_its_signature(name):
    source = (FOLDER / "cpu" / f"{METHODS[name].file}.py").read_text()
    tree = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
    twin = tree[name.removeprefix("_")]
    arguments = list(inspect.signature(METHODS[name].method).parameters.values())[1:]
    positional = [p.name for p in arguments if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in arguments if p.kind is p.KEYWORD_ONLY]
    assert positional == [argument.arg for argument in twin.args.args]
    assert keywords == [argument.arg for argument in twin.args.kwonlyargs]
    assert not twin.args.defaults
    assert not any(twin.args.kw_defaults)
    assert all(p.default is p.empty for p in arguments)


def test_each_kernel_is_reached_by_a_method():
    stems = {name.removeprefix("_") for name in METHODS}
    assert stems == {
        name
        for stem, source in files("cpu").items()
        if stem not in NO_KERNELS
        for name in public_functions(source)
    }


def test_backend_has_the_signatures_of_the_base(backend):
    replaced = {name: m for name, m in vars(type(backend)).items() if inspect.isfunction(m)}
    for name in replaced.keys() - {"__init__"}:
        signatures = [inspect.signature(getattr(owner, name)) for owner in (type(backend), Backend)]
        parameters = [list(signature.parameters.values()) for signature in signatures]
        kinds = [[(p.name, p.kind, p.default) for p in listed] for listed in parameters]
        assert kinds[0] == kinds[1], name
