"""Training by several workers: each computes the gradients of a part of every batch."""

import contextlib
import platform
import re
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, NoReturn

import numpy as np
from minidl_kernels import threads

from minidl import rng
from minidl.arguments import number, positive_integer
from minidl.backend import get_backend
from minidl.distributed.communicator import Communicator
from minidl.distributed.interrupts import SharedInterrupts
from minidl.distributed.mpi import Mpi, WorkerError, launched_size
from minidl.distributed.shared_evaluation import SharedEvaluation
from minidl.distributed.shared_step import PARTLY_USED, SharedStep
from minidl.engine.backward import no_grad
from minidl.layers.base import Layer
from minidl.losses import FunctionLoss, Loss
from minidl.losses.base import MEANS
from minidl.trainer.distribution import Distribution
from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Evaluation
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.state import TrainState
from minidl.trainer.step import Step
from minidl.version import __version__


class DataParallel(Distribution):
    """Distribution of each batch over the processes that ``mpiexec`` started.

    Each batch is cut into `shards`, and the processes, called workers, share these out. The sum of
    their gradients does not depend on the number of workers. So the trained weights have the same
    bits for 1, 2 or 8 workers, if shards, threads and kind of processor are the same.

    Each worker computes on one thread, unless `minidl.set_num_threads` or the environment variable
    MINIDL_NUM_THREADS has chosen a number. This holds for one process, too, and from the creation
    of the first instance to the end of the process.

    Parameters
    ----------
    shards : int
        The number of parts of each batch, at least the number of workers. It decides the bits of
        the result. With 1, they are those of `fit` without a distribution.
    timeout : float
        Seconds that a worker waits for another one before all are ended.

    Attributes
    ----------
    rank, size : int
        The number of this worker, and of all workers.

    Raises
    ------
    ModuleNotFoundError
        If several processes were started, and mpi4py is not installed.
    RuntimeError
        If mpi4py uses another MPI than that of ``mpiexec``.
    ValueError
        If there are more workers than shards.

    Examples
    --------
    >>> from minidl import layers, models
    >>> x, y = np.ones((10, 3)), np.ones((10, 1))
    >>> model = models.Sequential([layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(x, y, verbose=0, distribution=DataParallel(shards=4))
    """

    def __init__(self, shards: int = 8, *, timeout: float = 600.0):
        self.shards = positive_integer("DataParallel: shards", shards)
        self.timeout = number("DataParallel", "timeout", timeout, "(0, inf)")
        self._workers = communicator(self.timeout)
        self.rank, self.size = self._workers.rank, self._workers.size
        self._interrupts = SharedInterrupts()
        if self.size > self.shards:
            raise ValueError(
                f"DataParallel: expected at least {self.size} shards for {self.size} processes, "
                f"got {self.shards}. Pass more shards, or start fewer processes."
            )
        if not threads.is_chosen():
            threads.set_num_threads(1)

    def __repr__(self) -> str:
        return f"<DataParallel: {self.shards} shards, rank {self.rank} of {self.size}>"

    @property
    def bytes_sent(self) -> int:
        """The bytes of arrays that this worker has sent."""
        return self._workers.bytes_sent

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank: anything that can be pickled.

        All workers must call it at the same point of their programs.
        """
        return self._gather("gather", value)

    def _gather(self, purpose: str, value: Any) -> list[Any]:
        """Return the values of all workers; raise WorkerError if one has another purpose."""
        found = self._workers.gather((purpose, value))
        for rank, (other, text) in enumerate(found):
            if other != purpose:
                raise WorkerError(
                    f"expected all workers in {purpose}, got rank {rank} in {other} ({text!s:.80})"
                )
        return [value for _, value in found]

    def first_on_machine(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that one worker of each machine enters first, as for a download."""
        return self._workers.first_on_machine()

    def device(self, name: str) -> str:
        """Return the name of the device on which this worker should train.

        Parameters
        ----------
        name : str
            ``"cuda"`` for the GPU whose number is the rank of this worker on its machine; with
            more workers than GPUs, they share these. ``"auto"`` for the same, or the CPU without
            a GPU. Any other name, such as ``"cuda:1"``, is the same device on each machine.

        Raises
        ------
        ValueError
            If there is no device of that name.
        DeviceError
            If the GPU is unavailable.
        """
        backend = get_backend(name)
        if name not in ("cuda", "auto") or backend.name == "cpu":
            return backend.name
        return f"cuda:{self._workers.local_rank % backend.count}"

    # -------------------------------------------------------------------- within fit

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Let signals wait, and end all workers by an error that is not one of all.

        All leave together: files that one of them writes in `fit` are there for all afterwards.
        """
        outer, self._interrupts = self._interrupts, SharedInterrupts()
        self._interrupts.install()
        try:
            try:
                yield
            except BaseException as error:
                if error is not self._workers.agreed_error:
                    raise
                self._workers.largest([0])
                raise
            self._settle(*self._workers.largest([self._interrupts.pending]))
        except BaseException as error:
            if error is not self._workers.agreed_error:
                self._workers.end(error)
            raise
        finally:
            ended, self._interrupts = self._interrupts, outer
            ended.restore()

    def _settle(self, signal_number: int) -> None:
        """Raise the error of a signal on all workers, if one of them received it."""
        if signal_number:
            try:
                self._interrupts.settle(signal_number)
            except BaseException as error:
                self._agree_on(error)

    def _agree_on(self, error: BaseException, speaker: int = 0) -> NoReturn:
        """Raise an error that all workers raise."""
        self._workers.agreed_error, self._workers.speaker = error, speaker
        raise error

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Raise on all workers if one of them raises inside.

        The worker raises its own error, the others `WorkerError`.
        """
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
        notes = getattr(error, "__notes__", ())  # as those of a failed download
        text = None if error is None else "\n".join((f"{type(error).__name__}: {error}", *notes))
        try:
            texts = self._gather("agreement", text)
        except BaseException:
            if error is None:
                raise
            raise error  # noqa: B904  it came first
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if failed:
            first = failed[0]
            self._agree_on(error or WorkerError(f"rank {first}: {texts[first]}"), first)

    def begin(self, run: Any, arguments: Mapping[str, Any]) -> None:
        """Check that all workers are about to train the same.

        Raises
        ------
        WorkerError
            On all workers, if a fact differs, or the gradients of the first shard.
        """
        with self.agreed():
            _check_loss(run)
            if self.shards > 1:
                _check_layers(run.model)
        facts = environment() | run.model.backend.facts()
        facts |= {ARGUMENTS.get(name, name): value for name, value in arguments.items()}
        facts |= {"the callbacks": run.callbacks.names, "the first epoch": run.position.epoch}
        facts |= {"the first batch": run.position.batch} | dict(run.state.fingerprint())
        if self.size > 1:  # each worker reads all data anyway
            facts["the training data"] = run.plan.samples.checksum(complete=True)
            if run.validation is not None:
                facts["the validation data"] = run.validation.samples.checksum(complete=True)
        self._compare(facts)
        batch = next(run.batches_left(), None)
        if self.size > 1 and batch is not None:
            with self.agreed(), run.model.backend.active, run.model.backend.stream():
                gradients = run.step.trial(batch)
            name = "the gradients of one shard (check processors, libraries and data)"
            self._compare({name: zlib.crc32(gradients.tobytes())})

    def _compare(self, facts: Mapping[str, Any]) -> None:
        """Raise WorkerError on all workers if a fact differs."""
        texts = {name: _OWN.sub("", str(value)) for name, value in facts.items()}
        known = self._gather("comparison", texts)
        for name in dict.fromkeys(name for each in known for name in each):
            values = [each.get(name, "nothing") for each in known]
            if len(set(values)) > 1:
                ranks = {v: [r for r, w in enumerate(values) if w == v] for v in values}
                found = "; ".join(
                    f"{value:.80} on rank {', '.join(map(str, r))}" for value, r in ranks.items()
                )
                self._agree_on(
                    WorkerError(
                        f"fit: expected {name} to be equal in all processes, got {found}. Start "
                        "all with the same program, data and environment."
                    )
                )

    def interrupts(self) -> Interrupts:
        """Return the object that defers Ctrl-C in a run."""
        return self._interrupts

    def step(self, state: TrainState, plan: Plan, interrupts: Interrupts) -> Step:
        """Return the step of a run."""
        return SharedStep(state, plan, interrupts, self._workers, self.shards)

    def evaluation(self, model: Any, plan: Plan, record: bool, batches: float) -> Evaluation:
        """Return the validation of a run."""
        return SharedEvaluation(model, plan, record, batches, self._workers)

    def must_stop(self, model: Any) -> bool:
        """Return whether a worker stops here; raise the error of a signal on all workers.

        Raises
        ------
        ValueError
            On all workers, if the latest step had gradients for other weights on one of them.
        """
        self._workers.doing = f"after step {model.step}"
        pattern = zlib.crc32(" ".join(sorted(p.name for p in model.run.step.without)).encode())
        here = model.stop_training, self._interrupts.pending, pattern, -pattern
        stop, signal_number, most, least = self._workers.largest(here)
        if most != -least:
            self._agree_on(ValueError(PARTLY_USED.format("certain weights")))
        model.stop_training = model.stop_training or bool(stop)
        self._settle(signal_number)
        return model.stop_training

    def check_equal(self, state: TrainState) -> None:
        """Raise WorkerError on all workers if their weights differ."""
        if self.size > 1:
            weights = [np.ascontiguousarray(w.numpy()) for w in state.model.parameters()]
            checksums = [zlib.crc32(weight.data) for weight in weights]
            name = "the weights (does a callback change them, or the settings?)"
            self._compare({name: checksums})


