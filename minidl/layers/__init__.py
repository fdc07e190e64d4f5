"""Layers of a network, and `Layer`, the base class of your own."""

from minidl.engine.parameter import Parameter
from minidl.layers.activations import ELU, Activation, LeakyReLU, ReLU, Softmax
from minidl.layers.alpha_dropout import AlphaDropout
from minidl.layers.base import Layer
from minidl.layers.concrete_dropout import ConcreteDropout
from minidl.layers.dense import Dense
from minidl.layers.drop_connect import DropConnect
from minidl.layers.drop_path import DropPath
from minidl.layers.dropout import Dropout
from minidl.layers.merging import Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract
from minidl.layers.noise import GaussianDropout, GaussianNoise
from minidl.layers.normalization import BatchNormalization, LayerNormalization
from minidl.layers.reshaping import Flatten, Input, Rescaling
from minidl.layers.spatial_dropout import SpatialDropout1D, SpatialDropout2D, SpatialDropout3D

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "AlphaDropout",
    "Average",
    "BatchNormalization",
    "Concatenate",
    "ConcreteDropout",
    "Dense",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "Input",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "Multiply",
    "Parameter",
    "ReLU",
    "Rescaling",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Subtract",
]
