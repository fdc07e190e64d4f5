"""Layers of a network, and `Layer`, the base class of your own."""

from minidl.engine.parameter import Parameter
from minidl.layers.activations import Activation, ReLU, Softmax
from minidl.layers.base import Layer
from minidl.layers.concrete_dropout import ConcreteDropout
from minidl.layers.dense import Dense
from minidl.layers.dropout import Dropout
from minidl.layers.noise import GaussianDropout, GaussianNoise
from minidl.layers.reshaping import Flatten, Input, Rescaling

__all__ = [
    "Activation",
    "ConcreteDropout",
    "Dense",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "Input",
    "Layer",
    "Parameter",
    "ReLU",
    "Rescaling",
    "Softmax",
]
