"""Callback and CallbackList: which method is called, when, and what is remembered."""

import copy
from fractions import Fraction

import numpy as np
import pytest

from minidl import Tensor, layers, models, optimizers
from minidl.callbacks import Callback, EarlyStopping, History
from minidl.trainer.totals import Totals

X = np.random.default_rng(0).normal(size=(10, 3))
Y = np.random.default_rng(1).normal(size=(10, 2))


def network(rate=0.01, metrics=()):
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1)
    model.compile(optimizers.SGD(rate), "mse", metrics=metrics)
    return model


class Recorder(Callback):
    """Callback that records every call."""

    def __init__(self):
        self.calls = []

    def on_train_begin(self, logs):
        self.calls.append(("train begin", dict(logs)))

    def on_train_end(self, logs):
        self.calls.append(("train end", sorted(logs)))

    def on_epoch_begin(self, epoch, logs):
        self.calls.append(("epoch begin", epoch, dict(logs)))

    def on_epoch_end(self, epoch, logs):
        self.calls.append(("epoch end", epoch, sorted(logs)))

    def on_train_batch_begin(self, batch, logs):
        self.calls.append(("batch begin", batch, dict(logs)))

    def on_train_batch_end(self, batch, logs):
        self.calls.append(("batch end", batch, sorted(logs)))

    def close(self):
        self.calls.append(("close",))

    def names(self):
        return [call[0] for call in self.calls]


# ------------------------------------------------------------------------------ the list


@pytest.mark.parametrize(
    "given",
    [
        lambda recorder: (callback for callback in [recorder]),
        lambda recorder: map(list.pop, [[recorder]]),
        lambda recorder: (recorder,),
        lambda recorder: {"mine": recorder}.values(),
        lambda recorder: recorder,
    ],
    ids=["generator", "map", "tuple", "values", "callback"],
)
def test_fit_calls_callbacks_of_any_ordered_iterable(given):
    recorder = Recorder()
    network().fit(X, Y, batch_size=4, verbose=0, callbacks=given(recorder))
    assert recorder.names().count("batch end") == 3


