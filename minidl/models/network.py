"""Networks: layers with a device, a dtype and a seed."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from minidl import console, rng
from minidl.alternatives import keras_defaults, missing_attribute
from minidl.arguments import positive_integer
from minidl.backend import Backend, get_backend
from minidl.backend.arrays import FLOAT_TYPES
from minidl.engine.tensor import Tensor
from minidl.layers.adoption import adopt
from minidl.layers.base import Layer
from minidl.layers.placement import Placement
from minidl.layers.symbol import Symbols, are_symbols, batch_shape, copies, rehearsing
from minidl.optimizers import Optimizer
from minidl.storage import registry
from minidl.storage.atomic import PathLike
from minidl.trainer import summary
from minidl.trainer.loop import Run
from minidl.trainer.position import Position
from minidl.trainer.recorder import Recording
from minidl.trainer.state import History, TrainState


class Network(Layer):
    """A layer that owns a device, a dtype and a seed, and names and numbers its layers.

    Parameters
    ----------
    device, dtype, seed, name
        As in `Model`, the trainable subclass.
    """

    placement: Placement  # as soon as __init__ has run
    run: Run | None = None
    stop_training = False
    recording = Recording()
    output_names: Sequence[str] = ()  # only a `Functional` model knows them

    @keras_defaults(trainable=True)
    def __init__(
        self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, name: str | None = None
    ):
        super().__init__(name=name)
        if dtype not in FLOAT_TYPES:
            known = ", ".join(FLOAT_TYPES)
            raise ValueError(f"{self.label}: expected dtype to be one of {known}, got {dtype!r}.")
        seed = rng.checked_integer(f"{self.label}: seed", seed, 2**64)
        self.placement = Placement(get_backend(device), np.dtype(dtype), seed, owner=self)
        self.train_state = TrainState(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which is not in `fit` and does not hold its data."""
        return vars(self) | {"run": None}

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            if "train_state" not in vars(self):
                raise AttributeError(
                    f"{type(self).__name__}: no attribute {name!r} before super().__init__(). Call "
                    "super().__init__() first in __init__."
                )
            return missing_attribute(self, "Model", name)

    # -------------------------------------------------------------------- properties

    @property
    def backend(self) -> Backend:
        """The device's backend."""
        return self.placement.backend

    @property
    def device(self) -> str:
        """The device's name."""
        return self.backend.name

    @property
    def dtype(self) -> np.dtype:
        """The dtype of weights, inputs and outputs."""
        return self.placement.dtype

    @property
    def seed(self) -> int:
        """The seed."""
        assert self.placement.seed is not None, "a model's placement has one"
        return self.placement.seed

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that the model holds directly; `Sequential.add` appends one."""
        return tuple(self.held(Layer))

    @property
    def optimizer(self) -> Optimizer | Any:  # None only before `compile`: editors would warn
        """The optimizer that `compile` chose, or None."""
        return self.train_state.optimizer

    @property
    def step(self) -> int:
        """The number of optimizer updates the model has had."""
        return self.train_state.step

    @property
    def epoch(self) -> int:
        """Number of epochs begun so far. Each epoch has its own order of the samples."""
        return self.train_state.epoch

    @property
    def position(self) -> Position:
        """The position of the last `fit`; ``fit(resume=True)`` goes on there."""
        return self.train_state.progress.position

    @property
    def history(self) -> History:
        """The logs of each epoch of the last `fit`."""
        return self.train_state.progress.history

    @keras_defaults(line_length=None, positions=None, expand_nested=False, layer_range=None)
    def summary(
        self,
        *,
        print_fn: Callable[[str], Any] | None = None,
        show_trainable: bool = False,
        show_rates: bool = False,
    ) -> None:
        """Print the layers with their output shapes and numbers of weights.

        A layer that is not built has the shape ``?`` and ``0 (unbuilt)`` weights, as in Keras.

        Parameters
        ----------
        print_fn : callable, optional
            Takes the text, which is otherwise printed.
        show_trainable : bool
            Whether a column shows which layers are trained.
        show_rates : bool
            Whether a column shows the rates of dropout.
        """
        columns = {"Trainable": summary.is_trained} if show_trainable else {}
        columns |= {"Rate": summary.rate_of} if show_rates else {}
        layers, others = self._summarized()
        table = summary.summary_table(self.label, layers, self.parameters(), columns | others)
        if print_fn is None:
            console.write(table, sys.stdout)
        else:
            print_fn(table)

    def _summarized(self) -> tuple[Sequence[Layer], dict[str, Callable[[Layer], str]]]:
        """Return the rows of the summary, and more columns."""
        return self.layers, {}

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return the layer of a name, or of an index in `layers`.

        Raises
        ------
        ValueError
            If there is no such layer, or not one of the two is given.
        """
        layers = self.layers
        named = {layer.label: layer for layer in layers}
        if index is None and name in named:
            return named[name]
        if name is None and index is not None and -len(layers) <= index < len(layers):
            return layers[index]
        raise ValueError(
            f"{self.label}: get_layer: expected a name of {', '.join(named):.300}, or an index "
            f"below {len(layers)}, got name={name!r} and index={index!r}."
        )

    def _repr_html_(self) -> str:
        """Return the summary as a table, for notebooks."""
        layers, others = self._summarized()
        columns = {"Rate": summary.rate_of} | others
        return summary.summary_html(self.label, layers, self.parameters(), columns)

    # -------------------------------------------------------------------- weights and files

    def set_weights(self, weights: Iterable[np.ndarray]) -> None:
        """Set all weights; outside of `fit`, the last run can then not be resumed.

        Raises
        ------
        TypeError, ValueError
            As `Layer.set_weights`. No weight is changed then.
        """
        super().set_weights(weights)
        self._change_run("set_weights replaced the weights")

    def _change_run(self, obstacle: str) -> None:
        """Note that the last run cannot be resumed, unless the change is a part of it."""
        if self.run is None or not self.run.is_training:
            self.train_state.obstacle = obstacle

    @keras_defaults(overwrite=True)
    def save(self, path: PathLike) -> None:
        """Write the model, its optimizer and its training state into one file, atomically.

        `load` builds the model again, and ``fit(resume=True)`` resumes its training.

        Raises
        ------
        TypeError
            If a part of the model cannot be described by its constructor's arguments.
        ValueError
            If the name does not end in ``.safetensors``, if the model could not be built again, for
            instance because two layers have one name, or if an update was interrupted.
        OSError
            If the file cannot be written. An older file stays.

        Notes
        -----
        If weights were frozen, unfrozen or added since the optimizer's first update, its state is
        not saved, and the run cannot be resumed. Of the logs that callbacks add, numbers are saved.
        """
        registry.find("model", path).save(self, path)

    def check_savable(self, path: PathLike) -> None:
        """Raise the error that `save` would raise for this model, and write nothing."""
        registry.find("model", path).check(self)

    @keras_defaults(overwrite=True)
    def save_weights(self, path: PathLike) -> None:
        """Write the weights for other frameworks.

        ``NAME.weights.h5`` is Keras' format; it needs h5py, the extra ``keras``.
        ``NAME.safetensors`` is a state dict of PyTorch; the keys are the names of the layers
        (`minidl.formats.torch_weights` shows how to number them for ``torch.nn.Sequential``).

        Raises
        ------
        ValueError
            If the model is not built, or the file name has another ending.
        OSError
            If the file cannot be written. An older file stays.
        """
        self.check_built()
        registry.find("weights", path).save(self, path)

    @keras_defaults(skip_mismatch=False, by_name=False)
    def load_weights(self, path: PathLike) -> None:
        """Set the weights to those of a file that `save_weights`, Keras or PyTorch wrote.

        Raises
        ------
        ValueError
            If the model is not built, or the file is damaged or belongs to another network. No
            weight is changed then.
        OSError
            If the file cannot be read.
        """
        self.check_built()
        self.set_weights(registry.find("weights", path).load(self, path))

    @keras_defaults(format="onnx")
    def export(self, path: PathLike) -> None:
        """Write the network as an ONNX file, as it computes in inference.

        It needs onnx, the extra ``onnx``. Other runtimes read the file, for any number of samples.

        Raises
        ------
        TypeError
            If a layer or an activation has no ONNX operator.
        ValueError
            If the model is not built, or the file name does not end in ``.onnx``.
        OSError
            If the file cannot be written. An older file stays.
        """
        self.check_built()
        registry.find("network", path).save(self, path)

    # -------------------------------------------------------------------- building and calling

    @overload
    def __call__(self, x: Symbols, training: bool | None = ...) -> Any: ...
    @overload
    def __call__(self, x: Any, training: bool | None = ...) -> Tensor: ...
    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Return the outputs for a batch: a tensor of the device, or an array of the host.

        `training` is the mode, by default that of the block around it. On symbols, the model is a
        layer of another one.
        """
        if are_symbols(x) or training is not None:
            return super().__call__(x, training)
        x = self._as_input(x)
        if not self.built and not self._outermost._traces:
            self._build_for(x.shape[1:])
        with rng.batch_of(x.shape[0]):
            return super().__call__(x)

    def _as_input(self, x: Any) -> Tensor:
        x = self._as_tensor(x)
        if x.backend is not self.backend:
            raise ValueError(
                f"{self.label}: expected an input on {self.device}, got one on {x.device}. Move it "
                f'with .to("{self.device}").'
            )
        if x.ndim == 0:
            raise ValueError(f"{self.label}: expected a batch of samples, got one number.")
        return x.astype(self.dtype)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the model for batches of `input_shape`, such as ``(None, 784)``.

        The first call builds a model, too. A subclass with weights of its own creates them here, as
        in `Layer`: it is then called with the shape of a batch.

        Raises
        ------
        ValueError
            If the lengths after the first are not positive integers, or do not fit the layers. The
            model stays as it was.
        """

    def _run_build(self, build: Callable[..., None], input_shape: tuple[int | None, ...]) -> None:
        """Build all layers; on the way, each model runs its own definition of `build`."""
        if self._outermost._traces:
            super()._run_build(build, input_shape)
            return
        who = f"{self.label}: build: input_shape"
        self._build_for(tuple(positive_integer(who, length) for length in input_shape[1:]))

    def build_with(
        self, values: Callable[[str, tuple[int, ...]], np.ndarray], sample_shape: tuple[int, ...]
    ) -> None:
        """Build the model with initial values by name and shape, such as those of a file."""
        self.placement.initial_values = values
        self._trace(sample_shape, rows=0)  # without samples it takes no memory
        self.placement.initial_values = None

    def _build_for(self, sample_shape: tuple[int, ...]) -> None:
        """Build the model for samples of this shape; on an error it stays as it was."""
        if not self._is_complete():
            self._rehearsal()[0]._trace(sample_shape)
        elif self.built_for == sample_shape:
            return
        self._trace(sample_shape)

    def _output_shape_for(self, sample_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """Return the shape of the outputs for samples of this shape; build nothing."""
        if not self._is_complete():
            return self._rehearsal()[0]._trace(sample_shape)
        if self.built_for == sample_shape and self.output_shape is not None:
            return self.output_shape
        return self._trace(sample_shape)

    def _rehearsal(self, layers: Sequence[Layer] = ()) -> tuple[Self, list[Layer]]:
        """Return copies of the model and of layers for it, in which new weights are zeros.

        Building creates weights layer by layer, and any layer may raise. So a copy is built first:
        if that works, the model itself is built. The copy of a nested model is within a copy of its
        outermost model. The arrays of existing weights, the optimizer, and other models that layers
        belong to are shared, not copied.
        """
        outermost = self._outermost
        below = [layer for top in (outermost, *layers) for layer in top.walk()]
        things = outermost, self, list(layers)
        twin_outermost, twin, twins = copies(things, below, kept=[outermost.optimizer])
        twin_outermost.placement.initial_values = lambda name, shape: np.zeros(shape)
        return twin, twins

    def _is_complete(self) -> bool:
        """Return whether the model and all its layers have been called, so that all is built."""
        return all(layer.output_shape is not None for layer in self.walk())

    def _trace(self, sample_shape: tuple[int, ...], rows: int = 1) -> tuple[int | None, ...]:
        """Call the model on zeros, which builds it; return the output shape.

        The shapes that `summary` prints are observed here, not declared.
        """
        outermost = self._outermost
        adopt(outermost, outermost.placement)
        streams = self.placement.weight_streams.copy()
        zeros = np.zeros((rows, *sample_shape), dtype=self.dtype)
        outermost._traces = True
        try:
            with rehearsing():
                y = self(zeros)
        except BaseException:
            self.placement.weight_streams = streams  # a layer that was broken off is built again
            raise
        finally:
            outermost._traces = False
        return batch_shape(y)

    _traces = False

    @property
    def _outermost(self) -> "Network":
        """The model that names and numbers the layers."""
        return self.placement.owner
