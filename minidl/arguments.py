"""Checks of arguments, and choice by name."""

import inspect
import itertools
import math
import operator
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any, NoReturn, TypeVar

import numpy as np

from minidl.alternatives import ALTERNATIVES, sentence
from minidl.notebooks import table

Kind = TypeVar("Kind")


def positive_integer(name: str, value: Any) -> int:
    """Return `value` as a Python int if it is an integer above 0, else raise ValueError.

    Parameters
    ----------
    name : str
        Start of the error message: ``"Dense: units"``.

    Examples
    --------
    >>> positive_integer("Dense: units", np.int64(3))
    3
    >>> positive_integer("Dense: units", 0)
    Traceback (most recent call last):
    ValueError: Dense: units: expected a positive integer, got 0.
    """
    return integer(name, value, 1, "a positive integer")


def count(name: str, value: Any) -> int:
    """Return `value` as a Python int if it is an integer, 0 or above, else raise ValueError.

    Examples
    --------
    >>> count("EarlyStopping: patience", -1)
    Traceback (most recent call last):
    ValueError: EarlyStopping: patience: expected an integer, 0 or above, got -1.
    """
    return integer(name, value, 0, "an integer, 0 or above")


def optional(check: Callable[..., Kind], name: str, value: Any, *bounds: Any) -> Kind | None:
    """Return the result of a check of `value`, such as `count`; None stays None.

    Examples
    --------
    >>> optional(count, "EarlyStopping: patience", None)
    """
    return None if value is None else check(name, value, *bounds)


def integer(name: str, value: Any, low: float = -math.inf, expected: str = "an integer") -> int:
    """Return `value` as a Python int if it is an integer from `low` on, else raise ValueError."""
    try:
        found = None if isinstance(value, bool | np.bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < low:
        raise ValueError(f"{name}: expected {expected}, got {value!r}.")
    return found


def finite(value: Any) -> float | None:
    """Return a finite number or 0-d array as a Python float, or None; a bool is not a number.

    Examples
    --------
    >>> finite(np.float32(0.5)), finite("0.5"), finite(True), finite(math.inf)
    (0.5, None, None, None)
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool) or not isinstance(value, Real):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer or a fraction beyond the floats
        return None


def number(who: str, name: str, value: Any, interval: str) -> float:
    """Return `value` as a Python float if it is a finite number in an interval.

    Parameters
    ----------
    interval : str
        As in mathematics: ``"[0, 1)"`` holds 0, but not 1.

    Raises
    ------
    TypeError, ValueError
        If it is not a number, or is outside of the interval.

    Examples
    --------
    >>> number("SGD", "momentum", 1, "[0, 1)")
    Traceback (most recent call last):
    ValueError: SGD: expected momentum in [0, 1), got 1.
    """
    low, high = map(float, interval[1:-1].split(","))
    found = finite(value)
    if found is None or not (
        low < found < high
        or (found == low and interval[0] == "[")
        or (found == high and interval[-1] == "]")
    ):
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        error = ValueError if is_number else TypeError
        raise error(f"{who}: expected {name} in {interval}, got {value!r}.")
    return found


def one_of(who: str, name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return `value` if it is one of the allowed strings (or None), else raise ValueError.

    Examples
    --------
    >>> one_of("AUC", "curve", "roc", ["ROC", "PR"])
    Traceback (most recent call last):
    ValueError: AUC: expected curve to be 'ROC' or 'PR', got 'roc'.
    """
    if not isinstance(value, str | None) or value not in allowed:
        names = " or ".join(map(repr, allowed))
        raise ValueError(f"{who}: expected {name} to be {names}, got {value!r:.80}.")
    return value


def two_argument_function(who: str, function: Kind) -> Kind:
    """Return a function that takes (y_true, y_pred), else raise TypeError.

    Examples
    --------
    >>> two_argument_function("loss", len)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    TypeError: loss: expected a function of (y_true, y_pred), got <...>: too many ...
    """
    try:
        inspect.signature(function).bind(None, None)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(
            f"{who}: expected a function of (y_true, y_pred), got {function!r:.80}: {error}."
        ) from error
    except ValueError:  # a built-in function
        pass
    return function


class Number:
    """Attribute that holds a number in an interval; setting it checks it as `number` does.

    It has no ``__get__``, so reading it costs no more than without it.

    Parameters
    ----------
    interval : str
        As in `number`.
    or_none : bool
        Whether it can be None, too.
    keeps_int : bool
        Whether an int stays one, so that files show it as it was given.
    """

    def __init__(self, interval: str, *, or_none: bool = False, keeps_int: bool = False):
        self._interval = interval
        self._or_none = or_none
        self._keeps_int = keeps_int

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, owner: object, value: Any) -> None:
        if value is not None or not self._or_none:
            checked = number(type(owner).__name__, self._name, value, self._interval)
            value = value if self._keeps_int and type(value) is int else checked
        vars(owner)[self._name] = value


