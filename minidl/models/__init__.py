"""Models: layers with a device, a seed and a training loop."""

from minidl.models.model import Model
from minidl.models.sequential import Sequential, load

__all__ = ["Model", "Sequential", "load"]
