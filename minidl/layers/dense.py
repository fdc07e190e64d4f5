"""Fully connected layer."""

from collections.abc import Callable
from typing import Any

from minidl import constraints, regularizers
from minidl.alternatives import keras_defaults
from minidl.arguments import positive_integer
from minidl.backend import Backend
from minidl.constraints import Constraint
from minidl.engine import ops
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor, apply
from minidl.initializers import Initializer
from minidl.layers import activations
from minidl.layers.base import AS_BATCH, Layer
from minidl.regularizers import Regularizer


@keras_defaults(lora_rank=None)
class Dense(Layer):
    """Compute ``activation(x @ weight + bias)``.

    Parameters
    ----------
    units : int
        The size of the output's last axis, at least 1.
    activation : str or callable, optional
        ``"relu"``, ``"leaky_relu"`` (with slope 0.2), ``"elu"``, ``"selu"``, ``"gelu"``,
        ``"gelu_tanh"`` (Keras' ``approximate=True``), ``"silu"`` or ``"swish"``, ``"softplus"``,
        ``"sigmoid"``, ``"tanh"``, ``"softmax"``, ``"linear"``, or a function of a tensor. None is
        linear.
    use_bias : bool
        Whether a bias is added.
    kernel_initializer, bias_initializer : str or Initializer
        The initial values of weight and bias.
    kernel_regularizer, bias_regularizer : str or Regularizer, optional
        Their penalties on weight and bias are terms of the loss.
    kernel_constraint, bias_constraint : str or Constraint, optional
        Applied to weight and bias after each update.

    Attributes
    ----------
    weight : Parameter
        Shape (inputs, units).
    bias : Parameter or None
        Shape (units,).

    Raises
    ------
    ValueError
        If `units` is not a positive integer, or a name is unknown.

    Examples
    --------
    >>> layer = Dense(2, kernel_initializer="ones")
    >>> layer(Tensor([[1.0, 2.0, 3.0]])).numpy()
    array([[6., 6.]], dtype=float32)
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        *,
        kernel_constraint: str | Constraint | None = None,
        bias_constraint: str | Constraint | None = None,
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.units = positive_integer("Dense: units", units)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create weight and bias."""
        if len(input_shape) < 2:
            raise ValueError(
                f"{self.label}: expected inputs with a batch axis and features, got samples of "
                f"shape {tuple(input_shape[1:])}. Axis 0 is the batch: {AS_BATCH}"
            )
        shape = (input_shape[-1], self.units)
        self.weight = self._add_weight_of("kernel", "weight", shape)
        self.bias: Parameter | None = None
        if self.use_bias:
            self.bias = self._add_weight_of("bias", "bias", (self.units,))

    @property
    def kernel(self) -> Parameter:
        """The weight, by its name in Keras."""
        return self.weight

    def call(self, x: Tensor) -> Tensor:
        """Return the layer's output, of shape (batch, units)."""
        self.check_input(x)
        return self.with_weight(x, self.weight)

    def with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the layer's output with this weight."""
        if self.is_one_op(x):
            fused = self.fused_activation
            y = apply(ops.dense, x, weight, self.bias, activation=fused or "linear")
            return y if fused else self.activation(y)
        y = x @ weight
        if self.bias is not None:
            y = y + self.bias
        return self.activation(y)

    @property
    def fused_activation(self) -> str | None:
        """The activation's name if ``ops.dense`` computes it, else None."""
        if self.activation is Tensor.relu:
            return "relu"
        return "linear" if self.activation is activations.linear else None

    def is_one_op(self, x: Tensor) -> bool:
        """Return whether ``ops.dense`` can compute product and bias of this input."""
        return (
            x.ndim == 2
            and self.bias is not None
            and x.dtype == self.weight.dtype
            and x.dtype in Backend.KERNEL_TYPES
        )

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError if `x` does not have the features that the weight was built for."""
        if x.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"{self.label}: expected {self.weight.shape[0]} features in the last axis, got "
                f"shape {x.shape}. For other inputs build a new model."
            )
