"""The tables for users of Keras and PyTorch agree with the code.

A row has names of the other library; ``same``, ``no`` or names of minidl; and remarks. A row that
begins with a bold word begins a group. Code in it is the owner of the group's names.
"""

import ast
import copy
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import minidl
from minidl import (
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
)
from minidl.alternatives import ALTERNATIVES
from minidl.layers import activations

DOCS = Path(__file__).parent.parent / "docs"
TABLES = ("from-keras", "from-pytorch")
LISTED = (
    *(callbacks, constraints, initializers, layers, losses, metrics, minidl.regularizers),
    *(optimizers, optimizers.schedules),
)

MODEL = models.Sequential([layers.Dense(1, input_shape=(2,))])
MODEL.compile("adam", "mse")
OWNERS = {name: getattr(minidl, name) for name in minidl.__all__} | {
    "activations": activations,
    "callback": callbacks.Callback(),
    "keras": minidl,
    "layer": MODEL.layers[0],
    "loss": minidl.Tensor(1.0),
    "metric": metrics.AUC(),
    "minidl": minidl,
    "model": MODEL,
    "np": np,
    "optimizer": MODEL.optimizer,
    "optimizers.schedules": optimizers.schedules,
    "tensor": minidl.Tensor([1.0]),
    # base classes
    "Constraint": constraints.Constraint,
    "Initializer": initializers.Initializer,
    "Loss": losses.Loss,
    "Metric": metrics.Metric,
    "Optimizer": optimizers.Optimizer,
    # of PyTorch
    "copy": copy,
    "init": initializers,
    "lr_scheduler": optimizers.schedules,
    "module": MODEL,
    "nn": SimpleNamespace(
        **{name: getattr(m, name) for m in (layers, losses) for name in m.__all__}
    ),
    "optim": optimizers,
    "torch": minidl,
}

# The entries of ALTERNATIVES for the names of an owner.
HINTS = {
    "callback": ("Callback",),
    "Constraint": ("methods of Constraint",),
    "Initializer": ("methods of Initializer",),
    "Loss": ("methods of Loss",),
    "Optimizer": ("methods of Optimizer",),
    "keras": ("minidl",),
    "layer": ("Layer",),
    "layers": ("layers",),
    "losses": ("losses", "loss"),
    "metric": ("Metric",),
    "metrics": ("metric",),
    "minidl": ("minidl",),
    "model": ("Model", "methods of Model"),
    "models": ("models",),
    "module": ("Model",),
    "nn": ("losses", "layers"),
    "optimizer": ("Optimizer",),
    "tensor": ("Tensor",),
    "torch": ("minidl",),
}
HINTS_OF_ARGUMENTS = ("argument", "call's parameters")


class Row(NamedTuple):
    owner: str
    others: list[str]
    ours: str
    remarks: str


def code_in(text):
    return re.findall(r"`([^`]+)`", text)


def rows_of(page):
    """Yield the rows of the page's table."""
    owner = "minidl"
    lines = (line for line in (DOCS / f"{page}.md").read_text().splitlines() if line[:2] == "| ")
    for line in list(lines)[1:]:
        first, ours, remarks = (cell.strip() for cell in line.strip("|").split("|"))
        if first.startswith("**"):
            word = first.strip("*").lower()
            owner = (code_in(first) or [word if word in OWNERS else "minidl"])[0]
        yield Row(owner, [] if first.startswith("**") else code_in(first), ours, remarks)


def parsed(code):
    """Return the expression; ``f(x=)`` stands for an argument of any value."""
    text = code.removeprefix("with ").removesuffix(":")
    return ast.parse(re.sub(r"=(?=[,)])", "=0", text).replace("*,", "*_,"), mode="eval").body


def arguments_of(function):
    """Return the names of the arguments, with those that a class passes on to its bases."""
    if not isinstance(function, type):
        return set(inspect.signature(function).parameters)
    bases = [base for base in function.__mro__[:-1] if "__init__" in vars(base)]
    return {name for base in bases for name in inspect.signature(base.__init__).parameters}


