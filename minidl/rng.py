"""Random streams and addresses: every random decision depends only on its address.

A draw is a word of Philox4x32-10 at (seed, stream, step, row, column);
`minidl_kernels.mask_contract` maps these to key and counter, and `minidl_kernels.number_contract`
maps words to uniform and normal numbers. There is no generator and no hidden state: a seed and
three integers are all that is saved. The stream numbers are divided, so that no draw repeats
another:

==================  ================================================================
stream              use
==================  ================================================================
below 2**30         random layers in training: stream n, call k of one step (from 0),
                    draws from n + k * 2**20
from 2**30          the same streams in Monte-Carlo prediction
2**31               the order of the samples; step = epoch
from 2**31 + 1      initial weights: parameter n of a model uses 2**31 + 1 + n
==================  ================================================================
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from minidl_kernels.checks import check_rate, checked_integer
from minidl_kernels.mask_contract import Address, keep_mask, words
from minidl_kernels.number_contract import normal, uniform, word

from minidl.arguments import optional
from minidl.engine.scope import Frame, Scope

__all__ = [
    "Address",
    "RandomStream",
    "batch_of",
    "check_rate",
    "checked_integer",
    "inference",
    "initial_truncated_normal",
    "initial_uniform",
    "is_monte_carlo",
    "is_training",
    "keep_mask",
    "monte_carlo",
    "normal",
    "permutation",
    "training",
    "uniform",
    "word",
]

LAYER_STREAMS = 2**20
CALLS_PER_STEP = 2**10
MONTE_CARLO_STREAMS = 2**30
ORDER_STREAM = 2**31
WEIGHT_STREAMS = 2**31 + 1


# ------------------------------------------------------------------------------ modes


@dataclass
class _Block:
    """One ``with training(...)`` block: the address of all draws inside it."""

    step: int | None
    row_offset: int | None
    first_stream: int = 0
    batch_size: int | None = None
    calls: dict["RandomStream", int] = field(default_factory=dict)
    moving: Mapping["RandomStream", tuple[Any, ...]] = field(default_factory=dict)


_OUTSIDE = Frame(None)
_block: ContextVar[Frame] = ContextVar("minidl training block", default=_OUTSIDE)


def _current() -> _Block | None:
    return _block.get().value


def is_training() -> bool:
    """Return whether random layers draw: inside of `training`, or in Monte-Carlo prediction.

    Examples
    --------
    >>> with training():
    ...     is_training()
    True
    """
    return _current() is not None


def is_monte_carlo() -> bool:
    """Return whether this is Monte-Carlo prediction, where layers draw but keep no statistics."""
    block = _current()
    return block is not None and block.first_stream == MONTE_CARLO_STREAMS


def training(
    *,
    step: int | None = None,
    row_offset: int | None = None,
    moving: Mapping["RandomStream", tuple[Any, ...]] | None = None,
) -> Scope:
    """Put all layers that are called inside into training mode.

    The block does not reach threads that start inside it: each thread opens its own. It can also
    decorate functions. Each entry of the block begins anew with the first draw of its step.

    Parameters
    ----------
    step : int, optional
        The training step that random layers use, in [0, 2**32). Without it, each call of a random
        layer uses the next step of that layer.
    row_offset : int, optional
        Index of the batch's first sample in the global batch, in [0, 2**32). Micro-batches and
        workers share the step and differ in `row_offset`. Default 0.
    moving : mapping of RandomStream to tuple, optional
        The numbers that kernels take for a rate that is a schedule, if they are known: those of
        a recorded step are placed. Default: each layer computes its own.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    Two halves of a batch get the mask of the whole batch:

    >>> from minidl import Tensor, layers
    >>> dropout, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((4, 3), "float32"))
    >>> with training(step=7):
    ...     whole = dropout(x).numpy()
    >>> with training(step=7, row_offset=2):
    ...     second_half = dropout(x[2:]).numpy()
    >>> bool((whole[2:] == second_half).all())
    True
    """
    step = optional(checked_integer, "training: step", step, 2**32)
    row_offset = optional(checked_integer, "training: row_offset", row_offset, 2**32)
    moving = {} if moving is None else moving
    return Scope("training", _block, lambda: _Block(step, row_offset, moving=moving))


def monte_carlo(*, sample: int, row_offset: int) -> Scope:
    """Let random layers draw as in training, from separate streams; their steps do not advance.

    Each block yields one of the outputs that a Monte-Carlo prediction averages (Gal & Ghahramani,
    "Dropout as a Bayesian approximation", ICML 2016).

    Parameters
    ----------
    sample : int
        Index of the draw, in [0, 2**32).
    row_offset : int
        Index of the batch's first row among all predicted rows, in [0, 2**32).
    """
    sample = checked_integer("predict: sample", sample, 2**32)
    row_offset = checked_integer("predict: row_offset", row_offset, 2**32)
    return Scope("monte_carlo", _block, lambda: _Block(sample, row_offset, MONTE_CARLO_STREAMS))


def inference() -> Scope:
    """Put all layers that are called inside into inference mode, even inside of `training`."""
    return Scope("inference", _block, lambda: None)


@contextmanager
def batch_of(size: int) -> Iterator[None]:
    """Declare the batch size of a model call; the outermost declaration counts.

    With it, a random layer can check that axis 0 of its input is the batch.
    """
    block = _current()
    if block is None or block.batch_size is not None:
        yield
        return
    block.batch_size = size
    try:
        yield
    finally:
        block.batch_size = None


# ------------------------------------------------------------------------------ streams


class RandomStream:
    """One source of random decisions: a seed, a stream number and a step.

    A random layer holds one in an attribute. The model finds it there by its type, numbers it,
    saves it and restores it. Make one draw for each stream in a call; a layer with two draws holds
    two streams. Outside of a model nothing numbers them: give each a number or a seed of its own.

    Parameters
    ----------
    seed : int, optional
        In [0, 2**64). If None, the seed of the model is used.
    number : int, optional
        The stream number, in [0, 2**20). If None, the model assigns the next free number.

    Attributes
    ----------
    step : int
        The step of the next draw if ``training`` gives none.
    is_fixed : bool
        Whether the number can no longer change: it was given, or the stream has drawn.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer, or is out of range.

    Examples
    --------
    >>> stream = RandomStream(seed=3)
    >>> with training(step=5):
    ...     stream.next_address((32, 10))
    Address(seed=3, stream=0, step=5, row_offset=0)
    """

    def __init__(self, seed: int | None = None, number: int | None = None):
        self.step = 0
        self.model_seed: int | None = None  # set by the model
        self.restore(seed=seed, number=number, is_fixed=number is not None)

    def __repr__(self) -> str:
        return f"RandomStream(seed={self.seed}, number={self.number}, step={self.step})"

    @property
    def seed(self) -> int | None:
        """The seed of the next draw: its own, or the model's until the first draw."""
        return self.model_seed if self.own_seed is None else self.own_seed

    @property
    def training_step(self) -> int:
        """The training step of the next draw: that of `training` if given, else its own.

        In Monte-Carlo prediction, where the address holds the draw instead, it is its own.
        """
        block = _current()
        is_given = block is not None and block.step is not None and not block.first_stream
        return block.step if is_given else self.step  # type: ignore[union-attr, return-value]

    @property
    def moving(self) -> tuple[Any, ...] | None:
        """The numbers that `training` holds for it, or None."""
        block = _current()
        return None if block is None else block.moving.get(self)

    def restore(self, *, seed: int | None, number: int | None, is_fixed: bool) -> None:
        """Set the address, which a checkpoint holds."""
        seed = optional(checked_integer, "RandomStream: seed", seed, 2**64)
        number = optional(checked_integer, "RandomStream: number", number, LAYER_STREAMS)
        self.own_seed, self.number, self.is_fixed = seed, number, is_fixed

    def next_address(self, shape: tuple[int, ...], *, per_step: bool = False) -> Address:
        """Return the address of this call's draw in training mode, and count the call.

        Parameters
        ----------
        shape : tuple of int
            The shape of the array that is drawn for; axis 0 is the batch.
        per_step : bool
            Whether the draw belongs to the step and all micro-batches share it. Axis 0 is then not
            the batch, and the row offset is 0.

        Raises
        ------
        RuntimeError
            In inference mode, or if neither the stream nor a model has a seed.
        ValueError
            If `training` has a ``row_offset`` and axis 0 is not the batch, or if the stream is
            used more than 2**10 times in one step.
        """
        block = _current()
        if block is None:
            raise RuntimeError(
                "RandomStream: expected training mode, got inference mode. "
                "Draw inside of `with minidl.training():`."
            )
        seed, number, step = self.seed, self.number or 0, self.step
        if seed is None:
            raise RuntimeError(
                "RandomStream: expected a seed, got None. Put the layer into a model, or give it "
                "a seed: Dropout(rate, seed=0)."
            )
        if block.row_offset is not None and not per_step:
            _check_batch_axis(shape, block.batch_size)
        stream = number + block.first_stream
        if block.step is not None:
            stream += LAYER_STREAMS * self._count_call(block)
            step = block.step
        if not block.first_stream:  # in training, not in a prediction
            self.step = step + 1
            self.own_seed, self.number, self.is_fixed = seed, number, True
        # Not `or`: a placed 0 must stay placed.
        row_offset = 0 if per_step or block.row_offset is None else block.row_offset
        return Address(seed, stream, step, row_offset)

    def _count_call(self, block: _Block) -> int:
        """Return the number of earlier calls in this block; each call draws anew."""
        call = block.calls.get(self, 0)
        if call >= CALLS_PER_STEP:
            raise ValueError(
                f"{self!r}: expected at most {CALLS_PER_STEP} calls in a training step, got more. "
                "Open a new `with training(step=...)` for each step."
            )
        block.calls[self] = call + 1
        return call


