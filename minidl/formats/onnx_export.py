"""Networks in the ONNX format, for other runtimes; it needs onnx, the extra ``onnx``.

The graph computes the network in inference mode. Its Dropout nodes do nothing there; in a runtime
that trains, they drop. Layers of noise have no nodes.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minidl import layers
from minidl.arguments import free_name
from minidl.layers import Layer, activations
from minidl.models import Functional, Model, Sequential
from minidl.storage.atomic import PathLike, write_atomically
from minidl.storage.extras import from_extra
from minidl.version import __version__

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for all runtimes
# Of activations, whose names are these in snake case.
OPERATORS = "Elu", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Tanh"
ATTRIBUTES: dict[str, dict[str, float]] = {"LeakyRelu": {"alpha": 0.2}, "Softmax": {"axis": -1}}

Entry = tuple[str, Sequence[Any]]  # the name of an input or output, and the shape of a sample


def save(model: Model, path: PathLike) -> None:
    """Write a built model as an ONNX file; `Model.export` is the public name."""
    graph = _Graph(model.dtype)
    names, shapes = ["input"], [model.built_for]
    if isinstance(model, Functional):
        names, shapes = model.graph.names if model.takes_list else names, model.graph.shapes
        results = graph.between(model, names)
    elif isinstance(model, Sequential):
        results = [graph.through(model.layers, "input")]
    else:
        raise TypeError(
            f"export: expected a Sequential or a functional model, got {model.label}, a "
            f"{type(model).__qualname__}."
        )
    ends: Any = model.output_shape if len(results) > 1 else [model.output_shape]
    inputs: Any = zip(names, shapes, strict=True)
    outputs = [(name, end[1:]) for name, end in zip(results, ends, strict=True)]
    write_atomically(path, graph.serialized(model.label, inputs, outputs))


class _Graph:
    """Graph under construction: nodes and constants, layer by layer."""

    def __init__(self, dtype: np.dtype):
        with from_extra("onnx", "onnx", who="export"):
            import onnx
        self._onnx = onnx
        self._dtype = dtype
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._shared: dict[Any, str] = {}  # the names of weights, which layers share
        self._names: set[str] = set()

    def through(self, stack: Sequence[Layer], value: str) -> str:
        """Add the nodes of layers that `value` passes; return the name of the result."""
        for layer in stack:
            value = self._apply(layer, value)
        return value

    def between(self, model: Functional, inputs: Sequence[str]) -> list[str]:
        """Add the nodes of a functional model; return the names of its outputs."""
        values = dict(enumerate(inputs))
        for node in model.graph.nodes:
            (layer,), found = node.layers, [values[number] for number in node.arguments]
            if isinstance(layer, Functional):
                results = self.between(layer, found)
            elif node.is_list:
                results = [self._merge(layer, found)]
            else:
                results = [self._apply(layer, found[0])]
            values |= zip(node.results, results, strict=True)
        return [values[number] for number in model.graph.outputs]

    def _merge(self, layer: Any, found: Sequence[str]) -> str:
        kind, label = type(layer), layer.path
        if kind is layers.Concatenate:
            return self._node("Concat", label, *found, axis=layer.axis)
        if kind not in _MERGING:
            raise self._refusal(layer)
        operator = _MERGING[kind]
        if kind is layers.Average or len(found) == 2:
            return self._node(operator, label, *found)
        return functools.reduce(lambda a, b: self._node(operator, label, a, b), found)

    def _apply(self, layer: Any, x: str) -> str:
        if isinstance(layer, Functional):
            return self.between(layer, [x])[0]
        if isinstance(layer, Sequential):
            return self.through(layer.layers, x)
        if type(layer) not in _LAYERS:
            raise self._refusal(layer)
        return _LAYERS[type(layer)](self, layer, x)

    @staticmethod
    def _refusal(layer: Layer) -> TypeError:
        kind = type(layer).__qualname__
        return TypeError(
            f"export: expected layers with an ONNX operator, got {layer.path}, a {kind}."
        )

    def rescale(self, layer: layers.Rescaling, x: str) -> str:
        label = layer.path
        x = self._node("Mul", f"{label}/scale", x, self._number(f"{label}/by", layer.scale))
        if not layer.offset:
            return x
        return self._node("Add", f"{label}/shift", x, self._number(f"{label}/to", layer.offset))

    def dense(self, layer: layers.Dense, x: str) -> str:
        x = self._node("MatMul", f"{layer.path}/product", x, self._constant(layer.weight))
        if layer.bias is not None:
            x = self._node("Add", f"{layer.path}/sum", x, self._constant(layer.bias))
        return self.activate(layer, x)

    def activate(self, layer: layers.Dense | layers.Activation, x: str) -> str:
        name = activations.name_of(layer.activation)
        if name == "linear":
            return x
        if name in ("gelu", "gelu_tanh", "silu"):
            return self._gate(f"{layer.path}/{name}", name, x)
        operator = "".join(map(str.capitalize, (name or "").split("_")))
        if operator not in OPERATORS:
            raise TypeError(
                f"export: expected activations with an ONNX operator, got {layer.activation!r} in "
                f"{layer.label}."
            )
        return self._node(operator, f"{layer.path}/{name}", x, **ATTRIBUTES.get(operator, {}))

    def _gate(self, label: str, name: str, x: str) -> str:
        """Add x times a distribution function: the sigmoid of a value, or (1 + erf) / 2."""
        value = x
        if name == "gelu":
            value = self._node("Mul", f"{label}/scale", x, 0.5**0.5)
            value = self._node("Add", f"{label}/one", self._node("Erf", f"{label}/erf", value), 1)
            return self._node("Mul", f"{label}/half", self._node("Mul", label, x, value), 0.5)
        if name == "gelu_tanh":  # (1 + tanh(u)) / 2 is the sigmoid of 2 u
            square = self._node("Mul", f"{label}/square", x, x)
            cubic = self._node("Mul", f"{label}/factor", square, 0.044715)
            cubic = self._node("Add", f"{label}/one", cubic, 1)
            value = self._node("Mul", f"{label}/cubic", cubic, x)
            value = self._node("Mul", f"{label}/scale", value, math.sqrt(8 / math.pi))
        return self._node("Mul", label, x, self._node("Sigmoid", f"{label}/sigmoid", value))

    def rectify(self, layer: layers.ReLU, x: str) -> str:
        label = layer.path
        if layer.max_value is None and not layer.negative_slope and not layer.threshold:
            return self._node("Relu", label, x)
        limit = self._number(f"{label}/threshold", layer.threshold)
        low = self._node("Sub", f"{label}/low", x, limit)
        low = self._node("Mul", f"{label}/slope", low, layer.negative_slope)
        largest = math.inf if layer.max_value is None else layer.max_value
        high = self._node("Min", f"{label}/high", x, largest)
        return self._node("Where", label, self._node("Greater", f"{label}/is", x, limit), high, low)

    def normalize_batch(self, layer: layers.BatchNormalization, x: str) -> str:
        """Add ``(x - mean) * factor + beta``, for features along any axis."""
        label, ndim = layer.path, len(layer.built_for or ()) + 1
        shape = [1] * ndim
        (place,) = layer.axes(ndim)
        shape[place] = -1
        mean, variance = (
            w.numpy().reshape(shape) for w in (layer.moving_mean, layer.moving_variance)
        )
        factor = (variance.astype("float64") + layer.epsilon) ** -0.5
        if layer.gamma is not None:
            factor *= layer.gamma.numpy().reshape(shape)
        x = self._node("Sub", f"{label}/center", x, self._stored(f"{label}/mean", mean))
        stored = self._stored(f"{label}/factor", factor.astype(self._dtype))
        x = self._node("Mul", f"{label}/scale", x, stored)
        if layer.beta is None:
            return x
        beta = layer.beta.numpy().reshape(shape)
        return self._node("Add", f"{label}/shift", x, self._stored(f"{label}/beta", beta))

    def normalize(self, layer: layers.LayerNormalization, x: str) -> str:
        ndim = len(layer.built_for or ()) + 1
        axes = layer.axes(ndim)
        if axes != tuple(range(axes[0], ndim)):
            raise TypeError(
                f"export: expected the axis of {layer.label} to name the last axes, got "
                f"{layer.axis}. Other axes have no ONNX operator."
            )
        if layer.gamma is None:
            ones = np.ones(layer.weight_shape, self._dtype)
            weights = [self._stored(f"{layer.path}/ones", ones)]
        else:
            weights = [self._constant(layer.gamma)]
        if layer.beta is not None:
            weights.append(self._constant(layer.beta))
        options = {"axis": axes[0], "epsilon": layer.epsilon}
        return self._node("LayerNormalization", layer.path, x, *weights, **options)

    def drop(self, layer: layers.Dropout, x: str) -> str:
        """Add a Dropout node, unless elements share decisions, which ONNX does not know."""
        if layer.noise_shape is not None:
            return self.keep(layer, x)
        label, rate = layer.path, layer.rate_at(layer.step)
        if rate == 1:
            raise ValueError(f"export: expected dropout rates below 1, got 1 in {layer.label}.")
        x = self._node("Dropout", label, x, self._number(f"{label}/rate", rate))
        if layer.scaling == "train":
            return x
        # In training this undoes the node's scaling; in inference it is the layer's own.
        return self._node("Mul", f"{label}/keep", x, self._number(f"{label}/by", 1 - rate))

    def keep(self, layer: Any, x: str) -> str:
        """Add what a layer does in inference that ONNX cannot do in training."""
        if getattr(layer, "scaling", "train") == "train":
            return self._node("Identity", layer.path, x)
        return self._node("Mul", layer.path, x, 1 - layer.rate_at(layer.step))

    def _node(self, operator: str, name: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node, and a constant for a number among its inputs; return the result's name."""
        names = [x if isinstance(x, str) else self._number(f"{name}/by", x) for x in inputs]
        name = self._unique(name)
        output = f"{name}:out"
        node = self._onnx.helper.make_node(operator, names, [output], name, **attributes)
        self._nodes.append(node)
        return output

    def _constant(self, parameter: Any) -> str:
        if parameter not in self._shared:
            values = np.ascontiguousarray(parameter.numpy())
            self._shared[parameter] = self._stored(parameter.name, values)
        return self._shared[parameter]

    def _number(self, name: str, value: float) -> str:
        return self._stored(name, np.array(value, self._dtype))

    def _stored(self, name: str, values: np.ndarray) -> str:
        name = self._unique(name)
        self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def _unique(self, name: str) -> str:
        """Return the name, with a number if it is in use: a layer may occur more than once."""
        unique = free_name(name, self._names)
        self._names.add(unique)
        return unique

    def serialized(self, label: str, inputs: Iterable[Entry], outputs: Iterable[Entry]) -> bytes:
        """Return the whole file."""
        helper = self._onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(self._dtype)
        x, y = (
            [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, shape in each]
            for each in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, label, x, y, initializer=self._constants)
        whole = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="minidl",
            producer_version=__version__,
        )
        self._onnx.checker.check_model(whole)
        return whole.SerializeToString()


