"""Flat buffers of all weights and gradients, and scaling of gradients."""

from collections.abc import Sequence

from minidl.backend import Array, Backend
from minidl.engine.parameter import Parameter


class Buffers:
    """Flat buffers of all weights and gradients, and the views of them by parameter."""

    def __init__(self, parameters: Sequence[Parameter]):
        xp = parameters[0].backend.xp
        self.weights = xp.concatenate([parameter.data.ravel() for parameter in parameters])
        self.gradients = xp.empty_like(self.weights)
        self.weight_views = views_of(self.weights, parameters)
        self.gradient_views = views_of(self.gradients, parameters)
        for parameter, view in self.weight_views.items():
            parameter.data = view

    def are_in_use(self) -> bool:
        """Return whether the weights are still views of these buffers."""
        return all(parameter.data is view for parameter, view in self.weight_views.items())


def trained_of(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def views_of(flat: Array, parameters: Sequence[Parameter]) -> dict[Parameter, Array]:
    """Return views of consecutive parts of a flat buffer, one for each parameter."""
    views, start = {}, 0
    for parameter in parameters:
        end = start + parameter.size
        views[parameter] = flat[start:end].reshape(parameter.shape)
        start = end
    return views


def scale_down(gradients: Array, largest: float, backend: Backend) -> None:
    """Scale gradients down in place if their norm is larger; else they keep their bits.

    The sum of squares is a float64. On the CPU, it does not depend on the number of threads.
    """
    wide = gradients.astype("float64")
    wide *= wide
    norm = backend.xp.sqrt(wide.sum())
    gradients *= (largest / backend.xp.maximum(norm, largest)).astype(gradients.dtype)