def _check_loss(run: Any) -> None:
    """Raise ValueError if a loss may be no mean over the samples, as parts of a batch need."""
    several = run.model.loss.made_of
    for output, loss in enumerate(several or [run.model.loss]):
        reason = ""
        if type(loss).__call__ is not Loss.__call__:
            reason = "which defines __call__. Define per_sample only"
        elif loss.reduction not in MEANS:
            reason = f"with reduction={loss.reduction!r}. Leave it out"
        elif isinstance(loss, FunctionLoss):
            batch = next(run.plan.feed.batches(1))
            with run.model.backend.active, rng.inference(), no_grad():
                both = batch.y, run.plan.outputs(batch)
                if loss.per_sample(*(y[output] if several else y for y in both)).ndim == 0:
                    reason = "whose function returns one number. Return the loss of each sample"
        if reason:
            raise ValueError(
                "fit: expected a loss that is the mean of its per_sample, got "
                f"{type(loss).__name__}, {reason}, or leave distribution out."
            )


def _check_layers(model: Layer) -> None:
    """Raise ValueError if a layer computes with the whole batch, of which a shard is a part."""
    for layer in model.walk():
        if layer.needs_whole_batches:
            raise ValueError(
                f"fit: expected layers that treat each sample alone, got {layer.label}, a "
                f"{type(layer).__name__}, which needs whole batches. Use LayerNormalization or "
                "DataParallel(shards=1), or leave distribution out."
            )


def communicator(timeout: float) -> Communicator:
    """Return the communicator among the processes that were started together."""
    global _communicator
    if _communicator is None:
        _communicator = Mpi(timeout) if launched_size() > 1 else Communicator()
    if isinstance(_communicator, Mpi):
        _communicator.timeout = timeout
    return _communicator


ARGUMENTS = {  # of `fit`, in the words of its user
    "data_checksum": "the training data",
    "validation_checksum": "the validation data",
    "samples": "the number of samples",
}
# What differs between processes: addresses of functions, and the number of a GPU.
_OWN = re.compile(r" at 0x[0-9a-f]+|(?<='cuda):\d+")
_communicator: Communicator | None = None  # one for the process, as MPI itself


def environment() -> dict[str, Any]:
    """Return the versions that results depend on, by name."""
    versions = {"minidl": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in ("numpy", "numba")}
    return {f"the version of {name}": number for name, number in versions.items()}
