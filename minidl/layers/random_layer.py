"""Base class of the layers that draw random decisions or numbers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minidl_kernels.mask_contract import threshold
from minidl_kernels.placed import MovingRate

from minidl.arguments import Number, count, finite, shown_arguments, written
from minidl.layers.base import Layer
from minidl.rng import Address, RandomStream

RateLike = float | Callable[[int], float]
"""A number, or a function of the training step."""

NoiseShape = Sequence[int | None]
"""For each axis of an input: None or its length, or 1 if its elements share their decisions."""


class Rate(Number):
    """Attribute that holds a number in an interval, or a function of the training step."""

    def __set__(self, owner: object, value: Any) -> None:
        if callable(value) and not isinstance(value, type):
            vars(owner)[self._name] = value
        else:
            super().__set__(owner, value)


class RandomLayer(Layer):
    """A layer with one random stream; a subclass draws from it in `call`, in training mode.

    A subclass with a `Rate` in the attribute `rate` can take a schedule. Its `call` gets rate and
    address from `next_draw`, and the numbers for its kernels from `numbers_for`. It overrides
    `numbers_of` if its kernels take other numbers than a threshold and a factor. In a recorded step
    the numbers of a schedule are placed: `call` passes them to kernels, and does not compute with
    them or with the rate.

    Parameters
    ----------
    seed : int, optional
        In [0, 2**64). If None, the seed of the model is used.
    stream : int, optional
        The number of the random stream, in [0, 2**20). If None, the model assigns one.

    Attributes
    ----------
    random_stream : RandomStream
        Where the addresses come from.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    rate: Any  # a number or a schedule, if the subclass has it

    def __init__(
        self, *, seed: int | None = None, stream: int | None = None, **layer_arguments: Any
    ):
        super().__init__(**layer_arguments)
        self.random_stream = RandomStream(seed, stream)

    @property
    def seed(self) -> int | None:
        """The seed of the next draw: its own, or the model's until the first draw."""
        return self.random_stream.seed

    @property
    def stream(self) -> int | None:
        """The number of the random stream; None until a model assigns one."""
        return self.random_stream.number

    @property
    def step(self) -> int:
        """The step of the next draw if ``training`` gives none."""
        return self.random_stream.step

    @property
    def is_scheduled(self) -> bool:
        """Whether the rate is a function of the training step."""
        return callable(vars(self).get("rate"))

    def rate_at(self, step: int) -> float:
        """Return the rate of a training step.

        Raises
        ------
        ValueError
            If the schedule returns something else than a number in [0, 1).
        """
        if not self.is_scheduled:
            return self.rate
        try:
            value = self.rate(int(step))
        except ArithmeticError as error:  # an overflow, or a division by zero
            value = error
        rate = finite(value)
        if rate is None or not 0 <= rate < 1:
            raise ValueError(
                f"{self.label}: expected its rate to return a number in [0, 1), got {value!r} for "
                f"step {step}. Correct the schedule."
            )
        return rate

    def current_rate(self) -> float:
        """Return the rate of the training step, in inference that of the layer's own step.

        If the rate is a schedule, it is a `MovingRate`.
        """
        stream = self.random_stream
        rate, numbers = self.rate_at(stream.training_step), stream.moving
        if not self.is_scheduled:
            return rate
        return MovingRate(rate, self.numbers_of(rate) if numbers is None else numbers)

    def next_draw(self, shape: tuple[int, ...]) -> tuple[float, Address]:
        """Return the rate and the address of this call's draw, and count the call.

        Raises
        ------
        ValueError
            As `rate_at`, and then nothing is changed; and as `RandomStream.next_address`.
        """
        rate = self.current_rate()
        return rate, self.random_stream.next_address(shape)

    def numbers_of(self, rate: float) -> tuple[int | float, ...]:
        """Return the numbers that the layer's kernels take for a rate below 1, at any step.

        An integer is below 2**32; a real number is rounded to the dtype of the kernel.
        """
        return threshold(rate), 1 / (1 - rate)

    def numbers_for(self, rate: float) -> tuple[int | float, ...]:
        """Return `numbers_of` a rate that `next_draw` returned; they may be placed."""
        return tuple(rate.numbers) if isinstance(rate, MovingRate) else self.numbers_of(rate)

    def kept_scale(self, rate: float) -> float:
        """Return the factor of kept elements, which may be placed; at rate 1 there are none."""
        return 1.0 if rate == 1 else self.numbers_for(rate)[1]

    def next_decisions(
        self, shape: tuple[int, ...], noise_shape: NoiseShape | None
    ) -> tuple[tuple[int, ...], Address]:
        """Return the shape of the decisions for an input of `shape`, and their address.

        If `noise_shape` has two or more axes and begins with 1, the whole step shares the
        decisions: the row offset is 0.

        Raises
        ------
        ValueError
            If `noise_shape` does not have an entry for each axis, or an entry is neither None nor 1
            nor the length of its axis. Also the errors of ``random_stream.next_address``.
        """
        if noise_shape is None:
            return shape, self.random_stream.next_address(shape)
        who = f"{self.label}: expected noise_shape with"
        if len(noise_shape) != len(shape):
            raise ValueError(
                f"{who} an entry for each of the {len(shape)} axes of shape {shape}, got "
                f"{noise_shape}. Use None for axis 0, the batch, and 1 for an axis that shares its "
                "decisions."
            )
        pairs = list(zip(noise_shape, shape, strict=True))
        if any(entry not in (None, 1, length) for entry, length in pairs):
            raise ValueError(
                f"{who} None, 1 or the length of the axis for shape {shape}, got {noise_shape}. "
                "Use None for an axis that has decisions of its own."
            )
        per_step = len(shape) > 1 and noise_shape[0] == 1
        decisions = tuple(length if entry is None else entry for entry, length in pairs)
        return decisions, self.random_stream.next_address(decisions, per_step=per_step)

    def __repr__(self) -> str:
        """Return the constructor's arguments that are not at their defaults, and the address."""
        try:
            shown = shown_arguments(self)
            for name in ("seed", "stream", "step"):
                shown[name] = shown.pop(name, getattr(self, name))
        except (AttributeError, TypeError, ValueError):  # a user's class may keep others
            return super().__repr__()
        return written(self, shown)


def scheduled(layer: Layer) -> Iterator[RandomLayer]:
    """Yield the layers whose rate is a schedule, of a layer and those below it."""
    for each in layer.walk():
        if isinstance(each, RandomLayer) and each.is_scheduled:
            yield each


def checked_noise_shape(who: str, noise_shape: Any) -> tuple[int | None, ...] | None:
    """Return a noise shape as a tuple, or None.

    Raises
    ------
    TypeError, ValueError
        If it is not a tuple or list, or an entry is neither None nor a length.

    Examples
    --------
    >>> checked_noise_shape("Dropout", [None, 1])
    (None, 1)
    """
    if noise_shape is None:
        return None
    if not isinstance(noise_shape, tuple | list):
        raise TypeError(
            f"{who}: expected noise_shape to be a tuple, got {noise_shape!r}. Use one with an "
            "entry for each axis, as (None, 1)."
        )
    name = f"{who}: noise_shape"
    return tuple(None if entry is None else count(name, entry) for entry in noise_shape)
