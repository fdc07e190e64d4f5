"""Runs that are interrupted anywhere and resumed end as uninterrupted runs.

A run with six callbacks is broken at every moment of the callbacks, at every position in the list,
and inside of each callback, before and after it acts. It is then resumed in three ways: in the same
process, from the file that `ModelCheckpoint` wrote when the run broke off, and, as after a SIGKILL,
from the newest file that it had written before.
"""

import contextlib
import itertools
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from minidl import callbacks, checkpoint, layers, models, rng
from minidl.engine import backward, scope

X = (np.arange(40).reshape(10, 4) * 7 % 11 / 11).astype("float32")
Y = X[:, :1] * 2 - X[:, 1:2]
EPOCHS, STEPS = 3, 3
ARGUMENTS = {"batch_size": 4, "verbose": 0, "validation_data": (X[:4], Y[:4])}
EPOCH_MOMENTS = ["on_epoch_begin", "on_epoch_end"]
BATCH_MOMENTS = ["on_train_batch_begin", "on_train_batch_end"]
MOMENTS = [
    *itertools.product(EPOCH_MOMENTS, range(EPOCHS), [0]),
    *itertools.product(BATCH_MOMENTS, range(EPOCHS), range(STEPS)),
    ("on_train_end", EPOCHS, 0),
]
RESUMED = ["in the process", "from the last step", "after a kill"]


class Broken(Exception):
    """The exception that breaks a run off."""


class Rates(callbacks.Callback):
    """Learning rate of each step, as a user's callback with a memory."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, batch, logs):
        self.rates.append(self.model.optimizer.learning_rate)

    def state(self):
        return {"rates": list(self.rates)}

    def load_state(self, state):
        self.rates = list(state["rates"])


class Breaker(callbacks.Callback):
    """Raise `Broken` at one moment, once."""

    def __init__(self, moment, comes_last=False):
        self.moment = moment
        self.comes_last = comes_last

    def _break_at(self, name, epoch, batch=0):
        if self.moment == (name, epoch, batch):
            self.moment = None
            raise Broken

    def on_epoch_begin(self, epoch, logs):
        self._break_at("on_epoch_begin", epoch)

    def on_epoch_end(self, epoch, logs):
        self._break_at("on_epoch_end", epoch)

    def on_train_batch_begin(self, batch, logs):
        self._break_at("on_train_batch_begin", self.model.position.epoch, batch)

    def on_train_batch_end(self, batch, logs):
        self._break_at("on_train_batch_end", self.model.position.epoch, batch)

    def on_train_end(self, logs):
        self._break_at("on_train_end", self.model.position.epoch)


def network() -> models.Sequential:
    stack = [layers.Dense(5, activation="relu", input_shape=(4,)), layers.Dropout(0.4)]
    model = models.Sequential([*stack, layers.Dense(1)], seed=2)
    model.compile("adam", "mse")
    return model


def the_callbacks(folder) -> list[callbacks.Callback]:
    return [
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
        callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True),
        Rates(),
        callbacks.CSVLogger(folder / "log.csv", append=True),
        callbacks.ModelCheckpoint(folder / "files", every_steps=2, keep=2, monitor="val_loss"),
    ]


class Outcome(NamedTuple):
    """Everything that a run leaves."""

    weights: list[bytes]
    optimizer: dict[str, Any]
    history: dict[str, list[float]]
    epochs: list[int]
    learning_rate: float
    rates: list[float]
    rows: bytes
    files: list[str]
    best: tuple[int, list[bytes]]


def outcome_of(model, used, folder) -> Outcome:
    best = models.load(folder / "files" / "best.safetensors")
    rates = next(callback for callback in used if isinstance(callback, Rates)).rates
    return Outcome(
        [weight.tobytes() for weight in model.get_weights()],
        {name: value.tobytes() for name, value in model.optimizer.state.items()},
        model.history.history,
        model.history.epoch,
        model.optimizer.learning_rate,
        rates,
        (folder / "log.csv").read_bytes(),
        sorted(path.name for path in (folder / "files").glob("*.safetensors")),
        (best.step, [weight.tobytes() for weight in best.get_weights()]),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Outcome:
    """Return the outcome of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    model, used = network(), the_callbacks(folder)
    model.fit(X, Y, epochs=EPOCHS, callbacks=used, **ARGUMENTS)
    assert len(set(used[3].rates)) == EPOCHS, "each epoch has another learning rate"
    return outcome_of(model, used, folder)


