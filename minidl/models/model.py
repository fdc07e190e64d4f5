"""Base class of models: compile, fit, evaluate, predict, and files."""

import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, Unpack, overload

import numpy as np

from minidl import console, losses, optimizers, rng
from minidl.alternatives import RefusesMethods, keras_defaults
from minidl.batches import Samples, for_each
from minidl.callbacks.base import Callback, CallbackList, Observers, checked_callbacks
from minidl.callbacks.progress import ProgressBar, bar, checked_verbose, line
from minidl.engine.backward import no_grad
from minidl.engine.scope import keeps_scopes
from minidl.losses.outputs import fields, unwrapped
from minidl.metrics import of_one_output, of_outputs
from minidl.models.data import (
    DataMethods,
    check_activation,
    checked_batch_size,
    checked_frequency,
    only_arrays,
    returned,
)
from minidl.models.graph import FromSymbols
from minidl.models.network import Network
from minidl.models.prediction import PredictMethods, Rest, Size
from minidl.trainer.distribution import Distribution
from minidl.trainer.inference import Evaluation
from minidl.trainer.loop import Run
from minidl.trainer.position import run_arguments
from minidl.trainer.state import COMPILED_WITHIN_EPOCH, History


class EvaluateRest(Rest, total=False):
    """Arguments of `evaluate` on which the type of its result does not depend."""

    sample_weight: Any


