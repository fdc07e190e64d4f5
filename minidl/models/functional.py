"""Functional models: graphs of layers with several inputs and outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from minidl.alternatives import keras_defaults
from minidl.arguments import by_name, number_array
from minidl.engine.tensor import Tensor
from minidl.layers import Input, Layer
from minidl.losses.outputs import joined
from minidl.models.graph import Graph, packed, unique_names
from minidl.models.model import Model
from minidl.trainer.fusion import stages, through


class Functional(Model):
    """A model of layers that were called on symbols; ``Model(inputs, outputs)`` makes one.

    A layer that was called twice is shared. Models are layers, too.

    Parameters
    ----------
    inputs : Input or list of Input
        The inputs.
    outputs : Symbol or list of Symbol
        What layers returned for them.
    device, dtype, seed, name
        As in `Model`.

    Raises
    ------
    TypeError, ValueError
        If the outputs do not depend on the inputs alone, or an argument is invalid. The layers then
        stay as they were.

    Notes
    -----
    With several inputs, x is a list of arrays, or a dictionary of arrays by the names of the
    inputs. `fit`, `evaluate` and `predict` join them in one array of the model's dtype, whose rows
    are the samples.

    With several outputs, y is a list of arrays, or a dictionary of arrays by the names of the
    outputs. So are the losses, the metrics and other arguments of `compile`. The names are those
    of the layers. With one output or input, lists and dictionaries of one are accepted, too.

    Examples
    --------
    >>> from minidl import layers, models
    >>> x = layers.Input((4,))
    >>> branch = layers.DropPath(0.5)(layers.Dense(4, "relu")(x))
    >>> model = models.Model(x, layers.Dense(3, "softmax")(layers.Add()([x, branch])))
    >>> model.predict(np.zeros((2, 4)), verbose=0).shape
    (2, 3)
    """

    @keras_defaults(trainable=True)
    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(device=device, dtype=dtype, seed=seed, name=name)
        self.set_graph(Graph.of(self.label, inputs, outputs))
        assert self.input_shape is not None, "the graph has it"
        self._build_for(self.input_shape)

    @classmethod
    def of_graph(cls, graph: Graph, **arguments: Any) -> "Functional":
        """Return an unbuilt model of a graph; `arguments` are those of `Model`."""
        model = cls.__new__(cls)
        Model.__init__(model, **arguments)
        model.set_graph(graph)
        return model

    def set_graph(self, graph: Graph) -> None:
        """Set the graph of a new model."""
        self.graph, self._layers = graph, list(graph.layers)
        self.takes_list = len(graph.inputs) > 1
        size = sum(math.prod(shape) for shape in graph.shapes)
        self.input_shape = (size,) if self.takes_list else graph.shapes[0]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of Keras, without the inputs."""
        return tuple(self._layers)

    def _summarized(self) -> tuple[Sequence[Layer], dict[str, Callable[[Layer], str]]]:
        pairs = zip(self.graph.names, self.graph.shapes, strict=True)
        inputs = [Input(shape, name=name) for name, shape in pairs]

        def sources(layer: Layer) -> str:
            return ", ".join(self.graph.sources(layer)) or "-"

        return [*inputs, *self._layers], {"Connected to": sources}

    def call(self, x: Tensor) -> Any:
        """Return the output, or a list of outputs; several inputs are packed in one tensor."""
        return through(stages(self.graph.chain), x)

    def _planned_layers(self) -> Sequence[Layer]:
        return self.graph.chain if self._is_called_as(Functional) else [self]

    def _ends(self) -> Sequence[Layer]:
        return self.graph.ends if self._is_called_as(Functional) else ()

    @property
    def output_names(self) -> list[str]:  # type: ignore[override]
        """The names of the outputs: those of the layers that return them."""
        return unique_names(layer.label for layer in self.graph.ends)

    def _host_outputs(self, who: str, name: str, values: Any) -> Any:
        names = self.output_names
        is_for_all = name == "sample_weight" and not isinstance(values, Mapping | list | tuple)
        if is_for_all or (len(names) < 2 and not isinstance(values, Mapping)):
            return super()._host_outputs(who, name, values)
        given = by_name(who, f"{name} for each of the outputs", names, values)
        known = [part for part in given.values() if part is not None]
        if len(names) < 2 or not known:
            return next(iter(given.values()))
        if name == "sample_weight":  # None is a weight of 1
            ones = np.ones(np.shape(known[0])[:1])
            given = {key: ones if part is None else part for key, part in given.items()}
        arrays = [number_array(who, f"{name}[{key!r}]", part) for key, part in given.items()]
        shapes = [array.shape for array in arrays]
        if any(shape[:1] != shapes[0][:1] or not shape for shape in shapes):
            raise ValueError(
                f"{who}: expected {name} with as many samples for each output, got shapes {shapes}."
            )
        return joined(names, arrays)

    def _as_input(self, x: Any) -> Tensor:
        if not isinstance(x, Mapping) and not (self.takes_list and isinstance(x, list | tuple)):
            return super()._as_input(Model._host_inputs(self, self.label, x))
        as_input = super()._as_input
        parts = self._converted(self.label, x, lambda _, part: as_input(part))
        return packed(parts) if self.takes_list else parts[0]

    def _converted(self, who: str, x: Any, convert: Callable[[str, Any], Any]) -> list[Any]:
        """Return the inputs, each converted by its name and value, if their shapes fit."""
        given = by_name(who, "an array for each of the inputs", self.graph.names, x)
        parts = [convert(f"x[{name!r}]", part) for name, part in given.items()]
        count = parts[0].shape[:1]
        for name, part, wanted in zip(given, parts, self.graph.shapes, strict=True):
            if part.shape[1:] != wanted or part.shape[:1] != count:
                raise ValueError(
                    f"{who}: expected {count} samples of shape {wanted} for {name}, got shape "
                    f"{part.shape}."
                )
        return parts

    def _host_inputs(self, who: str, x: Any) -> Any:
        if not self.takes_list and not isinstance(x, Mapping):
            return super()._host_inputs(who, x)
        arrays = self._converted(who, x, partial(number_array, who))
        if not self.takes_list:
            return arrays[0]
        flat = [array.reshape(len(array), -1).astype(self.dtype) for array in arrays]
        return np.concatenate(flat, axis=1)


Model.functional = Functional