def break_and_resume(folder, how: str, monkeypatch, change) -> Outcome:
    """Return the outcome of a run that `change`, a function of its callbacks, breaks off."""
    if how == "after a kill":
        monkeypatch.setattr(callbacks.ModelCheckpoint, "save_broken_run", lambda self: None)
    model = network()
    with pytest.raises(Broken):
        model.fit(X, Y, epochs=EPOCHS, callbacks=change(the_callbacks(folder)), **ARGUMENTS)
    if how != "in the process":
        newest = checkpoint.latest(folder / "files")
        model = network() if newest is None else models.load(newest)
    used = the_callbacks(folder)
    model.fit(X, Y, epochs=EPOCHS, callbacks=used, resume=True, **ARGUMENTS)
    return outcome_of(model, used, folder)


def assert_equal(found: Outcome, expected: Outcome) -> None:
    names = [
        name
        for name, value, wanted in zip(Outcome._fields, found, expected, strict=True)
        if value != wanted
    ]
    assert names == [], "these differ from those of the whole run"


def between(moment, position):
    """Return the change that breaks a run between two callbacks; the last are called last."""

    def change(used):
        last = position >= len(used) - 1
        return [*used[:position], Breaker(moment, comes_last=last), *used[position:]]

    return change


def inside(name, number, index, is_after):
    """Return the change that breaks a run inside a callback, before or after it acts."""

    def change(used):
        callback, turns = used[index], itertools.count()
        method = getattr(callback, name)

        def broken(*arguments):
            turn = next(turns)
            if turn == number and not is_after:
                raise Broken
            method(*arguments)
            if turn == number:
                raise Broken

        setattr(callback, name, broken)
        return used

    return change


BETWEEN = list(itertools.product(MOMENTS, range(7)))
INSIDE = [
    (name, number, index, is_after)
    for index, callback in enumerate(the_callbacks(Path()))
    for name in (*EPOCH_MOMENTS, *BATCH_MOMENTS, "on_train_end")
    if getattr(type(callback), name) is not getattr(callbacks.Callback, name)
    for number in range(1 if name == "on_train_end" else 2)
    for is_after in (False, True)
]


def short(cases: list[Any], how: str) -> list[Any]:
    """Return a part of the cases, others for each way of resuming; together all positions."""
    return cases[RESUMED.index(how) :: 9]


@pytest.mark.parametrize("how", RESUMED)
def test_run_broken_between_some_callbacks_resumes_to_equal_outcome(
    how, whole, tmp_path, monkeypatch
):
    for number, (moment, position) in enumerate(short(BETWEEN, how)):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = break_and_resume(folder, how, monkeypatch, between(moment, position))
        assert_equal(outcome, whole)


@pytest.mark.parametrize("how", RESUMED)
@pytest.mark.parametrize("case", INSIDE, ids=lambda case: "-".join(map(str, case)))
def test_run_broken_inside_a_callback_resumes_to_equal_outcome(
    case, how, whole, tmp_path, monkeypatch
):
    assert_equal(break_and_resume(tmp_path, how, monkeypatch, inside(*case)), whole)


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", RESUMED)
@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(map(str, moment)))
def test_run_broken_at_every_moment_and_position_resumes_to_equal_outcome(
    moment, position, how, whole, tmp_path, monkeypatch
):
    outcome = break_and_resume(tmp_path, how, monkeypatch, between(moment, position))
    assert_equal(outcome, whole)


