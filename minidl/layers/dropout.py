"""Dropout."""

from typing import Any

from minidl_kernels.placed import keeps_all

from minidl import rng
from minidl.arguments import one_of
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.layers.random_layer import NoiseShape, RandomLayer, Rate, RateLike, checked_noise_shape


class Dropout(RandomLayer):
    """Drop each element with probability `rate` in training, and none in inference.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15
    (2014) 1929-1958. Each decision depends only on the rate, seed, stream, step, row and column: it
    is the same bit on every device and for every split of the batch. With a noise shape, the row
    and the column are those in an array of that shape.

    Parameters
    ----------
    rate : float or callable
        The probability that an element is dropped, in [0, 1]. Or a function of the training step
        that returns a rate in [0, 1), such as a schedule of `minidl.optimizers.schedules`. The
        function gets the step of ``training(step=...)``. Without one, as in inference and in
        Monte-Carlo prediction, it gets the attribute `step`.
    noise_shape : tuple, optional
        One entry for each axis of the input. With 1, all elements along the axis share one
        decision; with None or the length of the axis, each has its own. ``(None, 1, None)`` drops
        a feature at all times of a sequence. If there are several axes and axis 0 has 1, all
        samples of a step share their decisions, even if the batch is split.
    seed : int, optional
        In [0, 2**64). If None, the seed of the model is used.
    stream : int, optional
        The number of the random stream, in [0, 2**20). If None, the model assigns one.
    scaling : {"train", "inference"}
        ``"train"`` is inverted dropout: training divides kept elements by 1 - rate.
        ``"inference"`` is the paper's form: inference multiplies all elements by 1 - rate.

    Attributes
    ----------
    seed : int or None
        The seed of the next draw.
    stream : int or None
        The number of its random stream.
    step : int
        The step of the next draw if ``training`` gives none.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range. ValueError from a call in training
        mode if the schedule returns a number outside of [0, 1); nothing is changed then.

    Examples
    --------
    >>> import minidl
    >>> layer = Dropout(0.5, seed=0)
    >>> x = Tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    >>> layer(x).numpy()
    array([[1., 1., 1., 1., 1., 1.]], dtype=float32)
    >>> with minidl.training(step=0):
    ...     layer(x).numpy()
    array([[0., 2., 0., 2., 2., 0.]], dtype=float32)
    >>> layer
    Dropout(rate=0.5, seed=0, stream=0, step=1)

    Early dropout, for the first 1,000 steps only:

    >>> def early(step):
    ...     return 0.5 if step < 1000 else 0.0
    >>> Dropout(early).rate_at(1000)
    0.0
    """

    rate: Any = Rate("[0, 1]")

    def __init__(
        self,
        rate: RateLike,
        noise_shape: NoiseShape | None = None,
        seed: int | None = None,
        *,
        stream: int | None = None,
        scaling: str = "train",
        **layer_arguments: Any,
    ):
        super().__init__(seed=seed, stream=stream, **layer_arguments)
        self.rate = rate
        self.noise_shape = checked_noise_shape(type(self).__name__, noise_shape)
        self.scaling = one_of("Dropout", "scaling", scaling, ("train", "inference"))

    def call(self, x: Tensor) -> Tensor:
        """Return `x` with dropped elements in training, scaled by `scaling`."""
        if not rng.is_training():
            return x if self.scaling == "train" else self._scale_for_inference(x)
        rate = self.current_rate()
        shape, address = self.next_decisions(x.shape, self.noise_shape_for(x.shape))
        if keeps_all(rate):
            return x
        drawn = {"rate": rate, "address": address}
        if shape == x.shape:
            return apply(ops.dropout, x, **drawn, rescale=self.scaling == "train")
        scale = self.kept_scale(rate)
        return apply(ops.affine_dropout, x, **drawn, noise_shape=shape, scale=scale)

    def noise_shape_for(self, shape: tuple[int, ...]) -> NoiseShape | None:
        """Return the noise shape for inputs of `shape`."""
        return self.noise_shape

    def kept_scale(self, rate: float) -> float:
        """Return the factor of kept elements in training."""
        return 1.0 if self.scaling == "inference" else super().kept_scale(rate)

    def _scale_for_inference(self, x: Tensor) -> Tensor:
        """Return `x` times the probability of being kept."""
        rate = float(self.current_rate())
        if rate == 1:  # zeros by selection: 0 * infinity would be NaN
            return apply(ops.dropout, x, rate=1.0, address=rng.Address(0, 0, 0))
        return x * (1 - rate)
