"""The layers: `Dense`, `Dropout` and their companions, and `Layer` to write your own."""

from minidl.layers.activations import Activation, ReLU, Softmax
from minidl.layers.base import Layer
from minidl.layers.dense import Dense
from minidl.layers.dropout import Dropout
from minidl.layers.reshaping import Flatten, Input, Rescaling
from minidl.parameter import Parameter

__all__ = [
    "Activation",
    "Dense",
    "Dropout",
    "Flatten",
    "Input",
    "Layer",
    "Parameter",
    "ReLU",
    "Rescaling",
    "Softmax",
]
