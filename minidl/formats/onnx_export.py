"""Networks in the ONNX format, for other runtimes; it needs onnx, the extra ``onnx``.

The graph computes the network in inference mode. Its Dropout nodes do nothing there; in a runtime
that trains, they drop. Layers of noise have no nodes.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.arguments import free_name
from minidl.layers import (
    ELU,
    Activation,
    Add,
    AlphaDropout,
    Average,
    BatchNormalization,
    Concatenate,
    ConcreteDropout,
    Dense,
    DropConnect,
    Dropout,
    DropPath,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Maximum,
    Minimum,
    Multiply,
    ReLU,
    Rescaling,
    Softmax,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Subtract,
    activations,
)
from minidl.models import Functional, Model, Sequential
from minidl.storage.atomic import PathLike, write_atomically
from minidl.storage.extras import from_extra
from minidl.version import __version__

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for all runtimes
SHARED_DROPOUTS = (
    Dropout,
    AlphaDropout,
    DropPath,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
MERGING = {Add: "Add", Average: "Mean", Multiply: "Mul", Subtract: "Sub"}
MERGING |= {Maximum: "Max", Minimum: "Min"}
# Of activations, whose names are these in snake case.
OPERATORS = "Elu", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Tanh"
ATTRIBUTES: dict[str, dict[str, float]] = {"LeakyRelu": {"alpha": 0.2}, "Softmax": {"axis": -1}}


def save(model: Model, path: PathLike) -> None:
    """Write a built model as an ONNX file; `Model.export` is the public name."""
    graph = _Graph(model.dtype)
    inputs = ["input"]
    if isinstance(model, Functional):
        inputs = model.graph.names if model.takes_list else inputs
        outputs = graph.between(model, inputs)
    elif isinstance(model, Sequential):
        outputs = [graph.through(model.layers, "input")]
    else:
        raise TypeError(
            f"export: expected a Sequential or a functional model, got {model.label}, a "
            f"{type(model).__qualname__}."
        )
    write_atomically(path, graph.serialized(model, inputs, outputs))


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

    def through(self, layers: Sequence[Layer], value: str) -> str:
        """Add the nodes of layers that `value` passes; return the name of the result."""
        for layer in layers:
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
        if kind is Concatenate:
            return self._node("Concat", label, *found, axis=layer.axis)
        if kind not in MERGING:
            raise self._refusal(layer)
        if kind is Average or len(found) == 2:
            return self._node(MERGING[kind], label, *found)
        return functools.reduce(lambda a, b: self._node(MERGING[kind], label, a, b), found)

    def _apply(self, layer: Any, x: str) -> str:
        kind, label = type(layer), layer.path
        if isinstance(layer, Functional):
            return self.between(layer, [x])[0]
        if isinstance(layer, Sequential):
            return self.through(layer.layers, x)
        if kind is Flatten:
            return self._node("Flatten", label, x, axis=1)
        if kind is ReLU:
            return self._rectify(layer, x)
        if kind in (ELU, LeakyReLU):
            operator, alpha = ("Elu", "alpha") if kind is ELU else ("LeakyRelu", "negative_slope")
            return self._node(operator, label, x, alpha=getattr(layer, alpha))
        if kind is BatchNormalization:
            return self._normalize_batch(layer, x)
        if kind is LayerNormalization:
            return self._normalize(layer, x)
        if kind is Softmax:
            return self._node("Softmax", label, x, axis=layer.axis)
        if kind is Rescaling:
            return self._rescale(layer, x)
        if kind is Activation:
            return self._activate(layer, layer.activation, x)
        if kind is Dropout and layer.noise_shape is None:
            return self._drop(layer, x)
        if kind in (GaussianDropout, GaussianNoise):  # which do nothing in inference
            return x
        if kind is ConcreteDropout:
            return self._apply(layer.layer, x)
        if kind in SHARED_DROPOUTS:
            return self._keep(layer, x)
        if kind in (Dense, DropConnect):
            return self._dense(layer, x)
        raise self._refusal(layer)

    @staticmethod
    def _refusal(layer: Layer) -> TypeError:
        kind = type(layer).__qualname__
        return TypeError(
            f"export: expected layers with an ONNX operator, got {layer.path}, a {kind}."
        )

    def _rescale(self, layer: Rescaling, x: str) -> str:
        label = layer.path
        x = self._node("Mul", f"{label}/scale", x, self._number(f"{label}/by", layer.scale))
        if not layer.offset:
            return x
        return self._node("Add", f"{label}/shift", x, self._number(f"{label}/to", layer.offset))

    def _dense(self, layer: Dense, x: str) -> str:
        x = self._node("MatMul", f"{layer.path}/product", x, self._constant(layer.weight))
        if layer.bias is not None:
            x = self._node("Add", f"{layer.path}/sum", x, self._constant(layer.bias))
        return self._activate(layer, layer.activation, x)

    def _activate(self, layer: Layer, function: activations.Function, x: str) -> str:
        name = activations.name_of(function)
        if name == "linear":
            return x
        if name in ("gelu", "gelu_tanh", "silu"):
            return self._gate(f"{layer.path}/{name}", name, x)
        operator = "".join(map(str.capitalize, (name or "").split("_")))
        if operator not in OPERATORS:
            raise TypeError(
                f"export: expected activations with an ONNX operator, got {function!r} in "
                f"{layer.label}."
            )
        return self._node(operator, f"{layer.path}/{name}", x, **ATTRIBUTES.get(operator, {}))

    def _gate(self, label: str, name: str, x: str) -> str:
        """Add x times a distribution function: the sigmoid of a value, or (1 + erf) / 2."""
        value = x
        if name == "gelu":
            value = self._with("Mul", f"{label}/scale", x, 0.5**0.5)
            value = self._with("Add", f"{label}/one", self._node("Erf", f"{label}/erf", value), 1.0)
            return self._with("Mul", f"{label}/half", self._node("Mul", label, x, value), 0.5)
        if name == "gelu_tanh":  # (1 + tanh(u)) / 2 is the sigmoid of 2 u
            square = self._node("Mul", f"{label}/square", x, x)
            cubic = self._with("Mul", f"{label}/factor", square, 0.044715)
            cubic = self._with("Add", f"{label}/one", cubic, 1.0)
            value = self._node("Mul", f"{label}/cubic", cubic, x)
            value = self._with("Mul", f"{label}/scale", value, math.sqrt(8 / math.pi))
        return self._node("Mul", label, x, self._node("Sigmoid", f"{label}/sigmoid", value))

    def _rectify(self, layer: ReLU, x: str) -> str:
        label, slope, threshold = layer.path, layer.negative_slope, layer.threshold
        if layer.max_value is None and not slope and not threshold:
            return self._node("Relu", label, x)
        limit = self._number(f"{label}/threshold", threshold)
        low = self._with(
            "Mul", f"{label}/slope", self._node("Sub", f"{label}/low", x, limit), slope
        )
        largest = math.inf if layer.max_value is None else layer.max_value
        high = self._with("Min", f"{label}/high", x, largest)
        return self._node("Where", label, self._node("Greater", f"{label}/is", x, limit), high, low)

    def _normalize_batch(self, layer: BatchNormalization, x: str) -> str:
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

    def _normalize(self, layer: LayerNormalization, x: str) -> str:
        ndim = len(layer.built_for or ()) + 1
        axes = layer.axes(ndim)
        if axes != tuple(range(axes[0], ndim)):
            raise TypeError(
                f"export: expected the axis of {layer.label} to name the last axes, got "
                f"{layer.axis}. Other axes have no ONNX operator."
            )
        ones = np.ones(layer.weight_shape, self._dtype)
        gamma, beta = layer.gamma, layer.beta
        weights = [
            self._stored(f"{layer.path}/ones", ones) if gamma is None else self._constant(gamma)
        ]
        weights += [] if beta is None else [self._constant(beta)]
        options = {"axis": axes[0], "epsilon": layer.epsilon}
        return self._node("LayerNormalization", layer.path, x, *weights, **options)

    def _drop(self, layer: Dropout, x: str) -> str:
        label = layer.path
        rate = layer.rate_at(layer.step)
        if rate == 1:
            raise ValueError(f"export: expected dropout rates below 1, got 1 in {label}.")
        x = self._node("Dropout", label, x, self._number(f"{label}/rate", rate))
        if layer.scaling == "train":
            return x
        # In training this undoes the node's scaling; in inference it is the layer's own.
        return self._node("Mul", f"{label}/keep", x, self._number(f"{label}/by", 1 - rate))

    def _keep(self, layer: Any, x: str) -> str:
        """Add what a layer does in inference that ONNX cannot do in training."""
        label = layer.path
        if getattr(layer, "scaling", "train") == "train":
            return self._node("Identity", label, x)
        return self._node(
            "Mul", label, x, self._number(f"{label}/by", 1 - layer.rate_at(layer.step))
        )

    def _node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        name = self._unique(name)
        output = f"{name}:out"
        node = self._onnx.helper.make_node(operator, inputs, [output], name, **attributes)
        self._nodes.append(node)
        return output

    def _constant(self, parameter: Any) -> str:
        if parameter not in self._shared:
            values = np.ascontiguousarray(parameter.numpy())
            self._shared[parameter] = self._stored(parameter.name, values)
        return self._shared[parameter]

    def _with(self, operator: str, name: str, x: str, number: float) -> str:
        """Add a node of a value and a number; return the name of the result."""
        return self._node(operator, name, x, self._number(f"{name}/by", number))

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

    def serialized(self, model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Return the whole file."""
        helper = self._onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(self._dtype)
        assert model.built_for is not None, "export has checked it"
        assert model.output_shape is not None, "export has checked it"
        wide: Any = model.output_shape
        shapes: Any = [model.built_for], [wide[1:]]
        if isinstance(model, Functional):
            shapes = model.graph.shapes, [s[1:] for s in (wide if len(outputs) > 1 else [wide])]
        x, y = (
            [
                helper.make_tensor_value_info(name, kind, ["batch", *shape])
                for name, shape in zip(names, each, strict=True)
            ]
            for names, each in zip((inputs, outputs), shapes, strict=True)
        )
        graph = helper.make_graph(self._nodes, model.label, x, y, initializer=self._constants)
        whole = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="minidl",
            producer_version=__version__,
        )
        self._onnx.checker.check_model(whole)
        return whole.SerializeToString()