def as_list(who: str, name: str, values: Any) -> list[Any]:
    """Return the elements of an iterable, or raise TypeError.

    A set is rejected, since its order differs between runs; so are texts and mappings.

    Examples
    --------
    >>> as_list("compile", "metrics", (name for name in ["accuracy"]))
    ['accuracy']
    """
    if isinstance(values, str | bytes | Set | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{who}: expected {name} to be a list, got {values!r:.80}. Use [...].")
    return list(values)


def by_name(who: str, what: str, names: Sequence[str], given: Any) -> dict[str, Any]:
    """Return what a list, or a dictionary by name, holds for each of the names, in their order.

    Raises
    ------
    ValueError
        If `given` is neither, or does not have exactly one item for each name.

    Examples
    --------
    >>> by_name("fit", "y for each of the outputs", ["a", "b"], {"b": 2, "a": 1})
    {'a': 1, 'b': 2}
    """
    if isinstance(given, Mapping) and set(given) == set(names):
        return {name: given[name] for name in names}
    if isinstance(given, list | tuple) and len(given) == len(names):
        return dict(zip(names, given, strict=True))
    got = f"a {type(given).__name__}"
    if isinstance(given, Mapping):
        got = f"keys {sorted(map(str, given))}"
    elif isinstance(given, list | tuple):
        got += f" of {len(given)}"
    raise ValueError(
        f"{who}: expected {what} {list(names)}, got {got}. Pass a list in this "
        "order, or a dictionary with these keys."
    )


def snake_case(name: str) -> str:
    """Return the name of a class in snake case.

    Examples
    --------
    >>> snake_case("GlorotUniform"), snake_case("ReLU")
    ('glorot_uniform', 're_lu')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name, or with ``_1``, ``_2`` and so on the first that is not taken.

    Examples
    --------
    >>> free_name("dense", {"dense", "dense_1"})
    'dense_2'
    """
    candidates = (f"{name}_{n}" if n else name for n in itertools.count())
    return next(candidate for candidate in candidates if candidate not in taken)


def refuse_masked(name: str, values: Any) -> None:
    """Raise TypeError for a masked array, whose mask would be lost."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an ordinary array, got a masked array. Pass its filled() values, "
            "or leave out the masked samples."
        )


def number_array(who: str, name: str, values: Any, library: Any = np) -> Any:
    """Return an argument as an array of real numbers: of NumPy, or of `library` if it is one.

    Raises
    ------
    TypeError
        If it is masked, or holds something else, such as complex numbers, dates or strings.
    ValueError
        If its items differ in shape.

    Examples
    --------
    >>> number_array("fit", "x", ["1", "2"])
    Traceback (most recent call last):
        ...
    TypeError: fit: expected x to be an array of numbers, got a list of <U1. Convert it to numbers.
    """
    refuse_masked(f"{who}: {name}", values)
    kind = type(values).__name__
    # A column of pandas that may lack values: without this, it is an array of objects.
    dtype = getattr(getattr(values, "dtype", None), "numpy_dtype", None)
    try:
        own = isinstance(values, library.ndarray)
        array = library.asarray(values) if own else np.asarray(values, dtype)
    except ValueError as error:
        if dtype is not None:
            raise ValueError(
                f"{who}: expected {name} without missing values, got some in a {kind} of "
                f"{values.dtype}. Fill them with fillna, or drop their rows with dropna."
            ) from error
        raise ValueError(
            f"{who}: expected {name} with one shape, got a {kind} whose items differ in shape. Pad "
            "or crop them."
        ) from error
    columns = list(getattr(values, "columns", ()))
    if array.dtype.kind not in "fiub" and len(set(columns)) == len(columns) > 0:
        parts = [number_array(who, f"{name}[{key!r}]", values[key]) for key in columns]
        return np.stack(parts, axis=1)
    if array.dtype.kind not in "fiub":
        advice = "Convert it to numbers."
        if name.startswith("y") and array.size and isinstance(array.flat[0], str):
            advice = "Number all labels: classes, y = np.unique(y, return_inverse=True)."
        elif hasattr(values, "toarray"):  # a sparse matrix
            advice = "Pass its toarray()."
        elif "[" in name:  # a column of a table
            advice = "Leave the column out, or convert it to numbers, as pandas.get_dummies does."
        raise TypeError(
            f"{who}: expected {name} to be an array of numbers, got a {kind} of "
            f"{getattr(values, 'dtype', array.dtype)}. {advice}"
        )
    return array


def choose(
    what: str, given: Any, kind: type[Kind], table: Mapping[str, Callable[[], Kind]]
) -> Kind:
    """Return `given` if it is a `kind`, or the table's entry of that name.

    The names are in snake case; those of classes, without underscores, and any case are accepted.

    Raises
    ------
    ValueError
        If it is neither. The message lists the names, and what to do instead.

    Examples
    --------
    >>> choose("number", "ONE", float, {"one": lambda: 1.0})
    1.0
    """
    if isinstance(given, kind):
        return given
    plain = given.lower().replace("_", "") if isinstance(given, str) else None
    for name, make in table.items():
        if name.replace("_", "") == plain:
            return make()
    advice = f"subclass {kind.__name__} for your own"
    if isinstance(given, str):
        advice = ALTERNATIVES.get(what, {}).get(given.lower(), advice)
    elif isinstance(given, type) and issubclass(given, kind):
        advice = f"use {given.__name__}()"
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    raise ValueError(
        f"{what}: expected {article} {kind.__name__} or one of {', '.join(table)}, "
        f"got {given!r}. {sentence(advice)}"
    )


def constructor_parameters(kind: type, *, of_bases: bool = False) -> list[inspect.Parameter]:
    """Return the parameters of a class's constructor, but for ``**options``.

    `of_bases` adds those of the base classes that ``**options`` go to.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        own = inspect.signature(base).parameters.values()
        named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
        found |= {name: p for name, p in named.items() if name not in found}
        if not of_bases or len(named) == len(own):
            break
    return list(found.values())


def shown_arguments(
    thing: Any, *, of_bases: bool = False, with_defaults: bool = False
) -> dict[str, Any]:
    """Return the constructor's arguments that are not at their defaults, from the attributes.

    `of_bases` adds those of base classes that ``**options`` go to.
    """
    parameters = constructor_parameters(type(thing), of_bases=of_bases)
    defaults = {p.name: p.default for p in parameters if p.kind is not p.VAR_POSITIONAL}
    values = {name: getattr(thing, name) for name in defaults}
    if with_defaults:
        return values
    # A default of None may stand for an attribute of the class, such as a name.
    usual = {name: (value, getattr(type(thing), name, value)) for name, value in defaults.items()}
    return {name: value for name, value in values.items() if value not in usual[name]}


class Shown:
    """Base of classes that are shown by their arguments, from the attributes of these names.

    The repr leaves out arguments at their defaults. The HTML for notebooks has all of them.
    """

    def __repr__(self) -> str:
        try:
            return written(self, shown_arguments(self, of_bases=True))
        except (AttributeError, TypeError, ValueError):  # a user's class may keep others
            return super().__repr__()

    def _repr_html_(self) -> str:
        """Return a table of the arguments, for notebooks."""
        try:
            arguments = shown_arguments(self, of_bases=True, with_defaults=True)
        except (AttributeError, TypeError, ValueError):  # see __repr__
            arguments = {}
        rows = [(name, _text_of(value)) for name, value in arguments.items()]
        return table(type(self).__name__, ("Argument", "Value"), rows)


def written(thing: Any, shown: Mapping[str, Any]) -> str:
    """Return the call of a constructor as text; a function is written as its name.

    Examples
    --------
    >>> written(1.0, {"rate": abs, "seed": 3})
    'float(rate=abs, seed=3)'
    """
    texts = (f"{name}={_text_of(value)}" for name, value in shown.items())
    return f"{type(thing).__name__}({', '.join(texts)})"


def _text_of(value: Any) -> str:
    return value.__name__ if inspect.isroutine(value) else repr(value)


def undefined(owner: object, method: str) -> NoReturn:
    """Raise NotImplementedError for a method that the class of `owner` should define.

    Examples
    --------
    >>> undefined(3, "call(self, x)")
    Traceback (most recent call last):
        ...
    NotImplementedError: int: expected a method call(self, x). Define it.
    """
    raise NotImplementedError(f"{type(owner).__name__}: expected a method {method}. Define it.")