class StopAt(callbacks.Callback):
    """Stop training after a step, and remember nothing of it."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.model.stop_training = True


@pytest.mark.parametrize("stop_is_first", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_run_broken_at_the_step_that_stops_it_resumes_to_the_stop(step, stop_is_first):
    model, stopped = network(), network()
    stopped.fit(X, Y, epochs=EPOCHS, callbacks=[StopAt(step)], **ARGUMENTS)
    moment = ("on_train_batch_end", (step - 1) // STEPS, (step - 1) % STEPS)
    used = [Breaker(moment), StopAt(step)]
    with pytest.raises(Broken):
        model.fit(X, Y, epochs=EPOCHS, callbacks=used[:: -1 if stop_is_first else 1], **ARGUMENTS)
    model.fit(X, Y, epochs=EPOCHS, callbacks=[StopAt(step)], resume=True, **ARGUMENTS)
    assert (model.step, model.history.epoch) == (stopped.step, stopped.history.epoch)


def test_early_stopping_that_joins_a_resumed_run_restores_an_epoch_that_it_has_seen():
    model = network()
    broken = [Breaker(("on_epoch_begin", 2, 0))]
    with pytest.raises(Broken):
        model.fit(X, Y, epochs=EPOCHS, callbacks=broken, **ARGUMENTS)
    model.train_state.progress.history.logs[0]["val_loss"] = -1.0  # no later epoch is as good
    stopping = callbacks.EarlyStopping(restore_best_weights=True)
    model.fit(X, Y, epochs=EPOCHS, callbacks=[stopping], resume=True, **ARGUMENTS)
    assert stopping.best_epoch == 2


# ------------------------------------------------------------------------------ Ctrl-C

SOURCES = str(Path(models.__file__).parents[1])


class Interrupter:
    """Profile function that sends SIGINT at one of the points where Python handles signals.

    These are the entry of a function and the return of a built-in function.
    """

    def __init__(self, point: int, where: str = SOURCES):
        self.point, self.where = point, where
        self.count = 0

    def __call__(self, frame, event, argument):
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(self.where):
            self.count += 1
            if self.count == self.point:
                signal.raise_signal(signal.SIGINT)

    @contextlib.contextmanager
    def at_work(self):
        """Send the signal inside, where the KeyboardInterrupt also ends."""
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                yield
        finally:
            sys.setprofile(before)


def interrupted_run(folder, point: int) -> tuple[models.Sequential, int]:
    """Run `fit` until SIGINT arrives at a point; return the model and the number of points."""
    model, used, interrupter = network(), the_callbacks(folder), Interrupter(point)
    with interrupter.at_work():
        model.fit(X, Y, epochs=EPOCHS, callbacks=used, **ARGUMENTS)
    return model, interrupter.count


CALLS = {
    "fit": lambda model: model.fit(X, Y, **ARGUMENTS),
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
    "predict": lambda model: model.predict(X, verbose=0),
    "predict with samples": lambda model: model.predict(X, samples=3, verbose=0),
}


@pytest.mark.parametrize("name", CALLS)
def test_sigint_at_the_entry_or_exit_of_a_scope_leaves_no_scope_set(name):
    model = network()
    CALLS["predict"](model)  # builds it
    points = Interrupter(0, scope.__file__)
    with points.at_work():
        CALLS[name](model)
    assert points.count >= 4
    for point in range(1, points.count + 1):
        with Interrupter(point, scope.__file__).at_work():
            CALLS[name](model)
        found = backward.is_recording(), rng.is_training()
        assert found == (True, False), f"after SIGINT at point {point}"


# Python drops an interrupt that comes while a generator is closed, with a warning. A file that was
# opened just before, and is not kept yet, is closed by the garbage collector, with another.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "stride",
    [
        3989,
        *(pytest.param(stride, marks=pytest.mark.exhaustive) for stride in (211, 7)),
    ],
)
def test_run_interrupted_by_sigint_at_any_point_resumes_to_equal_outcome(stride, whole, tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    _, count = interrupted_run(folder, point=0)
    points = range(1, count, stride)
    resumed = 0
    for point in points:
        folder = tmp_path / str(point)
        folder.mkdir()
        model, _ = interrupted_run(folder, point)
        assert not model.train_state.is_torn, f"torn by SIGINT at point {point}"
        if model.train_state.why_not_resumable():
            continue  # the best weights were restored: the run was over
        used = the_callbacks(folder)
        model.fit(X, Y, epochs=EPOCHS, callbacks=used, resume=True, **ARGUMENTS)
        assert_equal(outcome_of(model, used, folder), whole)
        resumed += 1
    assert resumed >= 0.9 * len(points)
