"""Models: layers with a device, a seed and a training loop."""

import math
import operator
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import losses, optimizers, rng
from minidl.autograd import Tensor, no_grad
from minidl.backend import get_backend
from minidl.backend.base import FLOAT_TYPES
from minidl.batches import Samples, checked_size
from minidl.callbacks import Callback, CallbackList, History, LazyLogs
from minidl.keras_gaps import refuse
from minidl.layers import Input, Layer, Parameter, fusion
from minidl.layers.base import Placement
from minidl.layers.numbering import name_layers, number_random_layers
from minidl.metrics import Mean, Metric
from minidl.metrics import get as get_metric
from minidl.progress import ProgressBar, bar, checked_verbose, line
from minidl.summary import summary_table


class Model(Layer):
    """A layer that owns a device, a dtype and a seed, and can be trained.

    Subclass it: set layers as attributes in ``__init__`` and give `call`.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
    dtype : {"float16", "float32", "float64"}
        The dtype of weights, inputs and outputs.
    seed : int
        In [0, 2**64). With the step it decides all that is random: initial weights, the order of
        the samples and every dropout mask.

    Attributes
    ----------
    step : int
        The number of optimizer updates the model has had.
    epoch : int
        The number of epochs it has begun, each with its own order of the samples.
    stop_training : bool
        Set it to True to end `fit` after the current step; an epoch that is broken off so is not
        validated and not in the history.

    Examples
    --------
    >>> from minidl import layers
    >>> class Net(Model):
    ...     def __init__(self, **arguments):
    ...         super().__init__(**arguments)
    ...         self.hidden = layers.Dense(8, activation="relu")
    ...         self.drop = layers.Dropout(0.5)
    ...         self.out = layers.Dense(3, activation="softmax")
    ...
    ...     def call(self, x):
    ...         return self.out(self.drop(self.hidden(x)))
    >>> Net(seed=1)(np.zeros((2, 4))).shape
    (2, 3)
    """

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
                f"{self.label}: dtype must be one of {', '.join(FLOAT_TYPES)}, received {dtype!r}"
            )
        self.backend = get_backend(device)
        self.dtype = np.dtype(dtype)
        self.seed = rng.checked_integer(f"{self.label}: seed", seed, 2**64)
        self.step = 0
        self.epoch = 0
        self.stop_training = False
        self.optimizer: optimizers.Optimizer | None = None

    # -------------------------------------------------------------------- what it is

    @property
    def device(self) -> str:
        """The device's name."""
        return self.backend.name

    @property
    def layers(self) -> list[Layer]:
        """The layers that the model holds directly."""
        return list(self.sublayers())

    def summary(self) -> None:
        """Print the layers with their output shapes and numbers of weights.

        Raises
        ------
        ValueError
            If the model is not built, so that shapes are not known.
        """
        if not self.built:
            raise ValueError(
                f"{self.label}: not built, so its shapes are not known; give its first layer "
                "input_shape=, or call it on data"
            )
        print(summary_table(self.label, self.layers, self.parameters()))

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights on the host, in the order of `parameters`."""
        return [parameter.numpy() for parameter in self.parameters()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take over weights as `get_weights` returns them.

        Raises
        ------
        ValueError
            If their number or shapes differ; no weight is changed then.
        """
        parameters = self.parameters()
        expected = [parameter.shape for parameter in parameters]
        received = [np.shape(weight) for weight in weights]
        if expected != received:
            raise ValueError(
                f"{self.label}: set_weights expected arrays of shapes {expected}, "
                f"received {received}"
            )
        arrays = [np.asarray(weight, dtype=self.dtype) for weight in weights]
        with self.backend.active:
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.data[...] = self.backend.asarray(array)

    # -------------------------------------------------------------------- applying it

    def __call__(self, x: Any, **not_taken: Any) -> Any:
        """Apply the model to a batch: a tensor of its device, or an array of the host."""
        if not self.built:
            self._adopt_layers()
        x = self._as_input(x)
        block = rng.current_block()
        if block is None:
            return super().__call__(x, **not_taken)
        with block.batch_of(x.shape[0]):
            return super().__call__(x, **not_taken)

    def _as_input(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            x = Tensor.of(self.backend.asarray(x), self.backend)
        if x.backend is not self.backend:
            raise ValueError(
                f"{self.label}: the model is on {self.device} and its input on {x.device}; "
                f'move it with .to("{self.device}")'
            )
        if x.ndim == 0:
            raise ValueError(f"{self.label}: expected a batch of samples, received one number")
        return x.astype(self.dtype)

    def _trace(self, sample_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """Build the model by sending a batch of one zero sample through; return the output shape.

        The shapes that `summary` prints are observed here, not declared.
        """
        zeros = np.zeros((1, *sample_shape), dtype=self.dtype)
        # A layer of the user's may divide by them or take their logarithm.
        with rng.inference(), no_grad(), np.errstate(all="ignore"):
            y = self(zeros)
        return (None, *y.shape[1:])

    # -------------------------------------------------------------------- adopting layers

    def _adopt_layers(self) -> None:
        """Give every layer below a name, a place and, where it draws, a stream."""
        if self.placement is None:
            self.placement = Placement(self.backend, self.dtype, self.seed, owner=self)
        owner = self.placement.owner
        if isinstance(owner, Model) and owner is not self:
            owner._adopt_layers()
            return
        below = [layer for layer in self.walk() if layer is not self]
        within = {self, *below}
        own: list[Layer] = []
        foreign: list[Layer] = []
        for layer in below:
            self._check_place(layer)
            # A layer of another model keeps its name, seed and number: its draws must not change.
            is_own = layer.placement is None or layer.placement.owner in within
            (own if is_own else foreign).append(layer)
        for layer in own:
            layer.placement = self.placement
            if isinstance(layer, Model):
                layer.backend, layer.dtype, layer.seed = self.backend, self.dtype, self.seed
        self.placement.weight_streams.update(p.stream for p in self.parameters())
        name_layers(own, taken={layer.label for layer in foreign})
        number_random_layers(own, foreign)

    def _check_place(self, layer: Layer) -> None:
        """Raise ValueError where a layer has weights on another device or of another dtype."""
        built = [value for value in vars(layer).values() if isinstance(value, Parameter)]
        for parameter in built:
            if parameter.backend is not self.backend or parameter.dtype != self.dtype:
                raise ValueError(
                    f"{self.label}: {parameter.name} was built on {parameter.device} as "
                    f"{parameter.dtype}, and the model is on {self.device} as {self.dtype}; "
                    "build the layer within this model"
                )

    # -------------------------------------------------------------------- training it

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        *,
        metrics: Sequence[str | Metric] | None = None,
        **not_taken: Any,
    ) -> None:
        """Choose how the model is trained; ``step`` and ``epoch`` go on counting.

        Parameters
        ----------
        optimizer : str or Optimizer
            ``"sgd"``, ``"rmsprop"``, ``"adam"``, ``"adamw"``, or one with arguments of its own.
        loss : str or Loss
            ``"sparse_categorical_crossentropy"``, ``"categorical_crossentropy"``,
            ``"mean_squared_error"``, or a loss.
        metrics : list of str or Metric, optional
            ``"accuracy"``, or metrics.
        """
        refuse("compile", not_taken)
        # All are chosen before any is taken, so that an error changes nothing.
        new_loss, new_optimizer = losses.get(loss), optimizers.get(optimizer)
        new_metrics = [get_metric(metric) for metric in metrics or ()]
        names = [metric.name for metric in new_metrics]
        if len({"loss", *names}) <= len(names):
            raise ValueError(
                f"compile: each metric needs a name of its own and not loss, received {names}; "
                'name one: SparseCategoricalAccuracy("name")'
            )
        self.loss, self.metrics, self.optimizer = new_loss, new_metrics, new_optimizer

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Sequence[Any] | None = None,
        shuffle: bool = True,
        *,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        **not_taken: Any,
    ) -> History:
        """Train the model on samples of the host, each once an epoch.

        Parameters
        ----------
        x, y : array_like
            Samples and targets; axis 0 counts the samples. Batches are cast to the model's
            dtype, the whole arrays never.
        batch_size : int, optional
            Samples an update; 32 where it is None. The last batch of an epoch may be smaller.
        epochs : int
            The number of the epoch to stop before, `initial_epoch` the first.
        verbose : {"auto", 0, 1, 2}
            0 prints nothing, 1 (auto) shows a bar on a terminal, 2 prints a line an epoch. What
            is no terminal gets a line an epoch in place of the bar.
        callbacks : list of Callback, optional
            What else happens.
        validation_split : float
            The share of the samples, taken from the end, that is held out for validation.
        validation_data : tuple, optional
            ``(x, y)`` or ``(x, y, sample_weight)``; it has precedence over `validation_split`.
        shuffle : bool
            Whether each epoch has an order of its own, which follows from seed and epoch.
        sample_weight : array_like, optional
            One weight for each sample's loss.

        Returns
        -------
        History
            The loss and metrics of each epoch, means over its samples; also ``model.history``.

        Raises
        ------
        RuntimeError
            If the model is not compiled.
        TypeError, ValueError
            If data and arguments do not fit, before anything is trained.
        """
        refuse("fit", not_taken)
        batch_size = checked_size("fit", batch_size)
        verbose = checked_verbose("fit", verbose)
        epochs, initial_epoch = operator.index(epochs), operator.index(initial_epoch)
        if isinstance(callbacks, Callback):
            raise TypeError(f"fit: callbacks must be a list, received {callbacks!r}; use [it]")
        for callback in callbacks or ():
            if not isinstance(callback, Callback):
                raise TypeError(f"fit: expected a list of Callbacks, received {callback!r} in it")
        samples = self._check_data("fit", x, y, sample_weight)
        held_out = None
        if validation_data is not None:
            if not isinstance(validation_data, list | tuple) or len(validation_data) not in (2, 3):
                raise ValueError(
                    "fit: validation_data must be (x, y) or (x, y, sample_weight), received "
                    f"{type(validation_data).__name__}"
                )
            held_out = self._check_data("fit: validation_data", *validation_data)
        elif validation_split:
            samples, held_out = samples.split(validation_split)

        self._trained = [p for p in self.parameters() if p.requires_grad]
        if not self._trained:
            raise ValueError(f"fit: {self.label} has no weights to train; add a Dense layer")

        names = ["loss", *(metric.name for metric in self.metrics)]
        self.history = History()
        told = CallbackList(
            [*([ProgressBar()] if verbose else []), *(callbacks or ()), self.history],
            self,
            {
                "epochs": epochs,
                "steps": math.ceil(len(samples) / batch_size),
                "verbose": verbose,
                "metrics": names + [f"val_{name}" for name in names if held_out is not None],
            },
        )
        self.stop_training = False
        logs: dict[str, float] = {}
        told.tell("on_train_begin", {})
        try:
            for epoch in range(initial_epoch, epochs):
                told.tell("on_epoch_begin", epoch, {})
                whole, logs = self._fit_epoch(samples, batch_size, shuffle, told)
                if not whole:
                    break
                if held_out is not None:
                    values = self._evaluate(held_out, batch_size)
                    logs |= {f"val_{name}": value for name, value in values.items()}
                told.tell("on_epoch_end", epoch, logs)
                if self.stop_training:
                    break
        finally:
            told.tell("on_train_end", logs)
        return self.history

    def _fit_epoch(
        self, samples: Samples, batch_size: int, shuffle: bool, told: CallbackList
    ) -> tuple[bool, dict[str, float]]:
        """Train on each sample once; return whether the epoch came to its end, and its logs."""
        order = rng.permutation(len(samples), seed=self.seed, epoch=self.epoch) if shuffle else None
        self.epoch += 1
        for parameter in self._trained:
            parameter.grad = None  # an interrupted step may have left one
        seen = self._fresh_metrics()
        logs = LazyLogs({metric.name: metric.result for metric in seen})
        trained = 0
        for place, batch in enumerate(samples.batches(batch_size, order)):
            told.tell("on_train_batch_begin", place, {})
            self._train_step(batch, seen)
            trained += len(batch)
            told.tell("on_train_batch_end", place, logs)
            if self.stop_training:
                break
        return trained == len(samples), dict(logs)

    def _train_step(self, batch: Samples, seen: Sequence[Metric]) -> None:
        """Update the weights once."""
        assert self.optimizer is not None, "checked by _check_data"
        targets = Tensor.of(self.backend.asarray(batch.y), self.backend)
        with rng.training(step=self.step):
            outputs = self(batch.x)
            loss = self.loss(targets, outputs, batch.weight)
        loss.backward()
        self.optimizer.update(self._trained)
        self.step += 1
        _record(seen, targets, outputs, loss)

    def _fresh_metrics(self) -> list[Metric]:
        """Return the mean of the loss and the compiled metrics, all without samples."""
        for metric in self.metrics:
            metric.reset_state()
        return [Mean("loss"), *self.metrics]

    # -------------------------------------------------------------------- using it

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        *,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Return the loss, and the metrics where there are any, in inference mode.

        Parameters
        ----------
        x, y, batch_size, sample_weight
            As in `fit`.
        verbose : {"auto", 0, 1, 2}
            0 prints nothing, 2 a line with the results; 1 (auto) shows a bar on a terminal too.
        return_dict : bool
            Whether the result is a dictionary.

        Returns
        -------
        float, list of float, or dict
            The loss alone; with metrics ``[loss, *metrics]``; with `return_dict` by name.
        """
        batch_size = checked_size("evaluate", batch_size)
        verbose = checked_verbose("evaluate", verbose)
        samples = self._check_data("evaluate", x, y, sample_weight)
        values = self._evaluate(samples, batch_size, verbose)
        if verbose:
            print(line("Evaluation", values), flush=True)
        if return_dict:
            return values
        return list(values.values()) if self.metrics else values["loss"]

    def _evaluate(self, samples: Samples, batch_size: int, verbose: int = 0) -> dict[str, float]:
        seen = self._fresh_metrics()
        with rng.inference(), no_grad():
            for batch in bar("Evaluation", samples, batch_size, verbose):
                targets = Tensor.of(self.backend.asarray(batch.y), self.backend)
                outputs = self(batch.x)
                _record(seen, targets, outputs, self.loss(targets, outputs, batch.weight))
        return {metric.name: metric.result() for metric in seen}

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: str | int = "auto"
    ) -> np.ndarray:
        """Return the outputs for all samples on the host, in inference mode.

        Parameters
        ----------
        x, batch_size
            As in `fit`.
        verbose : {"auto", 0, 1, 2}
            1 (auto) shows a bar on a terminal; 0 and 2 print nothing.

        Examples
        --------
        >>> from minidl import layers
        >>> model = Sequential([layers.Dense(2, kernel_initializer="ones")])
        >>> model.predict(np.array([[1, 2], [3, 4]]))
        array([[3., 3.],
               [7., 7.]], dtype=float32)
        """
        batch_size = checked_size("predict", batch_size)
        verbose = checked_verbose("predict", verbose)
        samples = Samples.checked("predict", x)
        with rng.inference(), no_grad():
            batches = bar("Prediction", samples, batch_size, verbose)
            return np.concatenate([self(batch.x).numpy() for batch in batches])

    def _check_data(self, who: str, x: Any, y: Any, weight: Any = None) -> Samples:
        """Return the samples, or raise for what cannot be trained on."""
        if self.optimizer is None:
            raise RuntimeError(
                f"{who}: the model is not compiled; call "
                'model.compile(optimizer="adam", loss=...) first'
            )
        samples = Samples.checked(who, x, np.asarray(y), weight)
        assert samples.y is not None, "given above"
        output_shape = self._trace(samples.x.shape[1:])
        self.loss.check(samples.y, output_shape)
        for metric in self.metrics:
            metric.check(samples.y, output_shape)
        return samples


class Sequential(Model):
    """A model that sends its input through a list of layers.

    Parameters
    ----------
    layers : list of Layer, optional
        The layers. Where the first is an `Input` or has an ``input_shape``, the model is built at
        once, otherwise at its first call.
    device, dtype, seed, name
        As in `Model`.

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
    Dropout(rate=0.5, seed=0, stream=0, step=0, scaling='train')
    >>> model.count_params()
    67
    """

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(device=device, dtype=dtype, seed=seed, name=name)
        if isinstance(layers, Layer):
            raise TypeError(f"{self.label}: expected a list of layers, received {layers!r}")
        self._layers: list[Layer] = []
        for layer in layers or ():
            self._append(layer)
        self._adopt_layers()
        self._build_if_known()

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Raises
        ------
        ValueError
            If it does not fit; the model stays as it was.
        """
        before = self._layers.copy(), self.built, self.input_shape
        try:
            self._append(layer)
            self._adopt_layers()
            self._build_if_known()
        except Exception:
            self._layers, self.built, self.input_shape = before
            raise

    def _append(self, layer: Layer) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.label}: expected layers, received {layer!r}")
        self.built = False  # the new layer's shapes are not known
        first = not self._layers and self.input_shape is None
        if isinstance(layer, Input) and not first:
            raise ValueError(f"{self.label}: Input must be the first element, and the only one")
        if first:
            self.input_shape = layer.input_shape
        if not isinstance(layer, Input):
            self._layers.append(layer)

    def _build_if_known(self) -> None:
        if self.input_shape is not None and self._layers:
            self._trace(self.input_shape)

    def call(self, x: Tensor) -> Tensor:
        """Return the last layer's output."""
        remaining = deque(self._layers)
        while remaining:
            layer = remaining.popleft()
            if remaining and fusion.can_fuse(layer, remaining[0], x):
                x = fusion.dense_dropout(layer, remaining.popleft(), x)
            else:
                x = layer(x)
        return x


def _record(seen: Sequence[Metric], targets: Tensor, outputs: Tensor, loss: Tensor) -> None:
    """Add a batch to the mean of the loss, which comes first, and to the metrics."""
    count = len(targets)
    with loss.backend.active:
        seen[0].add(loss.data.astype("float64") * count, count)
        for metric in seen[1:]:
            metric.update_state(targets, outputs)
