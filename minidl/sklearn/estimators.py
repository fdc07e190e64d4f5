"""Classifier and regressor for scikit-learn."""

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from minidl.sklearn.base import MLP


class MLPClassifier(ClassifierMixin, MLP):
    """Multilayer network with dropout that classifies, with the parameters of scikit-learn's.

    Several labels for each sample, as a matrix of 0 and 1, are learned by one output each.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        The units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu"}
        That of the hidden layers.
    solver : {"adam", "sgd"}
        The optimizer; scikit-learn's "lbfgs" cannot use dropout.
    alpha : float
        Factor of the L2 penalty: half of it times the sum of the squared weights, divided by the
        batch size, is added to the loss.
    batch_size : int or "auto"
        Samples in an update; "auto" is 200. If there are fewer samples, they are one batch.
    learning_rate : {"constant", "invscaling", "adaptive"}
        For "sgd": the rate stays; or it is ``learning_rate_init / (t + 1)**power_t`` after t
        samples; or it is divided by 5 instead of stopping, down to 1e-6.
    learning_rate_init, power_t
        The learning rate of the first epoch, and its exponent.
    max_iter : int
        The largest number of epochs.
    shuffle : bool
        Whether each epoch has its own order.
    random_state : int, RandomState or None
        Source of the seed of weights, orders and dropout, and of the validation samples. Equal
        integers give equal bits.
    tol, n_iter_no_change
        Training stops after more than `n_iter_no_change` epochs in which the loss, or the
        validation score, improved by less than `tol`.
    verbose : bool
        Whether a line is printed for each epoch.
    warm_start : bool
        Whether `fit` goes on from the weights of the last one.
    momentum, nesterovs_momentum
        Those of "sgd".
    early_stopping : bool
        Whether a share of the samples, `validation_fraction`, is held out: their score decides when
        to stop, and the weights of its maximum are kept.
    beta_1, beta_2, epsilon
        Those of "adam".
    dropout : float or list of float
        The dropout rate after each hidden layer, in [0, 1), or a list with one for each.
    input_dropout : float
        That of the features.
    device : str
        As in `models.Model`.

    Attributes
    ----------
    classes_ : numpy.ndarray
        The labels.
    coefs_, intercepts_ : list of numpy.ndarray
        Weights and biases, copied from the device.
    loss_curve_, validation_scores_ : list of float
        The loss, with the penalty and dropout, and the score of each epoch.
    n_iter_, n_layers_, n_outputs_, out_activation_, t_, loss_, best_loss_, best_validation_score_
        As in scikit-learn.

    Notes
    -----
    Inputs of float32 and float64 are computed in their dtype, others in float32, which takes half
    the time of float64. In the workers of joblib, the kernels share the cores.

    Examples
    --------
    >>> X, y = np.eye(4), ["cat", "dog", "cat", "owl"]
    >>> network = MLPClassifier(16, dropout=0.2, learning_rate_init=0.1, random_state=0, tol=0.01)
    >>> network.fit(X, y).predict(X).tolist()
    ['cat', 'dog', 'cat', 'owl']
    >>> network.predict_uncertainty(X, samples=10).std.shape
    (4, 3)
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch; the first call names all `classes`.

        X, y and sample_weight are those of `fit`.
        """
        if not hasattr(self, "_model"):
            if classes is None:
                raise ValueError(
                    "partial_fit: expected classes in the first call, got None. Pass all labels."
                )
            self._fit_labels(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, is_partial=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, in the order of `classes_`."""
        probabilities = self._outputs(X)
        return self._columns(probabilities, 1 - probabilities)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _fit_labels(self, y: Any) -> None:
        self._binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._binarizer.classes_

    def _targets(self, y: np.ndarray, is_new: bool) -> np.ndarray:
        check_classification_targets(y)
        if is_new:
            self._fit_labels(y)
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(
                f"{type(self).__name__}: expected classes of {self.classes_}, got {unknown}. Name "
                "all classes in the first partial_fit, or set warm_start=False."
            )
        kind = self._binarizer.y_type_
        self.out_activation_ = "softmax" if kind == "multiclass" else "logistic"
        if kind == "multiclass":
            self.n_outputs_ = len(self.classes_)
            return np.searchsorted(self.classes_, y)
        targets = self._binarizer.transform(y)
        self.n_outputs_ = targets.shape[1]
        return targets

    def _decoded(self, outputs: np.ndarray) -> np.ndarray:
        return self._binarizer.inverse_transform(outputs if outputs.shape[1] > 1 else outputs[:, 0])

    def _columns(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.hstack([others, values]) if self.n_outputs_ == 1 else values


class MLPRegressor(RegressorMixin, MLP):
    """Multilayer network with dropout for one or several numbers, as scikit-learn's.

    Its loss is half the squared error, summed over the outputs, whose gradient scikit-learn uses.
    Parameters and attributes are those of `MLPClassifier`, without classes.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> network = MLPRegressor(16, learning_rate_init=0.05, random_state=0)
    >>> network.fit(X, 3 * X[:, 0] + 1).score(X, 3 * X[:, 0] + 1) > 0.99
    True
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch; X, y and sample_weight are those of `fit`."""
        return self._fit(X, y, sample_weight, is_partial=True)

    def _targets(self, y: np.ndarray, is_new: bool) -> np.ndarray:
        self.out_activation_ = "identity"
        targets = y.reshape(len(y), -1)
        self.n_outputs_ = targets.shape[1]
        return targets

    def _decoded(self, outputs: np.ndarray) -> np.ndarray:
        return self._columns(outputs, outputs)

    def _columns(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return values[:, 0] if self.n_outputs_ == 1 else values