def test_fit_rejects_callbacks_before_it_builds_the_model():
    model = models.Sequential([layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"fit: .*got <class .*Use EarlyStopping\(\)"):
        model.fit(X, Y, verbose=0, callbacks=[EarlyStopping])
    assert not model.built


# ------------------------------------------------------------------------------ values in logs


class Adds(Callback):
    """Callback that adds a value to the logs of each epoch, under the name "added"."""

    def __init__(self, value):
        self.value = value

    def on_epoch_end(self, epoch, logs):
        logs["added"] = self.value


@pytest.mark.parametrize(
    "value",
    [0.5, 3, True, np.float32(0.5), np.int64(3), np.array(0.5), Tensor(0.5), Fraction(1, 2)],
    ids=repr,
)
def test_number_that_a_callback_adds_is_logged_as_float(value, tmp_path):
    seen = []

    class Sees(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(logs["added"])

    model = network()
    history = model.fit(X, Y, epochs=2, verbose=2, callbacks=[Adds(value), Sees()])
    assert history.history["added"] == seen == [float(value)] * 2
    assert {type(number) for number in seen} == {float}
    model.save(tmp_path / "x.safetensors")
    again = models.load(tmp_path / "x.safetensors")
    assert again.history.history == history.history


@pytest.mark.parametrize("value", ["text", None, np.ones(2), [0.1, 0.2], 10**400, 1j], ids=repr)
def test_other_values_stay_in_the_history_in_memory_only(value, tmp_path):
    model = network()
    history = model.fit(X, Y, verbose=0, callbacks=[Adds(value)])
    assert history.logs[0]["added"] is value
    model.save(tmp_path / "x.safetensors")
    assert list(models.load(tmp_path / "x.safetensors").history.logs[0]) == ["loss"]


# ------------------------------------------------------------------------------ moments


def test_callback_is_called_for_each_moment_in_order():
    recorder = Recorder()
    network().fit(
        X,
        Y,
        batch_size=6,
        epochs=4,
        initial_epoch=2,
        validation_data=(X, Y),
        callbacks=[recorder],
        verbose=0,
    )
    expected = [("train begin", {})]
    for epoch in (2, 3):
        expected += [("epoch begin", epoch, {})]
        for batch in (0, 1):
            expected += [("batch begin", batch, {}), ("batch end", batch, ["loss"])]
        expected += [("epoch end", epoch, ["loss", "val_loss"])]
    expected += [("train end", ["loss", "val_loss"]), ("close",)]
    assert recorder.calls == expected


def test_callback_knows_model_and_parameters():
    recorder, model = Recorder(), network(metrics=["accuracy"])
    model.fit(X, Y, batch_size=4, epochs=3, validation_split=0.2, callbacks=[recorder], verbose=2)
    assert recorder.model is model
    assert recorder.params == {
        "epochs": 3,
        "steps": 2,  # of the 8 samples that are trained on
        "verbose": 2,
        "metrics": ["loss", "accuracy", "val_loss", "val_accuracy"],
        "may_log_more": True,
    }


class Named(Callback):
    """Callback that adds its name to a list at the end of each epoch."""

    def __init__(self, name, used, comes_last=False):
        self.name, self.used, self.comes_last = name, used, comes_last

    def on_epoch_end(self, epoch, logs):
        self.used.append(self.name)


def test_callbacks_run_in_order_with_comes_last_at_the_end():
    used = []
    last = [Named(name, used, comes_last=True) for name in "yz"]
    first = [Named(name, used) for name in "ab"]
    network().fit(X, Y, callbacks=[last[0], *first, last[1]], verbose=0)
    assert used == ["a", "b", "y", "z"]


@pytest.mark.parametrize("is_late", [False, True])
def test_methods_that_are_set_on_a_callback_are_called(is_late):
    calls = []
    callback = Callback()

    def begin(logs):
        callback.on_epoch_end = lambda epoch, logs: calls.append(epoch)
        callback.state = lambda: {"calls": len(calls)}

    callback.on_train_begin = begin
    if not is_late:
        begin({})
    model = network()
    model.fit(X, Y, epochs=2, callbacks=[callback], verbose=0)
    assert calls == [0, 1]
    assert model.train_state.progress.memories == {"Callback": {"calls": 2}}


def test_loss_at_the_end_of_a_batch_is_the_mean_so_far():
    seen = []

    class Reader(Callback):
        def on_train_batch_end(self, batch, logs):
            seen.append(logs["loss"])

    class Still(optimizers.Optimizer):
        """Leave the weights, so that the loss is known."""

        def rule(self, weights, gradients, rate, decay):
            pass

    model = network()
    model.compile(Still(0.1), "mse")
    model.fit(X, Y, batch_size=4, shuffle=False, callbacks=[Reader()], verbose=0)
    losses = ((model.predict(X) - Y) ** 2).mean(axis=1)
    assert seen == pytest.approx([losses[:4].mean(), losses[:8].mean(), losses.mean()], rel=1e-6)


def test_loss_is_read_once_an_epoch_if_no_callback_reads_it(monkeypatch):
    reads = []
    read = Totals.__getitem__
    monkeypatch.setattr(Totals, "__getitem__", lambda *names: reads.append(1) or read(*names))
    network().fit(X, Y, batch_size=2, epochs=3, callbacks=[Recorder()], verbose=0)
    assert len(reads) == 3


def test_history_is_a_record_of_the_epochs():
    model = network(metrics=["accuracy"])
    history = model.fit(X, Y, epochs=3, validation_data=(X, Y), verbose=0)
    assert isinstance(history, History)
    assert not isinstance(history, Callback)
    assert model.history is history
    assert history.epoch == [0, 1, 2]
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(
        len(values) == 3 and all(isinstance(value, float) for value in values)
        for values in history.history.values()
    )


# ------------------------------------------------------------------------------ exceptions


class Fails(Callback):
    """Callback that raises at one moment, once."""

    def __init__(self, moment):
        self.moment = moment

    def _fail_at(self, moment):
        if moment == self.moment:
            self.moment = None
            raise KeyError("mine")

    def on_train_begin(self, logs):
        self._fail_at("on_train_begin")

    def on_epoch_begin(self, epoch, logs):
        self._fail_at("on_epoch_begin")

    def on_train_batch_end(self, batch, logs):
        self._fail_at("on_train_batch_end")

    def on_epoch_end(self, epoch, logs):
        self._fail_at("on_epoch_end")

    def on_train_end(self, logs):
        self._fail_at("on_train_end")

    def close(self):
        self._fail_at("close")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("on_epoch_begin", ["train begin", "epoch begin", "close"]),
        (
            "on_train_batch_end",
            ["train begin", "epoch begin", "batch begin", "batch end", "close"],
        ),
        (
            "on_epoch_end",
            ["train begin", "epoch begin", "batch begin", "batch end", "epoch end", "close"],
        ),
    ],
)
def test_exception_closes_callbacks_and_does_not_notify_of_the_end(moment, expected):
    recorder, model = Recorder(), network()
    with pytest.raises(KeyError, match="mine"):
        model.fit(X, Y, callbacks=[recorder, Fails(moment)], verbose=0)
    assert recorder.names() == expected
    assert model.step == (0 if moment == "on_epoch_begin" else 1)


