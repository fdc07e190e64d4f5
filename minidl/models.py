"""Models: layers with a device, a seed and a training loop."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import fusion, losses, optimizers, rng
from minidl.autograd import Tensor, no_grad, refuse_masked
from minidl.backend import get_backend
from minidl.backend.base import FLOAT_TYPES
from minidl.batches import Batch, Feed, Samples
from minidl.callbacks import Callback, CallbackList, History, LazyLogs
from minidl.files import PathLike
from minidl.keras_gaps import missing_attribute, refuse
from minidl.layers import Dense, Flatten, Input, Layer, Parameter, Rescaling, activations
from minidl.layers.base import Placement, positive_integer, unchanged_on_error
from minidl.layers.numbering import name_layers, number_random_layers
from minidl.metrics import Metric, Running
from minidl.metrics import get as get_metric
from minidl.position import Position, describe_run
from minidl.progress import ProgressBar, bar, checked_verbose, line
from minidl.summary import summary_table
from minidl.uncertainty import Moments, Uncertainty

__all__ = ["Model", "Sequential", "load"]

DEFAULT_BATCH_SIZE = 32
NO_PROBABILITIES = ("linear", "relu", "tanh")  # activations whose outputs are none


@dataclass
class _Run:
    """What a model has while it is in `fit`, and not later: the data, and the weights it trains."""

    feed: Feed
    trained: list[Parameter] = field(default_factory=list)


class Model(Layer):
    """A layer that owns a device, a dtype and a seed, and can be trained.

    Subclass it: set layers as attributes in ``__init__`` and give `call`.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
    dtype : {"float16", "float32", "float64"}
        The dtype of weights, inputs and outputs. A float16 model predicts; it cannot be trained.
    seed : int
        In [0, 2**64). With the step it decides all that is random: initial weights, the order of
        the samples and every dropout mask. Layers that another model has had keep that one's.

    Attributes
    ----------
    step : int
        The number of optimizer updates the model has had.
    epoch : int
        The number of epochs it has begun, each with its own order of the samples.
    history : History
        What each epoch of the last `fit` logged.
    position : Position
        Where that `fit` stands; a checkpoint holds it, and ``fit(resume=True)`` goes on there.
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
        self.history = History()
        self.position = Position()
        self._run: _Run | None = None

    if not TYPE_CHECKING:  # there it would stand for every name

        def __getattr__(self, name: str) -> Any:
            if "backend" not in vars(self):
                raise AttributeError(
                    f"{type(self).__name__}: no attribute {name!r} before super().__init__(); call "
                    "that first in __init__"
                )
            return missing_attribute(self, "Model", name)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the data: a copy that a callback makes is not in `fit`."""
        return vars(self) | {"_run": None}

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
                parameter.assign(self.backend.asarray(array))

    def save(self, path: PathLike) -> None:
        """Write the model, its optimizer and the position in its training into one file.

        `load` builds it again, and ``fit(resume=True)`` goes on with its training. At every instant
        the file is the old one or the new one.

        Raises
        ------
        TypeError
            If the model, or a part of it, is of a class of your own.
        ValueError
            If the name does not end in ``.safetensors``; if the model could not be built again, as
            where two layers have one name; or if training was broken off within a step.
        OSError
            If the file cannot be written; an older one stays.

        Notes
        -----
        An optimizer that has updated other weights than those that are trained now, since some were
        frozen, unfrozen or added, is saved as a new one, and the run cannot be resumed. Of what
        callbacks add to the logs, the file holds the numbers.
        """
        from minidl import checkpoint

        checkpoint.save(self, path)

    def save_weights(self, path: PathLike) -> None:
        """Write the weights alone, for others to load.

        ``NAME.weights.h5`` is Keras' format (it needs h5py, the extra ``keras``);
        ``NAME.safetensors`` a state dict as PyTorch names and shapes it, by the names of the layers
        (`minidl.interchange.torch_weights` says how to number them for ``torch.nn.Sequential``).

        Raises
        ------
        ValueError
            If the model is not built, or the name is that of no such file.
        OSError
            If the file cannot be written; an older one stays.
        """
        self._weight_format(path).save(self, path)

    def load_weights(self, path: PathLike) -> None:
        """Take over the weights of a file that `save_weights`, Keras or PyTorch wrote.

        Raises
        ------
        ValueError
            If the model is not built, or the file is damaged or that of another network; no weight
            is changed then.
        OSError
            If it cannot be read.
        """
        self.set_weights(self._weight_format(path).load(self, path))

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(
                f"{self.label}: not built, so it has no weights; give its first layer "
                "input_shape=, or call it on data"
            )

    def _weight_format(self, path: PathLike) -> ModuleType:
        """Return the module that reads and writes files of that name."""
        from minidl.interchange import keras_weights, torch_weights

        self._check_built()
        formats = {".weights.h5": keras_weights, ".safetensors": torch_weights}
        for ending, module in formats.items():
            if os.fspath(path).endswith(ending):
                return module
        raise ValueError(
            f"{path}: weights are in NAME.weights.h5 (Keras) or NAME.safetensors (PyTorch); "
            "give a file of such a name"
        )

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
            refuse_masked(self.label, x)
            x = Tensor.of(self.backend.asarray(x), self.backend)
        if x.backend is not self.backend:
            raise ValueError(
                f"{self.label}: the model is on {self.device} and its input on {x.device}; "
                f'move it with .to("{self.device}")'
            )
        if x.ndim == 0:
            raise ValueError(f"{self.label}: expected a batch of samples, received one number")
        return x.astype(self.dtype)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the model for batches of `input_shape`, as ``(None, 784)``: None is any number.

        Data build a model too. A subclass with weights of its own creates them here, as `Layer`
        does; for that the first call gives the shape of its batch, which holds no None.

        Raises
        ------
        ValueError
            If the shape of a sample is none, or not that of the layers.
        """
        if input_shape[0] is None:
            who = f"{self.label}: build: input_shape"
            self._trace(tuple(positive_integer(who, length) for length in input_shape[1:]))

    def _trace(self, sample_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """Build the model by sending a batch of one zero sample through; return the output shape.

        The shapes that `summary` prints are observed here, not declared.
        """
        zeros = np.zeros((1, *sample_shape), dtype=self.dtype)
        # A layer of the user's may divide by them or take their logarithm.
        with (
            unchanged_on_error([self._outermost, self]),
            rng.inference(),
            no_grad(),
            np.errstate(all="ignore"),
        ):
            y = self(zeros)
        return (None, *y.shape[1:])

    # -------------------------------------------------------------------- adopting layers

    def _adopt_layers(self) -> None:
        """Give every layer below a name, a place and, where it draws, a stream."""
        if self.placement is None:
            self.placement = Placement(self.backend, self.dtype, self.seed, owner=self)
        outermost = self._outermost
        if outermost is not self:
            outermost._adopt_layers()
            return
        below = [layer for layer in self.walk() if layer is not self]
        within = {self, *below}
        own: list[Layer] = []
        foreign: list[Layer] = []
        for layer in below:
            # A layer of another model keeps its name, seed and number: its draws must not change.
            is_own = layer.placement is None or layer.placement.owner in within
            self._check_place(layer, is_own)
            (own if is_own else foreign).append(layer)
        for layer in own:
            layer.placement = self.placement
            if isinstance(layer, Model):
                layer.backend, layer.dtype, layer.seed = self.backend, self.dtype, self.seed
        self.placement.weight_streams.update(p.stream for p in self.parameters())
        name_layers(own, taken={layer.label for layer in foreign})
        number_random_layers(own, foreign)

    @property
    def _outermost(self) -> "Model":
        """The model that names and numbers the layers: this one, or the one that it is within."""
        owner = None if self.placement is None else self.placement.owner
        return owner if isinstance(owner, Model) else self

    def _check_place(self, layer: Layer, is_own: bool) -> None:
        """Raise ValueError where a layer's weights are, or will be, not as the model's."""
        here = f"the model is on {self.device} as {self.dtype}"
        for parameter in layer.own_parameters():
            if parameter.backend is not self.backend or parameter.dtype != self.dtype:
                raise ValueError(
                    f"{self.label}: {parameter.name} was built on {parameter.device} as "
                    f"{parameter.dtype}, and {here}; build the layer within this model"
                )
        place = layer.placement
        if is_own or layer.built or place is None:
            return
        if place.backend is not self.backend or place.dtype != self.dtype:
            raise ValueError(
                f"{self.label}: {layer.label} is a layer of another model, on "
                f"{place.backend.name} as {place.dtype}, and {here}; give each model layers of its "
                "own"
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
        if isinstance(metrics, str | Metric):
            raise TypeError(
                f"compile: metrics must be a list, received {metrics!r}; use [{metrics!r}]"
            )
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
        self.position.torn = False  # the new optimizer has no state of another step
        if self._run is not None:  # a callback has called it, and the run goes on
            self.position.optimizer = new_optimizer

    def fit(
        self,
        x: Any,
        y: Any = None,
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
        resume: bool = False,
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
            Train until so many epochs are over, counted from 0; the first one is `initial_epoch`.
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
            One weight for each sample's loss, of shape (n,) or (n, 1).
        resume : bool
            Whether the run goes on that the model was in when it was saved, or when it stopped: in
            the epoch and at the batch where it was, with its history. All data, `batch_size`,
            `shuffle` and what `compile` chose must be the same; then the weights are those of a
            run that was never broken off, bit for bit. Other data are noticed by a checksum, for
            which a part of large ones is read. A run that Ctrl-C broke off while weights were being
            updated is refused; its last checkpoint goes on.

        Returns
        -------
        History
            The loss and metrics of each epoch, means over its samples; also ``model.history``.

        Raises
        ------
        RuntimeError
            If the model is not compiled, or is in `fit` already.
        TypeError, ValueError
            If data and arguments do not fit, before anything is trained. Where that is found before
            the first epoch begins, `history` and `position` stay those of the `fit` before.
        """
        refuse("fit", not_taken)
        if self._run is not None:
            raise RuntimeError(
                f"fit: {self.label} is in fit already; a callback can evaluate it and predict with "
                "it, and train another: copy.deepcopy(model)"
            )
        batch_size = _batch_size("fit", batch_size)
        verbose = checked_verbose("fit", verbose)
        epochs = rng.checked_integer("fit: epochs", epochs, 2**32)
        initial_epoch = rng.checked_integer("fit: initial_epoch", initial_epoch, 2**32)
        if shuffle not in (True, False):
            raise ValueError(f"fit: shuffle must be True or False, received {shuffle!r}")
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

        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(f"fit: {self.label} has no weights to train; add a Dense layer")

        run = describe_run(samples, held_out, batch_size=batch_size, shuffle=bool(shuffle))
        if resume:
            if initial_epoch:
                raise ValueError(
                    f"fit: resume=True says where to begin, received initial_epoch={initial_epoch} "
                    "too; leave one of them out"
                )
            self.position.check(run, self.optimizer, self.parameters())
        before = self.history, self.position
        history, position = before if resume else (History(), Position(initial_epoch))
        position = replace(position, **run, optimizer=self.optimizer)

        names = ["loss", *(metric.name for metric in self.metrics)]
        # Told first, the history has the epoch that a callback saves at its end.
        everyone = [history, *([ProgressBar()] if verbose else []), *(callbacks or ())]
        told = CallbackList(
            sorted(everyone, key=lambda callback: callback.comes_last),
            self,
            {
                "epochs": epochs,
                "steps": math.ceil(len(samples) / batch_size),
                "verbose": verbose,
                "metrics": names + [f"val_{name}" for name in names if held_out is not None],
            },
        )
        self.stop_training = False
        feed = self._feed(samples)
        validation = None if held_out is None else self._feed(held_out)
        logs: dict[str, float] = {}
        self.history, self.position = history, position
        try:
            self._run = _Run(feed)
            try:
                told.begin()
            except BaseException:
                self.history, self.position = before  # this run was refused
                raise
            for epoch in range(self.position.epoch, epochs):
                if self.stop_training:
                    break
                told.tell("on_epoch_begin", epoch, {})
                with self.backend.active:
                    logs = self._fit_epoch(told)
                if self.position.batch < told.params["steps"]:
                    break
                if validation is not None:
                    values = self._evaluate(validation, batch_size)
                    logs |= {f"val_{name}": value for name, value in values.items()}
                self.position.next_epoch()
                told.tell("on_epoch_end", epoch, logs)
        finally:
            self._run = None
            told.end(logs)
        return self.history

    def _fit_epoch(self, told: CallbackList) -> dict[str, float]:
        """Train on each sample that the epoch has left; return the epoch's logs so far."""
        position = self.position
        assert self._run is not None, "set by fit"
        # Anew in each epoch: a callback may have frozen some, which the optimizer then refuses.
        self._run.trained = [p for p in self.parameters() if p.requires_grad]
        totals = position.totals()
        running = Running(self.metrics, self.backend)
        running.restore(totals)
        position.running = running
        logs = LazyLogs(running.readers())
        for batch in self.batches_left():
            place = position.batch
            told.tell("on_train_batch_begin", place, {})
            self.train_step(batch, running)
            told.tell("on_train_batch_end", place, logs)
            if self.stop_training:
                break
        return dict(logs)

    def batches_left(self) -> Iterator[Batch]:
        """Give the batches that the epoch of `fit` has left, from `position` on."""
        assert self._run is not None, "set by fit"
        size, count = self.position.batch_size, len(self._run.feed)
        order = np.arange(count)
        if self.position.shuffle:
            has_begun = self.position.batch > 0  # and is counted, see train_step
            epoch = self.epoch - 1 if has_begun else self.epoch
            order = rng.permutation(count, seed=self.seed, epoch=epoch)
        return self._run.feed.batches(size, order[self.position.batch * size :])

    def train_step(self, batch: Batch, running: Running) -> None:
        """Update the weights once."""
        assert self.optimizer is not None, "checked by _check_data"
        assert self._run is not None, "set by fit"
        trained = self._run.trained
        with rng.training(step=self.step):
            loss, count = self._batch_loss(batch, running)
        for parameter in trained:
            parameter.grad = None  # a callback, or an interrupted step, may have left one
        loss.backward(into=self.optimizer.gradients_of(trained))
        position = self.position
        position.torn = True  # until the step is counted
        try:
            self.optimizer.update(trained)
        except Exception:
            position.torn = self.optimizer.is_changing  # it may have refused beforehand
            raise
        count()
        self.step += 1
        if position.batch == 0:  # an epoch has begun with its first step
            self.epoch += 1
        position.batch += 1
        position.torn = False

    # -------------------------------------------------------------------- what fit may fuse

    def _feed(self, samples: Samples) -> Feed:
        """Return the source of batches for `_outputs` and `_batch_loss`."""
        return Feed(samples, self.backend, self.dtype)

    def _outputs(self, batch: Batch) -> Tensor:
        """Return the outputs for a batch of the feed."""
        return self(batch.x)

    def _batch_loss(self, batch: Batch, running: Running) -> tuple[Tensor, Callable[[], None]]:
        """Return the mean loss of a batch of the feed, and what adds the batch to `running`.

        Training counts it when the weights are updated: a step that is broken off is not counted.
        """
        return self._compared(batch, self._outputs(batch), running)

    def _compared(
        self, batch: Batch, outputs: Tensor, running: Running
    ) -> tuple[Tensor, Callable[[], None]]:
        """Return the mean loss of the outputs, and what adds the batch to `running`."""
        assert batch.y is not None, "checked by _check_data"
        loss = self.loss(batch.y, outputs, batch.weight)
        return loss, partial(running.add, batch.y, outputs, loss)

    def stages(self) -> Sequence[Layer]:
        """Return what a batch of the feed goes through, one after the other."""
        return [self]

    # -------------------------------------------------------------------- using it

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        *,
        sample_weight: Any = None,
        return_dict: bool = False,
        **not_taken: Any,
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
        refuse("evaluate", not_taken)
        batch_size = _batch_size("evaluate", batch_size)
        verbose = checked_verbose("evaluate", verbose)
        samples = self._check_data("evaluate", x, y, sample_weight)
        values = self._evaluate(self._feed(samples), batch_size, verbose)
        if verbose:
            print(line("Evaluation", values), flush=True)
        if return_dict:
            return values
        return list(values.values()) if self.metrics else values["loss"]

    def _evaluate(self, feed: Feed, batch_size: int, verbose: int = 0) -> dict[str, float]:
        running = Running(self.metrics, self.backend)
        with self.backend.active, rng.inference(), no_grad():
            for batch in bar("Evaluation", feed, batch_size, verbose):
                _, count = self._batch_loss(batch, running)
                count()
        return {name: read() for name, read in running.readers().items()}

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        *,
        samples: int | None = None,
        **not_taken: Any,
    ) -> Any:
        """Return the outputs for all samples on the host, in inference mode.

        Parameters
        ----------
        x, batch_size
            As in `fit`.
        verbose : {"auto", 0, 1, 2}
            1 (auto) shows a bar on a terminal; 0 and 2 print nothing.
        samples : int, optional
            How many outputs with dropout are drawn for each x, of which mean, spread and
            uncertainty are returned. The memory that is needed does not grow with it. Each draw
            has an address: seed, layer, number of the draw, place in x.

        Returns
        -------
        numpy.ndarray, or Uncertainty where `samples` is given

        Examples
        --------
        >>> from minidl import layers
        >>> model = Sequential([layers.Dense(2, kernel_initializer="ones")])
        >>> model.predict(np.array([[1, 2], [3, 4]]))
        array([[3., 3.],
               [7., 7.]], dtype=float32)
        """
        refuse("predict", not_taken)
        batch_size = _batch_size("predict", batch_size)
        verbose = checked_verbose("predict", verbose)
        inputs = Samples.checked("predict", x)
        draws = None if samples is None else positive_integer("predict: samples", samples)
        self._trace(inputs.x.shape[1:])
        batches = bar("Prediction", self._feed(inputs), batch_size, verbose)
        with self.backend.active, no_grad():
            if draws is not None:
                return self._predict_often(batches, draws)
            with rng.inference():
                return np.concatenate([self._outputs(batch).numpy() for batch in batches])

    def _predict_often(self, batches: Iterable[Batch], draws: int) -> Uncertainty:
        """Return what `draws` outputs with dropout say of each sample."""
        parts: list[Uncertainty] = []
        first = 0
        for batch in batches:
            moments = Moments()
            for draw in range(draws):
                with rng.monte_carlo(sample=draw, row_offset=first):
                    outputs = self._outputs(batch)
                moments.add(outputs.numpy(), is_distribution=outputs.logits is not None)
            parts.append(moments.result(self.dtype))
            first += len(batch.x)
        return Uncertainty.joined(parts)

    def _check_data(self, who: str, x: Any, y: Any, weight: Any = None) -> Samples:
        """Return the samples, or raise for what cannot be trained on."""
        if self.optimizer is None:
            raise RuntimeError(
                f"{who}: the model is not compiled; call "
                'model.compile(optimizer="adam", loss=...) first'
            )
        if y is None:
            raise TypeError(
                f"{who}: expected arrays x and y, received {type(x).__name__} and no y; give both, "
                "or write the loop by hand where batches come from elsewhere"
            )
        samples = Samples.checked(who, x, y, weight)
        assert samples.y is not None, "given above"
        with unchanged_on_error([self._outermost, self]):  # not built for data that are refused
            output_shape = self._trace(samples.x.shape[1:])
            self.loss.check(samples.y, output_shape)
            for metric in self.metrics:
                metric.check(samples.y, output_shape)
        return samples


def _batch_size(who: str, given: int | None) -> int:
    return DEFAULT_BATCH_SIZE if given is None else positive_integer(f"{who}: batch_size", given)


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
        self._take(list(layers or ()))

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Raises
        ------
        ValueError
            If it does not fit; the model, and the layer, stay as they were.
        """
        self._take([layer])

    def _take(self, layers: list[Layer]) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{self.label}: expected layers, received {layer!r}")
        with unchanged_on_error([self._outermost, self, *layers]):
            for layer in layers:
                self._append(layer)
            self._adopt_layers()
            if self.input_shape is not None and self._layers:
                self._trace(self.input_shape)

    def _append(self, layer: Layer) -> None:
        self.built = False  # the new layer's shapes are not known
        first = not self._layers and self.input_shape is None
        if isinstance(layer, Input) and not first:
            raise ValueError(f"{self.label}: Input must be the first element, and the only one")
        if first:
            self.input_shape = layer.input_shape
        if not isinstance(layer, Input):
            self._layers = [*self._layers, layer]  # see unchanged_on_error

    def export(self, path: PathLike) -> None:
        """Write the network as an ONNX file, as it computes in inference.

        It needs onnx, the extra ``onnx``. Other runtimes read the file, with any number of samples.

        Raises
        ------
        TypeError
            If a layer or an activation is of your own.
        ValueError
            If the model is not built, or the name is that of another format.
        OSError
            If the file cannot be written; an older one stays.
        """
        from minidl.interchange import onnx_export

        self._check_built()
        if not os.fspath(path).endswith(".onnx"):
            raise ValueError(f"{path}: export writes ONNX alone; give a name that ends in .onnx")
        onnx_export.save(self, path)

    def _check_data(self, who: str, x: Any, y: Any, weight: Any = None) -> Samples:
        samples = super()._check_data(who, x, y, weight)
        last = self._layers[-1] if self._layers else None
        if self._is_plain and type(last) is Dense and losses.expects_probabilities(self.loss):
            activation = activations.name_of(last.activation)
            if activation in NO_PROBABILITIES:
                loss = type(self.loss).__name__
                raise ValueError(
                    f"{who}: {loss} expects probabilities, and the last layer ({last.label}) has "
                    f'activation {activation}; give it activation="softmax", or use '
                    f"{loss}(from_logits=True)"
                )
        return samples

    def call(self, x: Tensor) -> Tensor:
        """Return the last layer's output."""
        return fusion.through(self._layers, x)

    def _feed(self, samples: Samples) -> Feed:
        """Return the source of batches, which does the work of the first layers where it can."""
        form: dict[str, Any] = {}
        for layer in self._layers[: self._done_by_feed()]:
            if isinstance(layer, Rescaling):
                form |= {"scale": layer.scale, "offset": layer.offset}
            else:
                form |= {"flat": True}
        return Feed(samples, self.backend, self.dtype, **form)

    def _done_by_feed(self) -> int:
        """Return how many of the first layers the feed does the work of: Rescaling, Flatten."""
        count = 0
        for layer in self._layers if self._is_plain else ():
            if type(layer) is Flatten:
                return count + 1
            if type(layer) is not Rescaling or count > 0:
                break
            count += 1
        return count

    @property
    def _is_plain(self) -> bool:
        """Whether no subclass has put a `call` of its own in the place of ours."""
        kind = type(self)
        return kind.call is Sequential.call and kind.__call__ is Model.__call__

    def _behind_feed(self, x: Tensor, end: int) -> Tensor:
        """Send inputs of the feed through the layers that are left, up to but without `end`."""
        block = rng.current_block()
        with nullcontext() if block is None else block.batch_of(len(x)):
            return fusion.through(self._layers[self._done_by_feed() : end], x)

    def stages(self) -> Sequence[Layer]:
        """Return the layers that are left behind the feed."""
        return self._layers[self._done_by_feed() :] if self._is_plain else [self]

    def _outputs(self, batch: Batch) -> Tensor:
        if not self._is_plain:
            return super()._outputs(batch)
        return self._behind_feed(batch.x, len(self._layers))

    def _batch_loss(self, batch: Batch, running: Running) -> tuple[Tensor, Callable[[], None]]:
        last = self._layers[-1] if self._layers else None
        if last is None or not (
            self._is_plain and fusion.can_classify_at_once(last, batch, self.loss, self.metrics)
        ):
            return super()._batch_loss(batch, running)
        assert isinstance(last, Dense), "asked for by can_classify_at_once"
        assert batch.y is not None, "likewise"
        x = self._behind_feed(batch.x, len(self._layers) - 1)
        if not last.is_one_op(x):
            return self._compared(batch, last(x), running)
        with self.backend.active:
            sums = self.backend.xp.empty(2, self.dtype)
        loss = fusion.classify(last, x, batch.y.data, sums)
        return loss, partial(running.add_sums, sums, len(x))


def load(path: PathLike, device: str = "cpu") -> Sequential:
    """Build a model again from a file that `Model.save` wrote, on any device.

    Raises
    ------
    ValueError
        If the file is damaged, or is no checkpoint; nothing larger than the file is allocated.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
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
    from minidl import checkpoint

    return checkpoint.load(path, device)
