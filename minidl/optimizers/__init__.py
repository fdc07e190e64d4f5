"""Optimizers, and learning-rate schedules in `minidl.optimizers.schedules`."""

from minidl.optimizers import schedules
from minidl.optimizers.base import Optimizer
from minidl.optimizers.rules import SGD, Adam, AdamW, Nadam, RMSprop, get

__all__ = ["SGD", "Adam", "AdamW", "Nadam", "Optimizer", "RMSprop", "get", "schedules"]
