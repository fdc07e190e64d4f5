"""Base class of callbacks that act on the improvement of a logged value."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minidl.arguments import number, one_of
from minidl.callbacks.base import Callback, Logs, numbers


@dataclass(eq=False, repr=False)
class Monitor(Callback):
    """Base class of callbacks that act on the improvement of a logged value.

    Parameters
    ----------
    monitor : str
        The name of the value.
    min_delta : float
        The least change that counts as an improvement.
    mode : {"auto", "min", "max"}
        Whether less or more is better; `direction` decides for auto.

    Attributes
    ----------
    best : float or None
        The best value so far: the first that is not NaN, or a better one.
    remembered : tuple of str
        The attributes that the callback remembers.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or mode is auto and the name unknown.
    """

    monitor: str
    min_delta: float
    mode: str
    remembered: ClassVar[tuple[str, ...]] = ("best",)

    def __post_init__(self) -> None:
        who = type(self).__name__
        if not isinstance(self.monitor, str):
            raise TypeError(f"{who}: expected monitor to be a string, got {self.monitor!r}.")
        one_of(who, "mode", self.mode, ("auto", "min", "max"))
        mode = direction(self.monitor) if self.mode == "auto" else self.mode
        if mode is None:
            raise ValueError(
                f'{who}: expected mode to be "min" or "max" for monitor={self.monitor!r}, got '
                '"auto". Pass mode="max" if more is better, or mode="min".'
            )
        self.sign = 1 if mode == "max" else -1
        self.min_delta = abs(number(who, "min_delta", self.min_delta, "(-inf, inf)"))

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name, and begin with the best value of the history.

        Raises
        ------
        ValueError
            If no value of the name is logged, and no callback can add one.
        """
        if self.monitor not in self.params["metrics"] and not self.params["may_log_more"]:
            raise self._unknown(self.params["metrics"])
        past = [numbers(logs).get(self.monitor, math.nan) for logs in self.model.history.logs]
        known = [value for value in past if not math.isnan(value)]
        self.best = max(known, key=lambda value: self.sign * value, default=None)

    def _unknown(self, names: Iterable[str]) -> ValueError:
        return ValueError(
            f"{type(self).__name__}: expected monitor to be one of {', '.join(map(str, names))}, "
            f"got {self.monitor!r}. Choose one of them, pass validation data for val_ names, or "
            "list a callback that adds a number of this name before this one."
        )

    def value(self, logs: Mapping[str, Any]) -> float | None:
        """Return the value of an epoch; None if it belongs to a validation that was not due.

        Raises
        ------
        ValueError
            If it is not logged as a number.
        """
        known = numbers(logs)
        if self.monitor not in known:
            is_validated = any(name.startswith("val_") for name in known)
            if self.monitor in self.params["metrics"] and not is_validated:
                return None
            raise self._unknown(known)
        return known[self.monitor]

    def improves(self, value: float) -> bool:
        """Return whether `value` is the best so far, and store it if so."""
        is_best = self.is_better(value, self.best)
        if is_best:
            self.best = value
        return is_best

    def is_better(self, value: float, other: float | None) -> bool:
        """Return whether a value is better by more than `min_delta`; NaN is not, None is worst."""
        if other is None:
            return not math.isnan(value)
        return self.sign * value - self.min_delta > self.sign * other

    def state(self) -> dict[str, Any]:
        """Return what is remembered; in files, a best value is negated if less is better."""
        values = {name: getattr(self, name) for name in self.remembered}
        return values | {"best": None if self.best is None else self.sign * self.best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        for name in self.remembered:
            setattr(self, name, state[name])
        self.best = None if state["best"] is None else self.sign * state["best"]


# The last words of names.
LESS_IS_BETTER = {"loss", "error", "crossentropy", "divergence", "hinge", "perplexity", "nll"}
LESS_IS_BETTER |= {"mae", "mape", "mse", "msle", "rmse"}
MORE_IS_BETTER = {"acc", "accuracy", "auc", "f1", "fbeta", "iou", "precision", "r2", "recall"}


def direction(name: str) -> str | None:
    """Return "min" or "max" for a known name of a loss or metric, or None.

    The last word decides, without a number or ``score`` after it.

    Examples
    --------
    >>> direction("accumulated_loss"), direction("val_f1_score"), direction("gap")
    ('min', 'max', None)
    """
    words = re.sub(r"(_score|_\d+)+$", "", name.lower()).split("_")
    if "neg" in words or "negative" in words:
        return None
    if words[-1] in LESS_IS_BETTER:
        return "min"
    return "max" if words[-1] in MORE_IS_BETTER else None
