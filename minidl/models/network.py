"""Networks: layers with a device, a dtype and a seed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import rng
from minidl.arguments import missing_attribute, positive_integer, refuse_masked
from minidl.backend import Backend, get_backend
from minidl.backend.base import FLOAT_TYPES
from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor
from minidl.layers.adoption import adopt
from minidl.layers.base import Layer
from minidl.layers.placement import Placement
from minidl.models import rehearsal
from minidl.storage import registry
from minidl.storage.atomic import PathLike
from minidl.trainer.summary import summary_table


class _Missing:
    """An attribute that is missing until an instance sets it, whatever its class inherits."""

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        raise AttributeError


class Network(Layer):
    """A layer that owns a device, a dtype and a seed, and names and numbers its layers.

    Parameters
    ----------
    device, dtype, seed, name
        As in `Model`, the trainable subclass.
    """

    placement: Placement = _Missing()  # type: ignore[assignment]

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if dtype not in FLOAT_TYPES:
            raise ValueError(
                f"{self.label}: expected dtype to be one of {', '.join(FLOAT_TYPES)}, got "
                f"{dtype!r}."
            )
        seed = rng.checked_integer(f"{self.label}: seed", seed, 2**64)
        self.placement = Placement(get_backend(device), np.dtype(dtype), seed, owner=self)

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            if "placement" not in vars(self):
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

    def summary(self) -> None:
        """Print the layers with their output shapes and numbers of weights.

        Raises
        ------
        ValueError
            If the model is not built, so that its shapes are not known.
        """
        self.check_built()
        print(summary_table(self.label, self.layers, self.parameters()))

    # -------------------------------------------------------------------- weights and files

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights on the host, in the order of `parameters`."""
        return [parameter.numpy() for parameter in self.parameters()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all weights to arrays as `get_weights` returns them.

        Raises
        ------
        ValueError
            If their number or shapes differ. No weight is changed then.
        """
        parameters = self.parameters()
        expected = [parameter.shape for parameter in parameters]
        received = [np.shape(weight) for weight in weights]
        if expected != received:
            raise ValueError(
                f"{self.label}: set_weights: expected arrays of shapes {expected}, got {received}."
            )
        arrays = [np.asarray(weight, dtype=self.dtype) for weight in weights]
        with self.backend.active:
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.assign(self.backend.asarray(array))

    def save(self, path: PathLike) -> None:
        """Write the model, its optimizer and its training state into one file, atomically.

        `load` builds the model again, and ``fit(resume=True)`` resumes its training.

        Raises
        ------
        TypeError
            If a part of the model cannot be described by its constructor's arguments.
        ValueError
            If the name does not end in ``.safetensors``, if the model could not be built again, for
            instance because two layers have one name, or if an update was broken off.
        OSError
            If the file cannot be written. An older file stays.

        Notes
        -----
        If weights were frozen, unfrozen or added since the optimizer's first update, its state is
        not saved, and the run cannot be resumed. Of the logs that callbacks add, numbers are saved.
        """
        registry.find("model", path).save(self, path)

    def check_savable(self, path: PathLike) -> None:
        """Raise what `save` would raise for this model, and write nothing."""
        registry.find("model", path).check(self)

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

    # -------------------------------------------------------------------- building and calling

    def __call__(self, x: Any) -> Any:
        """Return the outputs for a batch: a tensor of the device, or an array of the host."""
        x = self._as_input(x)
        if not self.built and not self._is_tracing:
            self._build_for(x.shape[1:])
        with rng.batch_of(x.shape[0]):
            return super().__call__(x)

    def _as_input(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            refuse_masked(self.label, x)
            x = Tensor.of(self.backend.asarray(x), self.backend)
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
        if not self._is_tracing:  # Layer.__call__ calls this, too
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
            rehearsal.copied(self)[0]._trace(sample_shape)
        self._trace(sample_shape)

    def _ensure_built(self, sample_shape: tuple[int, ...]) -> None:
        """Build what is not built yet, for samples of this shape."""
        if not self._is_complete():
            self._build_for(sample_shape)

    def _output_shape_for(self, sample_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """Return the shape of the outputs for samples of this shape; build nothing."""
        if not self._is_complete():
            return rehearsal.copied(self)[0]._trace(sample_shape)
        if self.built_for == sample_shape and self.output_shape is not None:
            return self.output_shape
        return self._trace(sample_shape)

    def _is_complete(self) -> bool:
        """Return whether the model and all its layers are built."""
        return all(layer.built for layer in self.walk())

    def _trace(self, sample_shape: tuple[int, ...], rows: int = 1) -> tuple[int | None, ...]:
        """Call the model on zeros, which builds it; return the output shape.

        The shapes that `summary` prints are observed here, not declared.
        """
        outermost: Network = self.placement.owner
        adopt(outermost, outermost.placement)
        zeros = np.zeros((rows, *sample_shape), dtype=self.dtype)
        outermost._traces = True
        try:
            # A layer of the user may divide by zeros or take their logarithm.
            with rng.inference(), no_grad(), np.errstate(all="ignore"):
                y = self(zeros)
        finally:
            outermost._traces = False
        return (None, *y.shape[1:])

    _traces = False

    @property
    def _is_tracing(self) -> bool:
        return self.placement.owner._traces
