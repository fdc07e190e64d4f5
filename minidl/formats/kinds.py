"""Classes that descriptions may name, and their names in files."""

import inspect
from types import ModuleType
from typing import Any

from minidl import constraints, initializers, layers, losses, metrics, optimizers, regularizers
from minidl.models import Functional, Sequential
from minidl.optimizers import schedules

# The base classes of everything that a description may name. They are abstract themselves.
BASES = (
    layers.Layer,
    initializers.Initializer,
    constraints.Constraint,
    regularizers.Regularizer,
    optimizers.Optimizer,
    schedules.LearningRateSchedule,
    losses.Loss,
    metrics.Metric,
)
_ABSTRACT = {layers.Input, *BASES}
MODULES = (layers, initializers, constraints, regularizers, optimizers, schedules, losses, metrics)
# The classes that files name without their module. Later ones have it, since users may have a class
# of the same name.
_OLDEST = {
    *("MaxNorm", "SGD", "RMSprop", "Adam", "AdamW", "Zeros", "Ones", "GlorotUniform"),
    *("GlorotNormal", "HeUniform", "HeNormal", "LecunUniform", "LecunNormal", "MeanSquaredError"),
    *("SparseCategoricalCrossentropy", "CategoricalCrossentropy", "Accuracy"),
    *("CategoricalAccuracy", "SparseCategoricalAccuracy"),
}


def _file_name(kind: type, module: ModuleType) -> str:
    """Return the name of a class in files."""
    is_metric = module is metrics and kind.__name__ == "MeanSquaredError"  # older is the loss
    if module in (layers, schedules) or (kind.__name__ in _OLDEST and not is_metric):
        return kind.__name__
    return f"{module.__name__[len('minidl.') :]}.{kind.__name__}"


KNOWN: dict[str, type] = {
    _file_name(kind, module): kind
    for module in MODULES
    for kind in map(vars(module).get, module.__all__)
    if inspect.isclass(kind) and issubclass(kind, BASES) and kind not in _ABSTRACT
} | {"Functional": Functional, "Sequential": Sequential}
NAMES: dict[Any, str] = {kind: name for name, kind in KNOWN.items()}
Described = Functional | Sequential  # the models that files can hold