def test_only_callbacks_that_have_begun_are_closed():
    before, after = Recorder(), Recorder()
    with pytest.raises(KeyError, match="mine"):
        network().fit(X, Y, callbacks=[before, Fails("on_train_begin"), after], verbose=0)
    assert before.names() == ["train begin", "close"]
    assert after.names() == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_all_callbacks_are_closed_if_one_fails_to_close(position):
    recorders = [Recorder(), Recorder()]
    used = [*recorders[:position], Fails("close"), *recorders[position:]]
    with pytest.raises(KeyError, match="mine"):
        network().fit(X, Y, callbacks=used, verbose=0)
    assert [recorder.names()[-1] for recorder in recorders] == ["close", "close"]


def test_all_callbacks_are_closed_if_a_loaded_state_is_rejected():
    class Rejects(Recorder):
        def state(self):
            return {"value": 1}

        def load_state(self, state):
            raise KeyError("another format")

    recorder, model = Recorder(), network()
    rejects = Rejects()
    model.fit(X, Y, callbacks=[recorder, rejects], verbose=0)
    with pytest.raises(KeyError, match="another format"):
        model.fit(X, Y, epochs=2, callbacks=[recorder, rejects], verbose=0, resume=True)
    assert recorder.names()[-2:] == rejects.names()[-2:] == ["train begin", "close"]
    assert model.step == 1


def test_run_that_a_callback_refuses_leaves_the_last_run(tmp_path):
    model = network()
    model.fit(X, Y, epochs=2, verbose=0)
    before = model.train_state.progress
    with pytest.raises(KeyError, match="mine"):
        model.fit(X, Y, batch_size=2, callbacks=[Fails("on_train_begin")], verbose=0)
    assert model.train_state.progress is before
    assert model.fit(X, Y, epochs=3, verbose=0, resume=True).epoch == [0, 1, 2]


# ------------------------------------------------------------------------------ memory


class Sums(Callback):
    """Callback that remembers a list and an array, which it changes in place."""

    def __init__(self):
        self.steps = []
        self.total = np.zeros(2)
        self.breaks_at = None

    def on_train_batch_end(self, batch, logs):
        self.steps.append(self.model.step)
        self.total += [1, logs["loss"]]
        if self.model.step == self.breaks_at:
            self.breaks_at = None
            raise KeyError("broken off")

    def state(self):
        return {"steps": self.steps, "total": self.total}

    def load_state(self, state):
        self.steps, self.total = state["steps"], state["total"]


