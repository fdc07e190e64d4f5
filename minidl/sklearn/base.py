"""Base class of the estimators for scikit-learn: parameters, network and training."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from minidl import callbacks, layers, losses, models, optimizers
from minidl.arguments import number, one_of, positive_integer
from minidl.engine.tensor import Tensor
from minidl.regularizers import L2
from minidl.trainer.uncertainty import Uncertainty

AUTO_BATCH_SIZE = 200
PREDICTED_AT_ONCE = 1000
LEAST_RATE = 1e-6  # at which learning_rate="adaptive" stops

_LAYER_NAMES = {"identity": "linear", "logistic": "sigmoid"}  # other names are the same
_CHOICES = {
    "activation": ("identity", "logistic", "relu", "tanh"),
    "solver": ("adam", "sgd"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
}
_RANGES = {
    "[0, inf)": ("alpha", "power_t", "tol"),
    "(0, inf)": ("learning_rate_init",),
    "[0, 1)": ("input_dropout",),
    "(0, 1)": ("validation_fraction",),
}
_INTEGERS = {"batch_size": "auto", "max_iter": None, "n_iter_no_change": math.inf}


class _LabelsCrossentropy(losses.BinaryCrossentropy):
    """Cross-entropy of yes-or-no labels: the sum over the labels, as in scikit-learn."""

    recordable = True

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return super().per_sample(y_true, y_pred) * y_pred.shape[-1]


class _HalfSquaredError(losses.MeanSquaredError):
    """Half the squared error: the sum over the outputs, whose gradient scikit-learn uses."""

    recordable = True

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return super().per_sample(y_true, y_pred) * (y_pred.shape[-1] / 2)


_LOSSES: dict[str, type[losses.Loss]] = {
    "identity": _HalfSquaredError,
    "logistic": _LabelsCrossentropy,
    "softmax": losses.SparseCategoricalCrossentropy,
}


class _Progress(callbacks.Callback):
    """Curves, learning rate and early stopping after each epoch, as in scikit-learn.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Its attributes hold the curves.
    rows : int
        The number of training samples.
    held_out : sequence
        X, targets, y and perhaps weights of the validation samples; empty without early stopping.

    Attributes
    ----------
    is_over : bool
        Whether training stopped because it no longer improved.
    best_weights : list of numpy.ndarray or None
        Those of the best validation score.
    """

    def __init__(self, estimator: Any, rows: int, held_out: Sequence[Any]):
        self.estimator, self.rows, self.held_out = estimator, rows, held_out
        self.best, self.waited, self.is_over = -math.inf, 0, False
        self.best_weights: list[np.ndarray] | None = None
        self.verbose = estimator.verbose

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Note the loss and the score, and stop if they no longer improve."""
        estimator, loss = self.estimator, logs["loss"]
        estimator.n_iter_, estimator.loss_ = epoch + 1, loss
        estimator.t_ += self.rows
        estimator.loss_curve_.append(loss)
        is_finite = math.isfinite(loss)
        score = -loss
        if self.held_out and is_finite:
            score = logs["validation_score"] = self._validation_score()
        self.waited = self.waited + 1 if score < self.best + estimator.tol else 0
        if score > self.best:
            self.best = score
            self.best_weights = self.model.get_weights() if self.held_out else None
        self._change_rate()
        self.is_over = self.waited > estimator.n_iter_no_change or not is_finite
        self.model.stop_training = self.is_over
        if self.is_over and is_finite:
            value = "validation_score" if self.held_out else "loss"
            self.announce(f"Epoch {epoch + 1}: {value} no longer improved by tol={estimator.tol}")

    def _validation_score(self) -> float:
        X, _, y, *weights = self.held_out
        predicted = self.estimator._decoded(self.model.predict(X, PREDICTED_AT_ONCE, verbose=0))
        measure = accuracy_score if is_classifier(self.estimator) else r2_score
        score = float(measure(y, predicted, sample_weight=weights[0] if weights else None))
        self.estimator.validation_scores_ = [*(self.estimator.validation_scores_ or []), score]
        return score

    def _change_rate(self) -> None:
        """Follow the parameter `learning_rate`; a lower rate begins a new wait."""
        estimator: Any = self.estimator
        optimizer: Any = self.model.optimizer
        rule = estimator.learning_rate if estimator.solver == "sgd" else "constant"
        if rule == "invscaling":
            rate = estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t
            optimizer.learning_rate = rate
        is_waiting = self.waited > estimator.n_iter_no_change
        if rule == "adaptive" and is_waiting and optimizer.learning_rate > LEAST_RATE:
            optimizer.learning_rate, self.waited = optimizer.learning_rate / 5, 0