def _check_batch_axis(shape: tuple[int, ...], batch_size: int | None) -> None:
    """Raise ValueError if axis 0 is not the batch, so that a row offset has no meaning."""
    if len(shape) < 2:
        raise ValueError(
            f"row_offset: expected an input with a batch axis and features, got shape {shape}. "
            "Leave row_offset out, or reshape the input."
        )
    if batch_size is not None and shape[0] != batch_size:
        raise ValueError(
            f"row_offset: expected the batch of {batch_size} samples on axis 0, got an input with "
            f"{shape[0]} rows. Keep the batch on axis 0."
        )


# ------------------------------------------------------------------------------ draws


def permutation(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `count` samples in an epoch: the stable argsort of `count` words.

    Examples
    --------
    >>> sorted(permutation(4, seed=0, epoch=0).tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(words(1, count, seed=seed, stream=ORDER_STREAM, step=epoch)[0], kind="stable")


def _centred(shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Return float64 numbers in (-1/2, 1/2), symmetric around 0 and exact on every machine."""
    drawn = words(1, int(np.prod(shape)), seed=seed, stream=stream, step=0)
    return ((drawn.astype(np.float64) + 0.5) * 2.0**-32 - 0.5).reshape(shape)


def initial_uniform(shape: tuple[int, ...], limit: float, *, seed: int, stream: int) -> np.ndarray:
    """Return float64 numbers, uniform in (-limit, limit).

    Examples
    --------
    >>> initial_uniform((2,), 1.0, seed=0, stream=0).round(3)
    array([-0.202,  0.944])
    """
    return _centred(shape, seed, stream) * (2.0 * limit)


# Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics
# 37 (1988) 477-484: PPND16's rational function for the middle of the distribution. Within two
# standard deviations, a little beyond that middle, its error is at most 2.1e-6. It needs no
# logarithm, whose last bit differs between machines.
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
TRUNCATED_SIGMA = 0.8796256610342398


def initial_truncated_normal(
    shape: tuple[int, ...], stddev: float, *, seed: int, stream: int
) -> np.ndarray:
    """Return float64 numbers with mean 0, from a normal distribution cut at two sigma.

    Parameters
    ----------
    stddev : float
        The standard deviation of the result, after the cut (as in Keras' initializers).
    """
    q = _centred(shape, seed, stream) * _WITHIN_TWO_SIGMA
    r = 0.180625 - q * q
    value = q * np.polyval(_NUMERATOR, r) / np.polyval(_DENOMINATOR, r)
    return value * (stddev / TRUNCATED_SIGMA)


def initial_normal(shape: tuple[int, ...], stddev: float, *, seed: int, stream: int) -> np.ndarray:
    """Return float64 numbers with mean 0, from a normal distribution that is not cut.

    They are the numbers of `normal` at step 0, times `stddev`.

    Examples
    --------
    >>> initial_normal((2,), 1.0, seed=3, stream=0).round(3)
    array([ 0.473, -1.538])
    """
    drawn = normal(shape, seed=seed, stream=stream, step=0)
    return drawn.astype(np.float64) * stddev
