"""Dropout of whole feature maps."""

from typing import Any

from minidl.arguments import one_of
from minidl.layers.dropout import Dropout
from minidl.layers.random_layer import NoiseShape, RateLike


class _SpatialDropout(Dropout):
    """Base class: a decision for each sample and channel."""

    positions: int  # the number of axes that share the decisions
    data_format = "channels_last"

    def noise_shape_for(self, shape: tuple[int, ...]) -> NoiseShape:
        """Return the noise shape, which shares all axes but batch and channel."""
        axes, layout = self.positions + 2, self.data_format
        if len(shape) != axes:
            raise ValueError(
                f"{self.label}: expected inputs with {axes} axes, {layout}, got shape {shape}. "
                "Use Dropout with a noise_shape for other inputs."
            )
        shared = (1,) * self.positions
        return (None, *shared, None) if layout == "channels_last" else (None, None, *shared)


class SpatialDropout1D(_SpatialDropout):
    """Drop whole channels of a sequence with probability `rate` in training.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015, section
    3.2. Inputs have shape (batch, times, channels). The length of a sequence changes no mask.

    Parameters
    ----------
    rate : float or callable
        The probability of being dropped, in [0, 1], or a function of the step as in `Dropout`.
    seed, stream
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or an input has other axes.

    Examples
    --------
    >>> import minidl
    >>> from minidl import Tensor
    >>> with minidl.training(step=0):
    ...     SpatialDropout1D(0.5, seed=0)(Tensor([[[1.0, 1.0], [3.0, 3.0]]]))
    Tensor([[[0., 2.],
             [0., 6.]]], dtype=float32)
    """

    positions = 1

    def __init__(
        self,
        rate: RateLike,
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(rate, seed=seed, stream=stream, **layer_arguments)


class SpatialDropout2D(_SpatialDropout):
    """Drop whole channels of images with probability `rate` in training.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015, section
    3.2. The same channels are dropped in both layouts.

    Parameters
    ----------
    rate : float or callable
        The probability of being dropped, in [0, 1], or a function of the step as in `Dropout`.
    data_format : {"channels_last", "channels_first"}, optional
        Whether the channels are the last axis or axis 1; None is ``"channels_last"``.
    seed, stream
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or an input has other axes.

    Examples
    --------
    >>> import minidl
    >>> from minidl import Tensor
    >>> with minidl.training(step=0):
    ...     SpatialDropout2D(0.5, "channels_first", seed=0)(Tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    Tensor([[[[0., 0.]],
    <BLANKLINE>
             [[6., 8.]]]], dtype=float32)
    """

    positions = 2

    def __init__(
        self,
        rate: RateLike,
        data_format: str | None = None,
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(rate, seed=seed, stream=stream, **layer_arguments)
        allowed = ("channels_last", "channels_first", None)
        who = type(self).__name__
        self.data_format = one_of(who, "data_format", data_format, allowed) or "channels_last"


class SpatialDropout3D(SpatialDropout2D):
    """Drop whole channels of volumes with probability `rate` in training.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015, section
    3.2. Parameters and errors are those of `SpatialDropout2D`.

    Examples
    --------
    >>> import minidl
    >>> from minidl import Tensor
    >>> with minidl.training(step=0):
    ...     SpatialDropout3D(0.5, seed=0)(Tensor([[[[[1.0, 1.0]], [[3.0, 3.0]]]]])).numpy().ravel()
    array([0., 2., 0., 6.], dtype=float32)
    """

    positions = 3