_MERGING: dict[type, str] = {
    layers.Add: "Add",
    layers.Average: "Mean",
    layers.Maximum: "Max",
    layers.Minimum: "Min",
    layers.Multiply: "Mul",
    layers.Subtract: "Sub",
}


# The functions that add the nodes of a layer: of the graph, the layer and the name of its input.
_LAYERS: dict[type, Callable[..., str]] = {
    layers.Activation: _Graph.activate,
    layers.AlphaDropout: _Graph.keep,
    layers.BatchNormalization: _Graph.normalize_batch,
    layers.ConcreteDropout: lambda graph, layer, x: graph._apply(layer.layer, x),
    layers.Dense: _Graph.dense,
    layers.DropConnect: _Graph.dense,
    layers.DropPath: _Graph.keep,
    layers.Dropout: _Graph.drop,
    layers.ELU: lambda graph, layer, x: graph._node("Elu", layer.path, x, alpha=layer.alpha),
    layers.Flatten: lambda graph, layer, x: graph._node("Flatten", layer.path, x, axis=1),
    layers.GaussianDropout: lambda graph, layer, x: x,  # noise is for training only
    layers.GaussianNoise: lambda graph, layer, x: x,
    layers.LayerNormalization: _Graph.normalize,
    layers.LeakyReLU: lambda graph, layer, x: graph._node(
        "LeakyRelu", layer.path, x, alpha=layer.negative_slope
    ),
    layers.ReLU: _Graph.rectify,
    layers.Rescaling: _Graph.rescale,
    layers.Softmax: lambda graph, layer, x: graph._node("Softmax", layer.path, x, axis=layer.axis),
    layers.SpatialDropout1D: _Graph.keep,
    layers.SpatialDropout2D: _Graph.keep,
    layers.SpatialDropout3D: _Graph.keep,
}