@dataclass(eq=False, repr=False)
class MLP(BaseEstimator):
    """Base class of both estimators: the parameters, the network and its training."""

    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"
    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    dropout: Any = 0.0
    input_dropout: float = 0.0
    device: str = "cpu"

    # -------------------------------------------------------------------- of the kind

    def _targets(self, y: np.ndarray, is_new: bool) -> np.ndarray:
        """Return what the network learns; set `n_outputs_` and `out_activation_`."""
        raise NotImplementedError

    def _decoded(self, outputs: np.ndarray) -> np.ndarray:
        """Return what `predict` returns for outputs of the network."""
        raise NotImplementedError

    def _columns(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return values of the outputs; `others` are those of the first class, if it has none."""
        raise NotImplementedError

    # -------------------------------------------------------------------- use

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weight of each layer, of shape (inputs, outputs)."""
        return self._model.get_weights()[::2]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The bias of each layer."""
        return self._model.get_weights()[1::2]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the network, with `warm_start` from its weights so far.

        Parameters
        ----------
        X : array_like of shape (samples, features)
            The inputs. Sparse ones are rejected.
        y : array_like of shape (samples,) or (samples, outputs)
            The targets.
        sample_weight : array_like of shape (samples,), optional
            The weights of the samples' losses, 0 or above.

        Raises
        ------
        TypeError, ValueError
            If data or a parameter are invalid, or if weights did not stay finite.
        """
        return self._fit(X, y, sample_weight)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions for the rows of `X`, without dropout."""
        return self._decoded(self._outputs(X))

    def predict_uncertainty(self, X: Any, samples: int = 20) -> Uncertainty:
        """Return mean and spread of `samples` outputs with dropout for each row of `X`.

        Returns
        -------
        Uncertainty
            ``mean`` and ``std`` have the shape of `predict`, or of `predict_proba` for classes.
            ``predictive_entropy`` and ``mutual_information`` are there for more than two classes,
            else None.

        Warns
        -----
        UserWarning
            If the estimator was trained without dropout, so that the spread is 0.
        """
        check_is_fitted(self)
        if not any(x.rate for x in self._model.layers if isinstance(x, layers.Dropout)):
            warnings.warn(
                "predict_uncertainty: expected an estimator with dropout, got rates of 0, so the "
                "spread is 0. Fit with dropout=0.5.",
                stacklevel=2,
            )
        drawn = self._outputs(X, samples=samples)
        mean, std = drawn.mean, drawn.std
        return drawn._replace(mean=self._columns(mean, 1 - mean), std=self._columns(std, std))

    def _outputs(self, X: Any, **options: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=self._model.dtype, reset=False)
        return self._model.predict(X, PREDICTED_AT_ONCE, verbose=0, **options)

    # -------------------------------------------------------------------- training

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, is_partial: bool = False) -> Self:
        self._check_parameters(is_partial)
        is_first = not hasattr(self, "_model") or not (is_partial or self.warm_start)
        checks = {"multi_output": True, "y_numeric": is_regressor(self), "reset": is_first}
        dtype = [np.float32, np.float64] if is_first else self._model.dtype
        X, y = validate_data(self, X, y, dtype=dtype, **checks)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        arrays = [X, self._targets(y, is_first and not is_partial), y]
        if sample_weight is not None:
            arrays.append(_checked_weight(sample_weight, len(X)))
        generator = check_random_state(self.random_state)
        if is_first or not is_partial:
            self._prepare(is_first, X.dtype, generator.randint(2**31 - 1))
        held_out: Sequence[Any] = ()
        if self.early_stopping:
            is_stratified = is_classifier(self) and y.ndim == 1
            options = {"test_size": self.validation_fraction, "random_state": generator}
            parts = train_test_split(*arrays, stratify=y if is_stratified else None, **options)
            arrays, held_out = parts[::2], parts[1::2]
        progress = _Progress(self, len(arrays[0]), held_out)
        self._train(arrays, 1 if is_partial else self.max_iter, progress)
        if not all(np.isfinite(weight).all() for weight in self._model.get_weights()):
            raise ValueError(
                f"{type(self).__name__}: expected finite weights, got others after training. Scale "
                "the data, or lower learning_rate_init."
            )
        if not (progress.is_over or is_partial):
            warnings.warn(
                f"{type(self).__name__}: expected convergence, but training ended after "
                f"max_iter={self.max_iter} epochs. Raise max_iter.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _check_parameters(self, is_partial: bool) -> None:
        """Raise an error if a parameter is invalid that layers and optimizers do not check."""
        who = type(self).__name__
        for name, allowed in _CHOICES.items():
            one_of(who, name, getattr(self, name), allowed)
        for interval, names in _RANGES.items():
            for name in names:
                number(who, name, getattr(self, name), interval)
        rates, hidden = np.atleast_1d(self.dropout).tolist(), np.size(self.hidden_layer_sizes)
        for rate in rates:
            number(who, "dropout", rate, "[0, 1)")
        if len(rates) not in (1, hidden):
            raise ValueError(
                f"{who}: expected one dropout, or one for each of the {hidden} hidden layers, got "
                f"{self.dropout!r}."
            )
        for name, other in _INTEGERS.items():
            if getattr(self, name) != other:
                positive_integer(f"{who}: {name}", getattr(self, name))
        if self.early_stopping and is_partial:
            raise ValueError("partial_fit: expected early_stopping=False, got True. Use fit.")

    def _prepare(self, is_first: bool, dtype: np.dtype, seed: int) -> None:
        """Build a new network, or check that it is that of `warm_start`; compile it anew."""
        rate = self.learning_rate_init
        optimizer: optimizers.Optimizer
        if self.solver == "sgd":
            optimizer = optimizers.SGD(rate, self.momentum, self.nesterovs_momentum)
        else:
            optimizer = optimizers.Adam(rate, self.beta_1, self.beta_2, self.epsilon)
        hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
        shape = [self.n_features_in_, *hidden, self.n_outputs_]
        network = shape, self.activation, self.device
        if is_first:
            stack: list[Any] = [layers.Input((shape[0],)), layers.Dropout(0.0)]
            for units in hidden:
                stack += [layers.Dense(units, _layer_name(self.activation)), layers.Dropout(0)]
            stack.append(layers.Dense(shape[-1], _layer_name(self.out_activation_)))
            self._model = models.Sequential(stack, device=self.device, dtype=dtype.name, seed=seed)
            self._network, self.n_layers_, self.t_ = network, len(shape), 0
            self.n_iter_, self.loss_ = 0, math.nan
            self.loss_curve_: list[float] = []
            self.validation_scores_: list[float] | Any = None
        elif network != self._network:
            raise ValueError(
                f"{type(self).__name__}: expected the network of the last fit, {self._network}, "
                f"got {network}. Use warm_start=False."
            )
        self._model.compile(optimizer, _LOSSES[self.out_activation_]())

    def _train(self, arrays: Sequence[Any], epochs: int, progress: _Progress) -> None:
        """Train the network on (X, targets, y) or (X, targets, y, weight)."""
        X, targets, _, *weights = arrays
        given = AUTO_BATCH_SIZE if isinstance(self.batch_size, str) else self.batch_size
        batch_size = min(given, len(X))
        mean = weights[0].mean() if weights else 1.0
        penalty = L2(self.alpha / 2 / (batch_size * mean)) if self.alpha else None
        for weight in self._model.parameters()[::2]:
            weight.regularizer = penalty
        first, *others = [x for x in self._model.layers if isinstance(x, layers.Dropout)]
        first.rate = self.input_dropout
        for layer, rate in zip(others, np.resize(self.dropout, len(others)), strict=True):
            layer.rate = float(rate)
        options: Any = {"sample_weight": weights[0] / mean} if weights else {}
        options |= {"callbacks": progress, "shuffle": self.shuffle}
        self._model.fit(X, targets, batch_size, epochs, 2 if self.verbose else 0, **options)
        if progress.best_weights is not None:
            self._model.set_weights(progress.best_weights)
        scores = self.validation_scores_
        self.best_validation_score_ = max(scores) if scores else None
        self.best_loss_ = None if scores else min(self.loss_curve_)


def _layer_name(activation: str) -> str:
    return _LAYER_NAMES.get(activation, activation)


def _checked_weight(weight: Any, rows: int) -> np.ndarray:
    """Return weights of the samples, or raise ValueError."""
    weight = check_array(weight, ensure_2d=False, dtype="float64", input_name="sample_weight")
    if weight.shape != (rows,) or weight.min() < 0 or not weight.sum():
        raise ValueError(
            f"sample_weight: expected {rows} weights, none negative and not all zero, got "
            f"shape {weight.shape}. Pass one for each sample."
        )
    return weight