def find(node, owners):
    """Return what an expression names; raise LookupError if minidl lacks a part of it."""
    if isinstance(node, ast.Attribute):
        root = node.value
        is_owner = isinstance(root, ast.Name) and root.id in OWNERS
        return attribute(OWNERS[root.id] if is_owner else find(root, owners), node.attr)
    if isinstance(node, ast.Name):
        for owner in owners:
            try:
                return attribute(OWNERS[owner], node.id)
            except LookupError:
                pass
        return OWNERS[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return OWNERS[owners[0]].get(node.value)
        except (TypeError, ValueError) as error:
            raise LookupError(node.value) from error
    if isinstance(node, ast.Call):
        function = find(node.func, owners)
        missing = {keyword.arg for keyword in node.keywords} - arguments_of(function)
        if missing:
            raise LookupError(f"{ast.unparse(node.func)} has no {missing}")
        for argument in node.args:
            if isinstance(argument, ast.Call | ast.Attribute):
                find(argument, owners)
        return function
    return None  # an expression of placeholders


def attribute(owner, name):
    """Return the attribute of an owner, or raise LookupError."""
    # What minidl lacks may be an attribute that raises; dir leaves out those of a metaclass.
    if name not in dir(owner) or not hasattr(owner, name):
        raise LookupError(f"{owner} has no {name}")
    return getattr(owner, name)


def exists(code, owners):
    """Return whether minidl has all that an expression names."""
    try:
        find(parsed(code), owners)
    except LookupError:
        return False
    return True


def exists_in_part(code, owners):
    """Return whether the name, or one of the arguments, exists; their function must exist."""
    node = parsed(code)
    if not isinstance(node, ast.Call):
        return exists(code, owners)
    names = {keyword.arg for keyword in node.keywords}
    return not names.isdisjoint(arguments_of(find(node.func, owners)))


def owners_of(row):
    """Return the owners of the names in remarks: the group's, and those of the row's own names."""
    roots = [name.split(".")[0] for name in row.others if "." in name]
    places = [row.owner, *roots, "model", "optimizers", "layers", "losses", "metrics"]
    return [place for place in dict.fromkeys(places) if place in OWNERS]


def hints_for(row, code):
    """Return the places and names of `ALTERNATIVES` that speak of this name."""
    node = parsed(code)
    if isinstance(node, ast.Call):
        names = [(place, keyword.arg) for place in HINTS_OF_ARGUMENTS for keyword in node.keywords]
    else:
        *before, name = code.strip('"').split(".")
        names = [(place, name) for place in HINTS.get(before[-1] if before else row.owner, ())]
    return [(place, name) for place, name in names if name in ALTERNATIVES[place]]


ROWS = {page: list(rows_of(page)) for page in TABLES}


@pytest.mark.parametrize("page", TABLES)
def test_names_of_minidl_in_tables_exist(page):
    absent = []
    for row in ROWS[page]:
        same = row.others if row.ours == "same" else []
        absent += [code for code in same if not exists(code, [row.owner])]
        for code in code_in(f"{row.ours} {row.remarks}"):
            code = f"models.Sequential({code})" if code.endswith("=") else code
            absent += [] if exists(code, owners_of(row)) else [code]
    assert absent == []


@pytest.mark.parametrize("page", TABLES)
def test_names_that_tables_call_missing_are_missing(page):
    missing = [(row.owner, code) for row in ROWS[page] if row.ours == "no" for code in row.others]
    assert missing
    assert [code for owner, code in missing if exists_in_part(code, [owner])] == []


@pytest.mark.parametrize("page", TABLES)
def test_tables_say_what_errors_say_about_missing_names(page):
    for row in ROWS[page]:
        text = f"{row.ours} {row.remarks}".replace("`", "")
        for place, name in (hint for code in row.others for hint in hints_for(row, code)):
            if row.ours != "same":
                hint = ALTERNATIVES[place][name].removeprefix("use ").replace("`", "")
                assert hint in text, (place, name)


@pytest.mark.parametrize("module", LISTED, ids=lambda module: module.__name__)
def test_table_for_keras_lists_every_public_name(module):
    owner = module.__name__.removeprefix("minidl.")
    listed = {
        name
        for row in ROWS["from-keras"]
        if row.owner == owner
        for name in [*(row.others if row.ours == "same" else ()), *code_in(row.ours + row.remarks)]
    }
    assert set(module.__all__) - listed == set()


def test_tables_know_every_name_with_alternative():
    known = {
        hint
        for page in TABLES
        for row in ROWS[page]
        for code in row.others
        for hint in hints_for(row, code)
    }
    every = {(place, name) for place, names in ALTERNATIVES.items() for name in names}
    every.remove(("minidl", "sklearn"))  # a package of minidl, which users import themselves
    assert every - known == set()
