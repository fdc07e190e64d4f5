"""Dropout of whole branches."""

from typing import Any

from minidl.arguments import one_of
from minidl.layers.dropout import Dropout
from minidl.layers.random_layer import NoiseShape, RateLike


class DropPath(Dropout):
    """Drop the branch of a residual connection as a whole, with probability `rate` in training.

    Huang et al., "Deep networks with stochastic depth", ECCV 2016. With ``per="step"``, all samples
    share the decision: LayerDrop (Fan et al., "Reducing transformer depth on demand with structured
    dropout", ICLR 2020). A branch that is kept is divided by 1 - rate.

    Parameters
    ----------
    rate : float or callable
        The probability of being dropped, in [0, 1], or a function of the step as in `Dropout`.
    per : {"sample", "step"}
        Whether each sample has its own decision, or all samples of a step share one, in all its
        micro-batches.
    seed, stream
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> from minidl import Tensor
    >>> x, drop = Tensor([[1.0, 2.0], [3.0, 4.0]]), DropPath(0.5, seed=3)
    >>> with minidl.training(step=0):
    ...     x + drop(x * 10)
    Tensor([[21., 42.],
            [ 3.,  4.]], dtype=float32)
    """

    def __init__(
        self,
        rate: RateLike,
        per: str = "sample",
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(rate, seed=seed, stream=stream, **layer_arguments)
        self.per = one_of("DropPath", "per", per, ("sample", "step"))

    def noise_shape_for(self, shape: tuple[int, ...]) -> NoiseShape:
        """Return the noise shape: one decision for each sample, or one in all."""
        first = None if self.per == "sample" else 1
        return (first, *(1 for _ in shape[1:])) if shape else ()
