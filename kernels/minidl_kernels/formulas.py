"""Elementwise formulas, shared by the kernels of `cpu` and `cuda`.

They are plain Python. Each device compiles them into its kernels with ``inline="always"``, so that
loops over them vectorise. A constant has a NumPy type: a bare 0.0 would make the arithmetic of a
float32 kernel float64.

The CPU rounds after every operation. A GPU may contract a multiplication and an addition into one
fused multiply-add (FMA), which rounds once. So formulas whose bits are promised contain no
multiply-add, or are compiled by `cuda.jit.inline_rounded`.
"""

import math
from typing import Any

from numpy import float32


def drop(x: Any, word: Any, threshold: Any, scale: Any) -> Any:
    """Return `x` times `scale`, or +0.0 if the word drops the element.

    Zero comes by selection: the product of zero with NaN or infinity would be NaN.
    """
    kept = x * scale
    return kept if word >= threshold else float32(0)


def at_least(floor: Any, x: Any) -> Any:
    """Return the larger of the two: relu at floor 0, the identity at floor -inf.

    NaN stays, and relu of -0.0 is +0.0, as in NumPy.
    """
    return floor if x <= floor else x


def larger(a: Any, b: Any) -> Any:
    """Return the larger of the two, or `b` if one of them is NaN."""
    return a if a > b else b


def cross_entropy(logit: Any, largest: Any, total: Any) -> Any:
    """Return -log softmax at the label of a row.

    Parameters
    ----------
    logit, largest : float
        Logit of the label, and the row's largest logit.
    total : float
        Sum of exp(other logit - largest) over the row.
    """
    return math.log(total) + (largest - logit)


def ranks_below(other: Any, place: Any, logit: Any, label: Any) -> Any:
    """Return whether class `place` with logit `other` does not win against the label.

    Of equal logits the first wins. NaN never ranks below: a row with NaN has no correct prediction.
    """
    return other < logit or (other == logit and place >= label)


def cross_entropy_gradient(probability: Any, one_hot: Any, share: Any) -> Any:
    """Return the gradient of the mean loss for one logit.

    `share` is the gradient of the mean, divided by the number of rows.
    """
    return (probability - one_hot) * share


def sgd(w: Any, g: Any, rate: Any, decay: Any) -> Any:
    """Return a weight after gradient descent.

    In this and the following rules, the weight is first multiplied by `decay`.
    """
    return w * decay - rate * g


def momentum(w: Any, g: Any, v: Any, rate: Any, momentum: Any, decay: Any) -> tuple[Any, Any]:
    """Return weight and velocity after gradient descent with momentum."""
    v = momentum * v - rate * g
    return w * decay + v, v


def nesterov(w: Any, g: Any, v: Any, rate: Any, momentum: Any, decay: Any) -> tuple[Any, Any]:
    """Return weight and velocity after Nesterov's step (Sutskever et al., ICML 2013)."""
    step = rate * g
    v = momentum * v - step
    return w * decay + momentum * v - step, v


def rmsprop(
    w: Any, g: Any, s: Any, rate: Any, rho: Any, new_square: Any, epsilon: Any, decay: Any
) -> tuple[Any, Any]:
    """Return weight and mean square after RMSprop (Hinton, lecture 6e, 2012).

    `new_square` is 1 - rho, the share of the new gradient.
    """
    s = rho * s + new_square * g * g
    return w * decay - rate * g / math.sqrt(s + epsilon), s


def adam(
    w: Any,
    g: Any,
    m: Any,
    s: Any,
    rate: Any,
    new_mean: Any,
    new_square: Any,
    epsilon: Any,
    decay: Any,
) -> tuple[Any, Any, Any]:
    """Return weight, mean and mean square after Adam (Kingma & Ba, ICLR 2015, algorithm 1).

    `rate` includes both bias corrections; `new_mean` and `new_square` are 1 - beta_1 and
    1 - beta_2, the shares of the new gradient.
    """
    m = m + new_mean * (g - m)
    s = s + new_square * (g * g - s)
    return w * decay - rate * m / (math.sqrt(s) + epsilon), m, s