ARGUMENTS = {"batch_size": 4, "epochs": 2, "verbose": 0}


def broken_off(used, **arguments):
    """Return a model whose run the callbacks have interrupted."""
    model = network()
    with pytest.raises(KeyError):
        model.fit(X, Y, **ARGUMENTS | arguments, callbacks=used)
    return model


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_interrupted_callback_loses_its_changes_and_is_called_again(step, is_loaded, tmp_path):
    whole = Sums()
    network().fit(X, Y, **ARGUMENTS, callbacks=[whole])
    sums = Sums()
    sums.breaks_at = step
    model = broken_off([sums])
    if is_loaded:
        model.save(tmp_path / "model.safetensors")
        model, sums = models.load(tmp_path / "model.safetensors"), Sums()
    model.fit(X, Y, **ARGUMENTS, callbacks=[sums], resume=True)
    assert sums.steps == whole.steps == [1, 2, 3, 4, 5, 6]
    assert sums.total.tobytes() == whole.total.tobytes()


def test_callbacks_of_one_class_remember_apart(tmp_path):
    class Counts(Callback):
        def __init__(self, start):
            self.count = start

        def on_epoch_end(self, epoch, logs):
            self.count += 1

        def state(self):
            return {"count": self.count}

        def load_state(self, state):
            self.count = state["count"]

    model = network()
    model.fit(X, Y, **ARGUMENTS, callbacks=[Counts(0), Counts(100)])
    model.save(tmp_path / "model.safetensors")
    again, used = models.load(tmp_path / "model.safetensors"), [Counts(0), Counts(0)]
    again.fit(X, Y, **ARGUMENTS | {"epochs": 3}, callbacks=used, resume=True)
    assert [callback.count for callback in used] == [3, 103]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_remembered_array_of_integers_is_loaded_from_a_file(tmp_path, dtype):
    class Counts(Callback):
        seen = np.arange(3, dtype=dtype)

        def state(self):
            return {"seen": self.seen}

        def load_state(self, state):
            self.seen = state["seen"]

    model = network()
    model.fit(X, Y, **ARGUMENTS, callbacks=[Counts()])
    model.save(tmp_path / "model.safetensors")
    counts = Counts()
    counts.seen = None
    again = models.load(tmp_path / "model.safetensors")
    again.fit(X, Y, **ARGUMENTS, callbacks=[counts], resume=True)
    assert counts.seen.dtype == dtype
    assert counts.seen.tolist() == [0, 1, 2]


def cycle():
    values = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        {"a": {3}},
        b"bytes",
        [np.ones(2)],
        np.complex64(1j),
        np.ones(2, "complex64"),
        cycle(),
    ],
)
def test_fit_rejects_memory_that_files_cannot_hold(value):
    class Counts(Callback):
        def state(self):
            return {"good": 1, "bad": value}

    model, recorder = network(), Recorder()
    with pytest.raises(TypeError, match=r"Counts_1: expected state\(\) .* for 'bad'"):
        model.fit(
            X, Y, **ARGUMENTS, callbacks=[recorder, type("Counts", (Callback,), {})(), Counts()]
        )
    assert model.step == 0
    assert recorder.names() == ["train begin", "close"]


def test_scalars_of_numpy_are_remembered_as_numbers(tmp_path):
    class Counts(Callback):
        loaded = None

        def state(self):
            return {"count": np.int64(3), "nested": {"rate": np.float32(0.5), "on": np.bool_(True)}}

        def load_state(self, state):
            self.loaded = state

    model, counts = network(), Counts()
    model.fit(X, Y, **ARGUMENTS, callbacks=[counts])
    model.save(tmp_path / "model.safetensors")
    again = models.load(tmp_path / "model.safetensors")
    again.fit(X, Y, **ARGUMENTS, callbacks=[counts], resume=True)
    assert counts.loaded == {"count": 3, "nested": {"rate": 0.5, "on": True}}


