"""Optimizers, and learning-rate schedules in `minidl.optimizers.schedules`."""

from minidl.optimizers import schedules
from minidl.optimizers.base import Optimizer
from minidl.optimizers.rules import SGD, Adam, AdamW, RMSprop, get

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "get", "schedules"]
