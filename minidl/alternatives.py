"""Names and arguments of Keras and PyTorch: what minidl accepts, and what to use instead."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import numpy as np

Kind = TypeVar("Kind")
LookUp = TypeVar("LookUp", AttributeError, ImportError)

TWO_CLASSES = "use binary_crossentropy, with Dense(1, activation='sigmoid')"
SEED = "give the model its seed="
GRADIENT_LOOP = "use loss.backward() and optimizer.update(model.parameters())"
PARAMETERS = "use model.parameters(), or model.get_weights() for arrays"
LISTS_OF_WEIGHTS = "trainable_variables", "trainable_weights", "weights"
METRIC_STATE = "set attributes in reset_state, such as self.total = 0.0"
DENSE_ONLY = "use Flatten and Dense; minidl trains multilayer networks"
FILES = "use model.save and models.load"

# Only what is not obvious from the list of the names that exist.
ALTERNATIVES: dict[str, dict[str, str]] = {
    # names in modules
    "minidl": {
        "Input": "use layers.Input",
        "Model": "use models.Model",
        "Sequential": "use models.Sequential",
        "activations": "pass the name, or any function of a tensor",
        "keras": "import layers, losses, models and optimizers from minidl itself",
        "load": "use models.load",
        "manual_seed": SEED,
        "nn": "use layers, losses and models",
        "ops": "use operators and methods of tensors, and functions such as minidl.where",
        "optim": "use optimizers",
        "random": "use rng",
        "saving": FILES,
        "sklearn": "import minidl.sklearn, with the extra sklearn",
        "utils": f"{SEED}; one-hot targets are np.eye(classes)[y]",
    },
    "losses": {
        "BCEWithLogitsLoss": "use BinaryCrossentropy(from_logits=True)",
        "CrossEntropyLoss": "use SparseCategoricalCrossentropy(from_logits=True)",
        "L1Loss": "use MeanAbsoluteError",
        "MSELoss": "use MeanSquaredError",
    },
    "models": {"load_model": "use models.load", "save_model": "use model.save"},
    "layers": {
        **dict.fromkeys(("Conv1D", "Conv2D", "MaxPooling2D"), DENSE_ONLY),
        **dict.fromkeys(("Embedding", "GRU", "LSTM", "MultiHeadAttention"), DENSE_ONLY),
        "InputLayer": "use Input",
        "Lambda": "use Activation with a function of a tensor",
        "Normalization": "scale arrays with NumPy, or begin with BatchNormalization",
        "Reshape": "subclass Layer; tensors have tensor.reshape and tensor.transpose",
        "add": "use Add()([a, b]), or a + b",
        "concatenate": "use Concatenate()([a, b])",
    },
    # attributes
    "Layer": {
        "get_config": "leave it out; files hold the arguments of the constructor",
        "input": "keep the symbol that the layer was called on",
        "output": "keep the symbol that the call returned",
        **dict.fromkeys(LISTS_OF_WEIGHTS, "use layer.parameters(), each of which has numpy()"),
    },
    "Model": {
        "cuda": "give device= to the model",
        "eval": "call the model outside of `with minidl.training():`",
        "get_config": FILES,
        "input": "keep the symbols of which the model was made",
        "load_state_dict": "use model.load_weights or model.set_weights",
        "metrics_names": "use the keys of model.evaluate(x, y, return_dict=True)",
        "non_trainable_variables": PARAMETERS,
        "non_trainable_weights": PARAMETERS,
        "output": "keep the symbols of which the model was made",
        "state_dict": "use model.save_weights or model.get_weights",
        "to": "give device= to the model, or to models.load",
        "to_json": FILES,
        "train": "use `with minidl.training(step=step):`",
        **dict.fromkeys(LISTS_OF_WEIGHTS, PARAMETERS),
    },
    "Metric": {
        "add_variable": METRIC_STATE,
        "add_weight": METRIC_STATE,
        "variables": METRIC_STATE,
    },
    "Optimizer": {
        "apply_gradients": GRADIENT_LOOP,
        "lr": "use optimizer.learning_rate",
        "minimize": GRADIENT_LOOP,
        "step": "use optimizer.update(model.parameters())",
        "zero_grad": "leave it out; update() clears the gradients of its weights",
    },
    "Tensor": {
        **dict.fromkeys(("add_", "zero_"), "compute a new tensor; tensors do not change"),
        **dict.fromkeys(("cpu", "cuda"), "use tensor.to"),
        "flatten": "use tensor.reshape(-1)",
        "float": "use tensor.astype",
        "min": "use -(-x).max()",
        "permute": "use tensor.transpose",
        "pow": "use x ** n",
        "square": "use x * x",
        "tolist": "use tensor.numpy().tolist()",
        "unsqueeze": "use tensor.expand_dims",
        "view": "use tensor.reshape",
    },
    # names that compile takes
    "loss": {"kld": "use CategoricalCrossentropy, which differs by a constant"},
    "metric": {"f1": "use f1_score"},
    # arguments of Keras, at another value than `keras_defaults` accepts
    "argument": {
        "decay": "use a schedule as the learning rate",
        "dtype": "give the model its dtype=",
        "format": "convert the ONNX file with another tool",
        "input_dim": "use input_shape=(input_dim,)",
        "lr": "use learning_rate",
        "trainable": "set its attribute trainable, which holds for later weights, too",
    },
    # definitions in a subclass that minidl would never use
    "call's parameters": {
        "mask": "leave it out",
    },
    "methods of Model": {
        "compute_loss": "subclass losses.Loss and pass it to compile",
        "compute_metrics": "subclass metrics.Metric and pass it to compile",
        **dict.fromkeys(
            ("make_predict_function", "make_test_function", "predict_step", "test_step"),
            "define call, or a method of another name that calls the model",
        ),
        **dict.fromkeys(
            ("make_train_function", "train_step"),
            f"write the loop in a method of another name: {GRADIENT_LOOP}",
        ),
    },
    "methods of Loss": {"call": "define per_sample(self, y_true, y_pred)"},
    "methods of Initializer": {"__call__": "define draw(self, shape, *, seed, stream)"},
    "methods of Constraint": {"__call__": "define apply(self, weight, backend)"},
    "methods of Optimizer": dict.fromkeys(
        ("apply_gradients", "update_step"),
        "define rule(self, weights, gradients, rate, decay)",
    ),
    "Callback": {
        "on_batch_begin": "define on_train_batch_begin",
        "on_batch_end": "define on_train_batch_end",
        "set_model": "use self.model, which is set before on_train_begin",
        "set_params": "use self.params, which is set before on_train_begin",
    },
}


def sentence(text: str) -> str:
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


class RefusesMethods:
    """Base of classes whose subclasses must not define methods of Keras that minidl never calls."""

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        for kind in cls.__mro__:
            place = f"methods of {kind.__name__}"
            if place in ALTERNATIVES:
                refuse_names(place, dir(cls), who=cls.__name__)


def _no(who: str, place: str, name: str) -> str:
    return f"{who}: minidl has no {name}. {sentence(ALTERNATIVES[place][name])}"


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
                        f"{value!r}. {sentence(advice)}"
                    )
            return function(*arguments, **options)

        if not is_class:
            return accepting
        target.__init__ = accepting
        return target

    return decorate


def unavailable(place: str, name: str) -> Any:
    """Return an attribute of Keras that minidl lacks: reading and setting it raise AttributeError.

    Without this, setting it would silently do nothing.

    Parameters
    ----------
    place : str
        The entry of `ALTERNATIVES` that names the alternative.
    name : str
        The name of the attribute.
    """

    def refuse(owner: object, *value: object) -> NoReturn:
        raise _lookup_error(AttributeError, _no(place, place, name))

    return property(refuse, refuse)


def missing_attribute(owner: object, place: str, name: str) -> Any:
    """Raise AttributeError for a missing attribute, with the alternative if there is one.

    It is for ``__getattr__`` of a class.
    """
    # If the class has the name, a property has failed: Python's own error says why.
    if not hasattr(type(owner), name) and name in ALTERNATIVES[place]:
        raise _lookup_error(AttributeError, _no(place, place, name))
    return object.__getattribute__(owner, name)


def suggest_alternatives(*modules: ModuleType) -> None:
    """Make packages tell what to use instead of a missing name, or list the names they have.

    ``layers.Conv2D`` raises AttributeError, and ``from minidl.layers import Conv2D`` ImportError.
    """
    for module in modules:
        vars(module)["__getattr__"] = functools.partial(_missing_name, module, AttributeError)
    sys.meta_path.append(_MissingModules(modules))


def _missing_name(module: ModuleType, error: type[LookUp], name: str) -> NoReturn:
    place = module.__name__.removeprefix("minidl.")
    if name in ALTERNATIVES.get(place, {}):
        raise _lookup_error(error, _no(place, place, name))
    names, alike = module.__all__, get_close_matches(name, module.__all__, n=1)
    guess = f" Did you mean {alike[0]}?" if alike else ""
    raise _lookup_error(error, f"{place}: expected one of {', '.join(names)}, got {name}.{guess}")


def _lookup_error(error: type[LookUp], text: str) -> LookUp:
    """Return an error to whose text Python does not add a guess: it would contradict the advice."""
    return error(text, name=None)


class _MissingModules(MetaPathFinder):
    """Finder of modules that comes last, and raises ImportError for what a package lacks.

    Python asks it for a module ``minidl.layers.Conv2D`` if the package has no such attribute.
    """

    def __init__(self, packages: Sequence[object]):
        self._packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        place, _, name = fullname.rpartition(".")
        if sys.modules.get(place) in self._packages and not name.startswith("_"):
            _missing_name(sys.modules[place], ImportError, name)
