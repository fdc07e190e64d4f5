"""Randomness: every draw has an address, and the address alone decides it.

A draw is a word of Philox4x32-10 at (seed, stream, step, row, column), and
`minidl_kernels.mask_contract` says how these become key and counter. There is no generator and no
hidden state: a seed and three integers are all there is to save. The streams are divided so that
no draw repeats another:

==================  ================================================================
stream              what is drawn
==================  ================================================================
below 2**30         dropout in training: layer n, called for the k-th time in one step
                    (from 0), uses stream n + k * 2**20
from 2**30          the same layers in Monte-Carlo prediction
2**31               the order of the samples; step = epoch
from 2**31 + 1      the initial weights: parameter n of a model uses 2**31 + 1 + n
==================  ================================================================
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
from minidl_kernels.mask_contract import (
    Address,
    check_rate,
    checked_integer,
    keep_mask,
    words,
)

__all__ = [
    "Address",
    "TrainingBlock",
    "check_rate",
    "checked_integer",
    "current_block",
    "inference",
    "keep_mask",
    "monte_carlo",
    "permutation",
    "training",
    "truncated_normal",
    "uniform",
]

LAYER_STREAMS = 2**20
CALLS_PER_STEP = 2**10
MONTE_CARLO_STREAMS = 2**30
ORDER_STREAM = 2**31
WEIGHT_STREAMS = 2**31 + 1


@dataclass
class TrainingBlock:
    """What one ``with training(...)`` says to the layers that are called inside it."""

    step: int | None
    row_offset: int | None
    first_stream: int = 0
    batch_size: int | None = None
    calls: dict[object, int] = field(default_factory=dict)

    @contextmanager
    def batch_of(self, size: int) -> Iterator[None]:
        """Say, while a model is called, how many samples its batch has; the outermost says it."""
        outer = self.batch_size
        self.batch_size = size if outer is None else outer
        try:
            yield
        finally:
            self.batch_size = outer

    def count_call(self, layer: object) -> int:
        """Return how often `layer` was called in this block before, and count this call."""
        call = self.calls.get(layer, 0)
        if call >= CALLS_PER_STEP:
            raise ValueError(
                f"{layer!r}: called more than {CALLS_PER_STEP} times in one training step; "
                "open a new `with training(step=...)` for each step"
            )
        self.calls[layer] = call + 1
        return call


_block: ContextVar[TrainingBlock | None] = ContextVar("minidl training block", default=None)


def current_block() -> TrainingBlock | None:
    """Return the innermost training block, or None in inference mode."""
    return _block.get()


@contextmanager
def training(*, step: int | None = None, row_offset: int | None = None) -> Iterator[None]:
    """Put all layers that are called inside into training mode.

    Parameters
    ----------
    step : int, optional
        The training step that random layers use, in [0, 2**32). Without it each call of a random
        layer takes that layer's next step.
    row_offset : int, optional
        The place of the batch's first sample in the global batch, for micro-batches and workers:
        they share the step and differ in `row_offset`. Default 0. The block does not reach threads
        that are started inside it: each opens its own.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    Two halves of a batch meet the mask of the whole:

    >>> from minidl import Tensor, layers
    >>> dropout, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((4, 3), "float32"))
    >>> with training(step=7):
    ...     whole = dropout(x).numpy()
    >>> with training(step=7, row_offset=2):
    ...     second_half = dropout(x[2:]).numpy()
    >>> bool((whole[2:] == second_half).all())
    True
    """
    if step is not None:
        step = checked_integer("training: step", step, 2**32)
    if row_offset is not None:
        row_offset = checked_integer("training: row_offset", row_offset, 2**32)
    token = _block.set(TrainingBlock(step, row_offset))
    try:
        yield
    finally:
        _block.reset(token)


@contextmanager
def monte_carlo(*, sample: int, row_offset: int) -> Iterator[None]:
    """Let random layers draw as in training, from streams of their own, and keep their steps.

    So one of the many outputs is made that a prediction with dropout averages (Gal & Ghahramani,
    "Dropout as a Bayesian approximation", ICML 2016).

    Parameters
    ----------
    sample : int
        Which one, in [0, 2**32).
    row_offset : int
        The place of the batch's first row among all that are predicted.
    """
    sample = checked_integer("predict: sample", sample, 2**32)
    row_offset = checked_integer("predict: row_offset", row_offset, 2**32)
    token = _block.set(TrainingBlock(sample, row_offset, MONTE_CARLO_STREAMS))
    try:
        yield
    finally:
        _block.reset(token)


@contextmanager
def inference() -> Iterator[None]:
    """Put all layers that are called inside into inference mode, also within `training`."""
    token = _block.set(None)
    try:
        yield
    finally:
        _block.reset(token)


def permutation(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `count` samples in an epoch: the stable argsort of as many words.

    Examples
    --------
    >>> sorted(permutation(4, seed=0, epoch=0).tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(words(1, count, seed=seed, stream=ORDER_STREAM, step=epoch)[0], kind="stable")


def _centred(shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Return numbers of (-1/2, 1/2), float64 and symmetric around 0, exact on every machine."""
    drawn = words(1, int(np.prod(shape)), seed=seed, stream=stream, step=0)
    return ((drawn.astype(np.float64) + 0.5) * 2.0**-32 - 0.5).reshape(shape)


def uniform(shape: tuple[int, ...], limit: float, *, seed: int, stream: int) -> np.ndarray:
    """Return float64 numbers uniform in (-limit, limit)."""
    return _centred(shape, seed, stream) * (2.0 * limit)


# Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics
# 37 (1988) 477-484: PPND16's rational function for the middle of the distribution. Within two
# standard deviations it is used a little beyond its middle and is off by 2.1e-6 at most; it needs
# no logarithm, whose last bit differs from machine to machine.
_NUMERATOR = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_DENOMINATOR = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_WITHIN_TWO_SIGMA = 0.9544997361036416
_TRUNCATED_SIGMA = 0.8796256610342398


def truncated_normal(
    shape: tuple[int, ...], stddev: float, *, seed: int, stream: int
) -> np.ndarray:
    """Return float64 numbers of mean 0, from a normal distribution cut at two sigma.

    Parameters
    ----------
    stddev : float
        The standard deviation of the result, after the cut (as in Keras' initializers).
    """
    q = _centred(shape, seed, stream) * _WITHIN_TWO_SIGMA
    r = 0.180625 - q * q
    normal = q * np.polyval(_NUMERATOR, r) / np.polyval(_DENOMINATOR, r)
    return normal * (stddev / _TRUNCATED_SIGMA)
