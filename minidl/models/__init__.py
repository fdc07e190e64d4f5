"""Models: layers with a device, a seed and a training loop."""

from minidl.models.cloning import clone_model
from minidl.models.functional import Functional
from minidl.models.model import Model
from minidl.models.sequential import Sequential, load

__all__ = ["Functional", "Model", "Sequential", "clone_model", "load"]
