"""Activation functions that are smooth or leaky; `relu`, `selu` and the softmax are elsewhere."""

import math
from collections.abc import Callable

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, differentiable

__all__ = ["elu", "gelu", "leaky_relu", "silu", "softplus"]

# Coefficients in s = (4 - z) / (4 + z) of exp(z**2 / 2) times the upper tail of the normal
# distribution at z, divided by 4 / (4 + z). They interpolate at Chebyshev nodes.
TAIL = (
    0.18882128260393785, 0.15197416049297324, 0.09678435018555664, 0.04663046448989468,
    0.01509914372259023, 0.0018850472422229046, -0.0008699230891628756, -0.0004077046213683964,
    3.3336052290036945e-05, 5.7773784446822336e-05, -4.769190076797745e-07, -8.78640058976113e-06,
    1.7865053828168654e-07, 1.480723444385482e-06, -1.5623877693912945e-07, -2.5674601753579823e-07,
    6.61834320494967e-08, 4.055790802133918e-08, -1.9695900856734096e-08, -4.892402234993512e-09,
    4.01684673933235e-09, 3.19308785823943e-10, -4.221644241696684e-10,
)  # fmt: skip
MOST = 1000.0  # at which the densities below are 0, and no power of it overflows


@differentiable
def elu(backend: Backend, x: Array, *, alpha: float = 1.0) -> Result:
    """Return x where x > 0, else alpha (exp(x) - 1): Clevert et al., ICLR 2016, equation 15.

    The gradient at 0 is alpha.
    """
    xp = backend.xp
    low = xp.minimum(x, 0)
    y = xp.where(x > 0, x, alpha * xp.expm1(low))
    return y, (lambda g: xp.where(x > 0, g, g * (alpha * xp.exp(low))),)


@differentiable
def leaky_relu(
    backend: Backend,
    x: Array,
    *,
    negative_slope: float = 0.2,
    threshold: float = 0.0,
    max_value: float = math.inf,
) -> Result:
    """Return min(x, max_value) where x > threshold, else negative_slope (x - threshold).

    The gradient at the threshold is the slope, and at the maximum 1.
    """
    xp = backend.xp
    is_low = x <= threshold  # not for NaN
    line = negative_slope * (x - threshold) if negative_slope else 0  # 0 times -inf would be NaN
    y = xp.where(is_low, line, xp.minimum(x, max_value))
    return y, (lambda g: xp.where(is_low, negative_slope * g, xp.where(x <= max_value, g, 0)),)


@differentiable
def softplus(backend: Backend, x: Array) -> Result:
    """Return log(1 + exp(x)), in a form that cannot overflow; its gradient is the sigmoid."""
    xp = backend.xp
    return xp.logaddexp(0, x), (lambda g: g * xp.exp(-xp.logaddexp(0, -x)),)


@differentiable
def silu(backend: Backend, x: Array) -> Result:
    """Return x times its sigmoid: Elfwing et al., Neural Networks 107, 2018, equation 4."""

    def tail(z: Array) -> tuple[Array, Array]:
        power = backend.xp.exp(-z)
        share = power / (1 + power)
        return share, share * (1 - share)

    return _gated(backend, x, tail)


@differentiable
def gelu(backend: Backend, x: Array, *, approximate: bool = False) -> Result:
    """Return x times the normal distribution function of x: Hendrycks & Gimpel, arXiv:1606.08415.

    If `approximate`, the tanh of the paper's section 2 stands for the distribution function.
    """
    xp = backend.xp

    def tail(z: Array) -> tuple[Array, Array]:
        if approximate:
            factor = math.sqrt(8 / math.pi)
            power = xp.exp(-factor * (z + 0.044715 * z**3))
            share = power / (1 + power)
            return share, share * (1 - share) * (factor * (1 + 3 * 0.044715 * z * z))
        near = (4 - z) / (4 + z)
        series = xp.zeros_like(z)
        for coefficient in reversed(TAIL):
            series *= near
            series += coefficient
        bell = xp.exp(-0.5 * z * z)
        return series * bell * (4 / (4 + z)), bell * (1 / math.sqrt(2 * math.pi))

    return _gated(backend, x, tail)


def _gated(backend: Backend, x: Array, tail: Callable[[Array], tuple[Array, Array]]) -> Result:
    """Return x times a distribution function of x that is symmetric about 0.

    ``tail(z)`` returns 1 minus the function, and its derivative, for z at least 0. So neither small
    results nor large inputs lose precision.
    """
    xp = backend.xp
    wide = backend.widened(x)
    z = xp.minimum(abs(wide), MOST)
    share, density = tail(z)
    y = xp.maximum(wide, 0) - z * share

    def vjp(g: Array) -> Array:
        low = share - z * density  # the gradient at -z
        return (g * xp.where(wide > 0, 1 - low, low)).astype(x.dtype, copy=False)

    return y.astype(x.dtype, copy=False), (vjp,)