def test_new_run_loads_no_memory():
    class Counts(Callback):
        loaded = 0

        def state(self):
            return {}

        def load_state(self, state):
            self.loaded += 1

    model, counts = network(), Counts()
    for _ in range(2):
        model.fit(X, Y, **ARGUMENTS, callbacks=[counts])
    assert counts.loaded == 0


def test_memory_is_recorded_when_training_begins():
    class Constant(Callback):
        def state(self):
            return {"value": 7}

    model = network()
    model.fit(X, Y, **ARGUMENTS, callbacks=[Constant()])
    assert model.train_state.progress.memories == {"Constant": {"value": 7}}


class Once(Fails):
    """Another class, so that the recorders keep their keys."""


@pytest.mark.parametrize(
    ("moment", "rest", "first"),
    [
        ("on_epoch_begin", ("epoch begin", 0), ("epoch begin", 0)),
        ("on_train_batch_end", ("batch end", 0), ("batch begin", 1)),
        ("on_epoch_end", ("epoch end", 0), ("epoch begin", 1)),
    ],
)
def test_newcomer_in_a_resumed_run_begins_with_the_next_moment(moment, rest, first):
    class Old(Recorder):
        pass

    class Newcomer(Recorder):
        pass

    old, newcomer = Old(), Newcomer()
    model = broken_off([Once(moment), old])
    calls_before = len(old.calls)
    model.fit(X, Y, **ARGUMENTS, callbacks=[Once(None), old, newcomer], resume=True)
    train_begin, first_of_old, *_ = old.calls[calls_before:]
    assert train_begin[0] == newcomer.calls[0][0] == "train begin"
    assert first_of_old[:2] == rest  # it comes after the callback that broke off
    assert newcomer.calls[1][:2] == first
    assert newcomer.names()[-2:] == ["train end", "close"]


def test_resumed_run_notifies_of_each_moment_once():
    recorder, whole = Recorder(), Recorder()
    network().fit(X, Y, **ARGUMENTS, callbacks=[whole])
    model = broken_off([recorder, Once("on_train_batch_end")])
    model.fit(X, Y, **ARGUMENTS, callbacks=[recorder, Once(None)], resume=True)
    silent = ("train begin", "close")
    used = [call for call in recorder.calls if call[0] not in silent]
    assert used == [call for call in whole.calls if call[0] not in silent]


# ------------------------------------------------------------------------------ stopping


class StopAt(Callback):
    """Callback that stops training after a batch or an epoch."""

    def __init__(self, batch=None, epoch=None):
        self.batch, self.epoch = batch, epoch

    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = self.model.stop_training or batch == self.batch

    def on_epoch_end(self, epoch, logs):
        self.model.stop_training = self.model.stop_training or epoch == self.epoch


def test_stop_within_an_epoch_ends_fit_after_the_step():
    model, recorder = network(), Recorder()
    history = model.fit(
        X, Y, batch_size=4, epochs=5, callbacks=[recorder, StopAt(batch=1)], verbose=0
    )
    assert model.step == 2
    assert history.epoch == []  # the epoch was not completed
    assert recorder.names()[-3:] == ["batch end", "train end", "close"]


def test_stop_at_the_last_batch_completes_the_epoch():
    model = network()
    history = model.fit(X, Y, batch_size=4, epochs=5, callbacks=[StopAt(batch=2)], verbose=0)
    assert model.step == 3
    assert history.epoch == [0]


def test_next_fit_after_a_stop_trains_again():
    model = network()
    history = model.fit(X, Y, epochs=5, callbacks=[StopAt(epoch=1)], verbose=0)
    assert history.epoch == [0, 1]
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]
    assert (model.step, model.epoch) == (4, 4)


def test_callbacks_can_be_copied_with_their_model():
    model, stopper = network(), EarlyStopping("loss")
    model.fit(X, Y, callbacks=[stopper], verbose=0)
    twin = copy.deepcopy(stopper)
    assert twin.model is not model
    assert twin.state() == stopper.state()