class Model(FromSymbols, PredictMethods, DataMethods, Network, RefusesMethods):
    """A layer with a device, a dtype and a seed that can be trained.

    A subclass sets layers in ``__init__`` and defines `call`. ``Model(x, y)`` is a `Functional`.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
    dtype : {"float16", "float32", "float64"}
        The dtype of weights, inputs and outputs. A float16 model cannot be trained.
    seed : int
        In [0, 2**64). It decides everything random: initial weights, the order of the samples and
        the masks. Two equal models with one seed, such as the default, get equal weights: give
        each member of an ensemble its own. Layers of another model keep the seed of that model. A
        model that is a layer of this one takes over its device, dtype and seed; weights and masks
        that it has used stay.
    name : str, optional
        The name in summaries and errors.

    Attributes
    ----------
    stop_training : bool
        Set it to True to end `fit` after the current step. An epoch that ends so is neither
        validated nor recorded in the history.
    train_state : TrainState
        Everything that training changes.
    recording : Recording
        Report on the last `fit`, `evaluate` or `predict`: the numbers of recordings, of replayed
        batches and of launches in a replay, and why batches were not recorded.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    DeviceError
        If the device is not available.

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

    # -------------------------------------------------------------------- training

    @keras_defaults(run_eagerly=False, steps_per_execution=1, jit_compile=("auto", False))
    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        *,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        """Set optimizer, loss and metrics; the counters ``step`` and ``epoch`` stay as they are.

        In a callback, the loss and the metrics take effect with the next epoch. Until then, the run
        cannot be resumed.

        Parameters
        ----------
        optimizer : str or Optimizer
            ``"sgd"``, ``"rmsprop"``, ``"adam"``, ``"adamw"``, ``"nadam"``, or an optimizer.
        loss : str, Loss or callable
            The name of a loss (``"sparse_categorical_crossentropy"``, ``"mse"``), a loss, or a
            function of (y_true, y_pred). For several outputs: a list of them in the order of
            ``model.output_names``, a dictionary by these names, or one for each output.
        loss_weights : list or dict of float, optional
            For several outputs: the factor of each loss in their sum.
        metrics : list of str, Metric or callable, optional
            ``"accuracy"`` or another name, metrics, or functions of (y_true, y_pred). The weights
            of the samples do not count. For several outputs: a list with one such list, or one
            metric, for each, or a dictionary by name. Logs name them ``OUTPUT_METRIC``.
        weighted_metrics : list of str, Metric or callable, optional
            The same with weights.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, or two metrics have one name. Nothing is changed then.
        """
        outputs = self.output_names
        if len(outputs) > 1:
            new_loss: losses.Loss = losses.of_outputs(outputs, loss, loss_weights)
            new_metrics = of_outputs(outputs, metrics, weighted_metrics)
        elif loss_weights is not None or isinstance(loss, losses.OutputLosses):
            raise TypeError(
                "compile: expected loss_weights and OutputLosses for models with several outputs "
                f"of Model(inputs, outputs) only, got them for {self.label}. Pass one loss."
            )
        else:
            new_loss = losses.get(unwrapped("a loss", outputs, loss))
            new_metrics = of_one_output(outputs, metrics, weighted_metrics)
        new_optimizer = optimizers.get(optimizer)
        if any(each.reduction in (None, "none") for each in (new_loss, *new_loss.made_of)):
            raise ValueError(
                "compile: expected a loss that is one number, got one with reduction=None. Leave "
                "reduction out."
            )
        names = ["loss", *new_loss.value_names, *(metric.name for metric in new_metrics)]
        if len(set(names)) < len(names) or any(name.startswith("val_") for name in names):
            raise ValueError(
                "compile: expected metrics with unique names, not loss and without val_, got "
                f'{names[1:]}. Name one: SparseCategoricalAccuracy("name").'
            )
        self.loss, self.metrics = new_loss, new_metrics
        state = self.train_state
        state.optimizer, state.logged, state.is_torn = new_optimizer, tuple(names), False
        self._change_run("compile was called since it began")
        if self.run is not None and self.run.is_training and self.position.batch:
            state.obstacle = COMPILED_WITHIN_EPOCH

    @keras_defaults(max_queue_size=10, use_multiprocessing=False, workers=1)
    @keeps_scopes
    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        *,
        class_weight: Mapping[int, float] | None = None,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        resume: bool = False,
        record: bool = True,
        distribution: Distribution | None = None,
    ) -> History:
        """Train the model; an epoch is one pass over all samples.

        Parameters
        ----------
        x, y : array_like
            Samples and targets; axis 0 counts the samples. Each batch is cast to the model's dtype.
            Without y, x is an iterable of batches (x, y) or (x, y, sample_weight): a list, a
            generator, a ``DataLoader`` of PyTorch, a dataset of TensorFlow, or an object with
            ``__len__`` and ``__getitem__``. They are used as they come: `batch_size` and `shuffle`
            do not apply. Random decisions have the step, and the row in the batch, as address.
            Such a run can be resumed at the beginning of an epoch only.
        batch_size : int, optional
            Samples in an update; None is 32. The last batch of an epoch may be smaller.
        epochs : int
            Total number of epochs: training runs the epochs `initial_epoch` to ``epochs - 1``.
        verbose : {"auto", 0, 1, 2}
            0 prints nothing; 1 (auto) shows a bar on a terminal, and otherwise prints a line for
            each epoch; 2 prints a line for each epoch.
        callbacks : Callback or iterable of Callback, optional
            Callbacks to call during training, in their order.
        validation_split : float
            The share of the samples, taken from the end, that is used for validation.
        validation_data : tuple or iterable, optional
            ``(x, y)``, ``(x, y, sample_weight)`` or batches of these, used instead of
            `validation_split`.
        shuffle : bool
            Whether each epoch has its own order, which depends on seed and epoch.
        class_weight : dict of int to float, optional
            A weight for each class: that of its training samples. Other classes have weight 1.
        sample_weight : array_like, optional
            One weight for each sample's loss, of shape (n,) or (n, 1); or for each of its losses,
            such as those of time steps, of shape (n, steps). For several outputs: one array for
            all of them, or one for each, in a list or a dictionary by name; None is 1 for each.
        steps_per_epoch, validation_steps : int, optional
            The batches of an iterable in an epoch, and in a validation. The next epoch goes on
            where it ended. The next validation begins anew, as in Keras; only in a generator it
            goes on. None is one pass over the iterable.
        validation_batch_size : int, optional
            Samples in a batch of the validation; None is `batch_size`.
        validation_freq : int or collection of int
            The number of epochs from one validation to the next, or the epochs to validate, from 1.
        initial_epoch : int
            The number of the first epoch.
        resume : bool
            Whether to resume the last run, or the run of a loaded model: at its epoch and batch,
            with its history. With the same data, `batch_size`, `shuffle` and `compile`, the
            results are those of an uninterrupted run, bit for bit. Data are compared by a
            checksum, which reads a part of large arrays. A run is not resumed if weights, the
            optimizer, or arguments of layers, loss or metrics were changed since, except by its
            callbacks.
        record : bool
            Whether a step is recorded once and then replayed, which gives the same bits in less
            time. ``model.recording`` is the report. `Layer` lists what your own classes need.
        distribution : DataParallel, optional
            The processes that share each batch; all of them call `fit` with the same arguments.

        Returns
        -------
        History
            Loss and metrics of each epoch, means over its samples; also ``model.history``.

        Raises
        ------
        RuntimeError
            If the model is not compiled, or is being trained already.
        TypeError, ValueError
            If data and arguments do not fit, before anything is trained. The last run, its history
            and its position then stay as they were.
        """
        if not isinstance(distribution, Distribution | None):
            raise TypeError(
                f"fit: expected distribution to be a DataParallel, got {distribution!r:.80}. Pass "
                "minidl.distributed.DataParallel(), or leave it out."
            )
        distribution = distribution or Distribution()
        with distribution.guarded():
            with distribution.agreed():
                if self.run is not None:
                    raise RuntimeError(
                        f"fit: {self.label} is already being trained. In a callback, call "
                        "evaluate() or predict(), or train copy.deepcopy(model)."
                    )
                listed = checked_callbacks(callbacks)
                batch_size = checked_batch_size("fit: batch_size", batch_size)
                who = "fit: validation_batch_size"
                validation_batch_size = checked_batch_size(who, validation_batch_size, batch_size)
                verbose = checked_verbose("fit", verbose)
                epochs = rng.checked_integer("fit: epochs", epochs, 2**32)
                initial_epoch = rng.checked_integer("fit: initial_epoch", initial_epoch, 2**32)
                if shuffle not in (True, False):
                    raise ValueError(f"fit: expected shuffle to be True or False, got {shuffle!r}.")
                if resume and initial_epoch:
                    raise ValueError(
                        f"fit: expected resume=True or initial_epoch={initial_epoch}, got both. "
                        "Leave one of them out."
                    )
                often = checked_frequency(validation_freq)
                samples = self._data("fit", x, y, sample_weight, steps_per_epoch, class_weight)
                held_out = self._held_out(validation_data, validation_steps)
                if held_out is None and validation_split:
                    samples, held_out = only_arrays(samples).split(validation_split)
                if type(distribution) is not Distribution:
                    only_arrays(samples)
                    only_arrays(held_out or samples)
                if class_weight is not None and isinstance(samples, Samples):
                    samples = samples.weighted_by_class(class_weight)
                self._check_trained("fit")

                state = self.train_state
                bars: list[Callback] = [ProgressBar()] if verbose else []
                callback_list = CallbackList(bars + listed, self, distribution.rank)
                shards = distribution.shards
                arguments = run_arguments(
                    samples, held_out, batch_size=batch_size, shuffle=bool(shuffle), shards=shards
                )
                if not resume:  # a callback may have saved a run
                    resume = any(callback.restore(self, arguments) for callback in listed)
                if resume:
                    state.check_resume(arguments)
                is_new = not resume or not self.position.batch_size
                if is_new:
                    assert self.optimizer is not None, "checked with the samples"
                    self.optimizer.check(self.parameters())
                validation = None if held_out is None else self._plan(held_out)
                plan = self._plan(samples)
                parts = plan, epochs, validation, callback_list
                options: dict[str, Any] = {"record": record, "validation_freq": often}
                options["validation_batch_size"] = validation_batch_size
                run = Run(self, state, *parts, distribution=distribution, **options)
            run.start(arguments, initial_epoch, verbose, is_new=is_new)
        for warning in run.warnings if distribution.rank == 0 else ():
            with suppress(AttributeError, ValueError):  # of a closed or unusual sys.stderr
                # The caller's line, past the decorators.
                warnings.warn(warning, stacklevel=4)
        return self.history

    def _checked_samples(self, who: str, x: Any, y: Any, weight: Any = None) -> Samples:
        """Return the samples, checked against the outputs, loss and metrics."""
        if self.optimizer is None:
            raise RuntimeError(f"{who}: expected a compiled model. Call model.compile first.")
        y = None if y is None else self._host_outputs(who, "y", y)
        if y is None:
            raise TypeError(
                f"{who}: expected arrays x and y, got a {type(x).__name__} and no y. Pass y, or an "
                "iterable of batches (x, y)."
            )
        weight = None if weight is None else self._host_outputs(who, "sample_weight", weight)
        samples = Samples.checked(who, self._host_inputs(who, x), y, weight)
        assert samples.y is not None, "given above"
        output_shape = self._output_shape_for(samples.x.shape[1:])
        if isinstance(output_shape, list) and not self.loss.made_of:
            raise ValueError(
                f"{who}: expected one output, got {len(output_shape)} of {self.label}. Make the "
                "model by Model(inputs, outputs)."
            )
        self.loss.check(samples.y, output_shape)
        for metric in self.metrics:
            metric.check(samples.y, output_shape)
        samples = replace(samples, y=self.loss.targets(samples.y))
        held = samples.weight
        if held is not None and (held.ndim > 1 or held.dtype.names):  # only the loss knows its axes
            first = samples[:1]
            zeros = for_each(lambda shape: self._as_tensor(np.zeros((1, *shape[1:]))), output_shape)
            try:
                with no_grad(), np.errstate(all="ignore"):
                    self.loss(fields(first.y), zeros, fields(first.weight))
            except ValueError as error:
                raise ValueError(
                    f"{who}: expected sample_weight with one number for each sample, or for each "
                    f"of its losses, got shape {held.shape} of {held.dtype}. Reshape it."
                ) from error
        for layer, loss in zip(self._ends(), self.loss.made_of or [self.loss], strict=False):
            check_activation(who, layer, loss)
        return samples

    # -------------------------------------------------------------------- use

    @overload
    def evaluate(
        self, x: Any, y: Any = ..., batch_size: Size = ..., verbose: str | int = ..., *,
        return_dict: Literal[True], **rest: Unpack[EvaluateRest],
    ) -> dict[str, float]: ...  # fmt: skip
    @overload
    def evaluate(
        self, x: Any, y: Any = ..., batch_size: Size = ..., verbose: str | int = ..., *,
        return_dict: bool = ..., **rest: Unpack[EvaluateRest],
    ) -> Any: ...  # fmt: skip
    @keeps_scopes
    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        *,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
        record: bool = True,
    ) -> Any:
        """Return the loss and the metrics, in inference mode.

        Parameters
        ----------
        x, y, batch_size, sample_weight
            As in `fit`.
        steps : int, optional
            The number of batches, if x is an iterable of batches.
        callbacks : Callback or iterable of Callback, optional
            Callbacks whose ``on_test_`` methods are called.
        verbose : {"auto", 0, 1, 2}
            0 prints nothing; 2 prints a line; 1 (auto) also shows a bar on a terminal.
        return_dict : bool
            Whether the result is a dictionary.
        record : bool
            As in `fit`. A few batches are not recorded, since recording them takes longer.

        Returns
        -------
        float, list of float, or dict
            The loss; with metrics ``[loss, *metrics]``; with `return_dict` values by name.
        """
        batch_size = checked_batch_size("evaluate: batch_size", batch_size)
        verbose = checked_verbose("evaluate", verbose)
        observers = Observers("test", checked_callbacks(callbacks, "evaluate"))
        plan = self._plan(self._data("evaluate", x, y, sample_weight, steps))
        evaluation = Evaluation(self, plan, record, plan.samples.steps(batch_size))
        observers.begin(self, {"steps": plan.samples.steps(batch_size), "verbose": verbose})
        batches = bar("Evaluation", plan, batch_size, verbose)
        values = evaluation.means(observers.watching(batches, lambda: evaluation.totals))
        observers.end(values)
        if self.run is None:
            self.recording = evaluation.report
        if verbose:
            console.write(line("Evaluation", values), sys.stdout)
        return returned(values, return_dict)
