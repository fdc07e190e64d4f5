"""Checks of arguments, choice by name, and alternatives to names of Keras and PyTorch."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Set
from numbers import Real
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import numpy as np

Kind = TypeVar("Kind")


# ------------------------------------------------------------------------------ checks


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
    """Return `given` if it is a `kind`, or the table's entry of that name (case-insensitive).

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
    if isinstance(given, str) and given.lower() in table:
        return table[given.lower()]()
    advice = f"subclass {kind.__name__} for your own"
    if isinstance(given, str):
        advice = ALTERNATIVES.get(what, {}).get(given.lower(), advice)
    elif isinstance(given, type) and issubclass(given, kind):
        advice = f"use {given.__name__}()"
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    raise ValueError(
        f"{what}: expected {article} {kind.__name__} or one of {', '.join(table)}, "
        f"got {given!r}. {_sentence(advice)}"
    )


# ------------------------------------------------------------------------------ Keras' defaults


def keras_defaults(**defaults: Any) -> Callable[[Kind], Kind]:
    """Return a decorator: a function or class also accepts Keras' arguments at their defaults.

    They are dropped, since minidl does what they mean. Any other value is a TypeError. A tuple
    lists several values that mean the same. Signatures and files do not contain these arguments.

    Examples
    --------
    >>> @keras_defaults(amsgrad=False)
    ... def adam(rate):
    ...     return rate
    >>> adam(0.1, amsgrad=False)
    0.1
    >>> adam(0.1, amsgrad=True)
    Traceback (most recent call last):
        ...
    TypeError: adam: expected amsgrad to be False, got True. Leave it out.
    """

    def decorate(target: Any) -> Any:
        is_class = isinstance(target, type)
        function = target.__init__ if is_class else target

        @functools.wraps(function)
        def accepting(*arguments: Any, **options: Any) -> Any:
            for name in [name for name in options if name in defaults]:
                value, default = options.pop(name), defaults[name]
                only = default if isinstance(default, tuple) else (default,)
                # Arrays and other objects are never equal: their == may not be a bool.
                if not (value is None or np.isscalar(value)) or value not in only:
                    is_constructor = function.__name__ == "__init__"
                    who = type(arguments[0]).__name__ if is_constructor else function.__name__
                    advice = ALTERNATIVES["argument"].get(name, "leave it out")
                    raise TypeError(
                        f"{who}: expected {name} to be {' or '.join(map(repr, only))}, got "
                        f"{value!r}. {_sentence(advice)}"
                    )
            return function(*arguments, **options)

        if not is_class:
            return accepting
        target.__init__ = accepting
        return target

    return decorate


# ------------------------------------------------------------------------------ alternatives

TWO_CLASSES = "end with Dense(2, activation='softmax') and use sparse_categorical_crossentropy"
SEED = "give the model its seed="
PARAMETERS = "use model.parameters(), or model.get_weights() for arrays"
LAYER_PARAMETERS = "use layer.parameters(), each of which has numpy()"
FREEZE = "set requires_grad of each of its parameters(), then compile"
DECAY = "give the optimizer its weight_decay="
GRADIENT_LOOP = "use loss.backward() and optimizer.update(model.parameters())"
VALIDATION_MOMENT = "define on_epoch_end, whose logs hold the val_ values"
PREDICTION_MOMENT = "work on the result of predict, which calls no callbacks"
OWN_LOSS = "subclass losses.Loss and pass it to compile"
OWN_LOOP = f"write the loop in a method of another name: {GRADIENT_LOOP}"
OWN_PREDICTION = "define call, or a method of another name that calls the model"

