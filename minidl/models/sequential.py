"""Sequential models, and their loading from files."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import as_list
from minidl.engine.tensor import Tensor
from minidl.layers import Input, Layer
from minidl.layers.adoption import adopt
from minidl.models.model import Model
from minidl.storage import registry
from minidl.storage.atomic import PathLike
from minidl.trainer.fusion import stages, through


class Sequential(Model):
    """A model that passes its input through a list of layers.

    Parameters
    ----------
    layers : list of Layer, optional
        The layers. If the first is an `Input` or has an ``input_shape``, the model is built at
        once, otherwise at its first call.
    device, dtype, seed, name
        As in `Model`.

    Raises
    ------
    TypeError, ValueError
        If an argument or a layer is invalid. The layers then stay as they were.

    Examples
    --------
    >>> from minidl import layers
    >>> model = Sequential([
    ...     layers.Input((4,)),
    ...     layers.Dense(8, activation="relu"),
    ...     layers.Dropout(0.5),
    ...     layers.Dense(3, activation="softmax"),
    ... ])
    >>> model.layers[1]
    Dropout(rate=0.5, seed=0, stream=0, step=0)
    >>> model.count_params()
    67
    """

    @keras_defaults(trainable=True)
    def __init__(
        self,
        layers: Iterable[Layer] | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(device=device, dtype=dtype, seed=seed, name=name)
        self._layers: list[Layer] = []
        self._extend([] if layers is None else as_list(self.label, "layers", layers))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of their calls; a shared layer appears once for each call."""
        return tuple(self._layers)

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Raises
        ------
        TypeError, ValueError
            If `layer` is not a Layer, or does not fit. Model and layer then stay as they were.
        """
        self._extend([layer])

    def pop(self) -> Layer:
        """Remove the last layer and return it.

        Raises
        ------
        ValueError
            If there is none.
        """
        if not self._layers:
            raise ValueError(f"{self.label}: expected a layer to remove, got an empty model.")
        layer = self._layers.pop()
        self._append([])
        return layer

    def _extend(self, layers: list[Layer]) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{self.label}: expected layers, got {layer!r}.")
        if layers:
            twin, copies = self._rehearsal(layers)
            twin._append(copies)
        self._append(layers)

    def _append(self, layers: list[Layer]) -> None:
        """Append layers, and build the model if its input shape is known."""
        for layer in layers:
            is_first = not self._layers and self.input_shape is None
            if isinstance(layer, Input) and not is_first:
                raise ValueError(
                    f"{self.label}: expected Input only as the first element, got another one."
                )
            if is_first:
                self.input_shape = layer.input_shape
            if not isinstance(layer, Input):
                self._layers.append(layer)
        self.built, self.output_shape = False, None  # the new layers have no shapes yet
        adopt(self._outermost, self._outermost.placement)
        if self.input_shape is not None and self._layers:
            self._trace(self.input_shape)

    def call(self, x: Tensor) -> Tensor:
        """Return the output of the last layer."""
        return through(stages(self._layers), x)

    def _planned_layers(self) -> Sequence[Layer]:
        return self._layers if self._is_called_as(Sequential) else [self]

    def _ends(self) -> Sequence[Layer]:
        return self._planned_layers()[-1:]


@keras_defaults(compile=True, safe_mode=True)
def load(path: PathLike, device: str = "cpu", *, custom_objects: Iterable[Any] = ()) -> Any:
    """Load a model that `Model.save` wrote, on any device.

    Parameters
    ----------
    path : path
        The file.
    device : str
        As in `Model`.
    custom_objects : sequence of type or function
        Your own classes that the file may name: layers, losses, metrics and so on, and functions
        that are losses or metrics. A file can use these and minidl's classes only. Of a dictionary,
        as Keras takes it, the values count.

    Raises
    ------
    ValueError
        If the file is damaged, is not a checkpoint, or names another class. Nothing larger than
        the file is allocated.
    OSError
        If the file cannot be read.
    DeviceError
        If the device is not available.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from minidl import layers
    >>> model = Sequential([layers.Dense(8, input_shape=(4,)), layers.Dropout(0.5)], seed=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     model.save(path)
    ...     again = load(path)
    >>> x = np.ones((2, 4))
    >>> bool((again.predict(x) == model.predict(x)).all())
    True
    """
    if os.path.isdir(path):
        raise ValueError(
            f"{path}: expected a file, got a folder. Pass a file in it, such as "
            f"checkpoint.latest({os.fspath(path)!r})."
        )
    return registry.find("model", path).load(path, device, custom_objects)