# Only what is not obvious from the list of the names that exist.
ALTERNATIVES: dict[str, dict[str, str]] = {
    # names in modules
    "minidl": {
        "Model": "use models.Model",
        "Sequential": "use models.Sequential",
        "load": "use models.load",
        "manual_seed": SEED,
        "nn": "use layers, losses and models",
        "optim": "use optimizers",
        "utils": f"{SEED}; one-hot targets are np.eye(classes)[y]",
    },
    "callbacks": {"BackupAndRestore": "use ModelCheckpoint and fit(resume=True)"},
    "losses": {
        "BinaryCrossentropy": TWO_CLASSES,
        "CrossEntropyLoss": "use SparseCategoricalCrossentropy(from_logits=True)",
    },
    "metrics": {"BinaryAccuracy": "use Accuracy, with one output for each of the two classes"},
    "models": {"load_model": "use models.load", "save_model": "use model.save"},
    "layers": {
        "Conv2D": "use Flatten and Dense; minidl trains multilayer networks",
        "LeakyReLU": "use Activation with a function of a tensor",
        "Lambda": "use Activation with a function of a tensor",
    },
    # attributes
    "Layer": {
        "get_weights": LAYER_PARAMETERS,
        "kernel": "use layer.weight",
        "set_weights": "use model.set_weights",
        "trainable": FREEZE,
        "trainable_variables": LAYER_PARAMETERS,
        "trainable_weights": LAYER_PARAMETERS,
        "weights": LAYER_PARAMETERS,
    },
    "Model": {
        "cuda": "give device= to the model",
        "eval": "call the model outside of `with minidl.training():`",
        "get_layer": "use model.layers",
        "load_state_dict": "use model.load_weights or model.set_weights",
        "state_dict": "use model.save_weights or model.get_weights",
        "to": "give device= to the model, or to models.load",
        "train": "use `with minidl.training(step=step):`",
        "train_on_batch": "use loss(y, model(x)).backward() and optimizer.update",
        "trainable_variables": PARAMETERS,
        "trainable_weights": PARAMETERS,
        "weights": PARAMETERS,
    },
    "Optimizer": {
        "apply_gradients": GRADIENT_LOOP,
        "lr": "use optimizer.learning_rate",
        "minimize": GRADIENT_LOOP,
        "step": "use optimizer.update(model.parameters())",
        "zero_grad": "leave it out; update() clears the gradients",
    },
    # names that compile takes
    "loss": {"bce": TWO_CLASSES, "binary_crossentropy": TWO_CLASSES},
    "metric": {"binary_accuracy": "use accuracy, with one output for each of the two classes"},
    # arguments of Keras, at another value than `keras_defaults` accepts
    "argument": {
        "bias_regularizer": DECAY,
        "class_weight": "use sample_weight=weights[y], with an array of the classes' weights",
        "dtype": "give the model its dtype=",
        "kernel_regularizer": DECAY,
        "label_smoothing": "smooth one-hot targets, and use categorical_crossentropy",
        "reduction": "use loss.per_sample in a loop written by hand",
        "save_best_only": "use monitor=, with which the best is also kept",
        "save_freq": "use every_steps= or every_epochs=",
        "save_weights_only": "use model.save_weights",
        "steps_per_epoch": "pass as many samples as an epoch shall have",
        "trainable": FREEZE,
        "validation_steps": "pass as many validation samples as you need",
    },
    # definitions in a subclass that minidl would never use
    "call's parameters": {
        "training": "use minidl.rng.is_training()",
        "mask": "leave it out",
    },
    "methods of Model": {
        "compute_loss": OWN_LOSS,
        "compute_metrics": "subclass metrics.Metric and pass it to compile",
        "make_predict_function": OWN_PREDICTION,
        "make_test_function": OWN_PREDICTION,
        "make_train_function": OWN_LOOP,
        "predict_step": OWN_PREDICTION,
        "test_step": OWN_PREDICTION,
        "train_step": OWN_LOOP,
    },
    "methods of Loss": {"call": "define per_sample(self, y_true, y_pred)"},
    "methods of Initializer": {"__call__": "define draw(self, shape, *, seed, stream)"},
    "methods of MaxNorm": {"__call__": "define apply(self, weight, backend)"},
    "methods of Optimizer": {
        "apply_gradients": "define rule(self, weights, gradients, rate, decay)",
        "update_step": "define rule(self, weights, gradients, rate, decay)",
    },
    "Callback": {
        "on_batch_begin": "define on_train_batch_begin",
        "on_batch_end": "define on_train_batch_end",
        "on_test_begin": VALIDATION_MOMENT,
        "on_test_end": VALIDATION_MOMENT,
        "on_test_batch_begin": VALIDATION_MOMENT,
        "on_test_batch_end": VALIDATION_MOMENT,
        "on_predict_begin": PREDICTION_MOMENT,
        "on_predict_end": PREDICTION_MOMENT,
        "on_predict_batch_begin": PREDICTION_MOMENT,
        "on_predict_batch_end": PREDICTION_MOMENT,
        "set_model": "use self.model, which is set before on_train_begin",
        "set_params": "use self.params, which is set before on_train_begin",
    },
}


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def refuse_names(place: str, names: Iterable[str], who: str) -> None:
    """Raise TypeError for the first name that `ALTERNATIVES` lists for `place`.

    Examples
    --------
    >>> refuse_names("call's parameters", ["x", "mask"], who="Net.call")
    Traceback (most recent call last):
        ...
    TypeError: Net.call: minidl has no mask. Leave it out.
    """
    for name in names:
        if name in ALTERNATIVES[place]:
            raise TypeError(_no(who, place, name))


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


def _no(who: str, place: str, name: str) -> str:
    return f"{who}: minidl has no {name}. {_sentence(ALTERNATIVES[place][name])}"


class Unavailable:
    """An attribute of Keras that minidl lacks: reading and setting it raise AttributeError.

    Without this, setting it would silently do nothing.

    Parameters
    ----------
    place : str
        The entry of `ALTERNATIVES` that names the alternative.
    """

    def __init__(self, place: str):
        self._place = place

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        raise AttributeError(_no(self._place, self._place, self._name))

    def __set__(self, owner: object, value: object) -> None:
        raise AttributeError(_no(self._place, self._place, self._name))


def missing_attribute(owner: object, place: str, name: str) -> Any:
    """Raise AttributeError for a missing attribute, with the alternative if there is one.

    It is for ``__getattr__`` of a class.
    """
    # If the class has the name, a property has failed: Python's own error says why.
    if not hasattr(type(owner), name) and name in ALTERNATIVES[place]:
        raise AttributeError(_no(place, place, name))
    return object.__getattribute__(owner, name)


def suggest_alternatives(*modules: ModuleType) -> None:
    """Make modules raise AttributeError with the alternative, or with the list of their names.

    ``layers.Conv2D`` raises this error; ``from minidl.layers import Conv2D`` raises Python's own.
    """
    for module in modules:
        vars(module)["__getattr__"] = functools.partial(_missing_name, module)


def _missing_name(module: ModuleType, name: str) -> NoReturn:
    place = module.__name__.removeprefix("minidl.")
    if name in ALTERNATIVES.get(place, {}):
        raise AttributeError(_no(place, place, name))
    raise AttributeError(f"{place}: expected one of {', '.join(module.__all__)}, got {name}.")
