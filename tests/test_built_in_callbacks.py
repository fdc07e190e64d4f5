"""The callbacks that come with minidl: learning rates, logs, and the guard against NaN."""

import csv
import sys
import warnings

import numpy as np
import pytest

from minidl import layers, models, optimizers
from minidl.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from minidl.optimizers import schedules

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.random.default_rng(1).normal(size=(12, 2))


def model(optimizer=None, device="cpu"):
    stack = [layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(2, name="last")]
    network = models.Sequential(stack, seed=1, device=device)
    network.compile(optimizer or optimizers.SGD(0.1), "mse")
    return network


def fit(network, *callbacks, epochs=4, **arguments):
    return network.fit(
        X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments
    )


class Rates(Callback):
    """Write down the learning rate that each epoch is trained with."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, logs):
        self.seen.append(self.model.optimizer.learning_rate)


# ------------------------------------------------------------------------------ learning rate


def test_the_scheduler_sets_the_rate_of_each_epoch():
    rates = Rates()
    scheduler = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch >= 2 else rate)
    fit(model(), scheduler, rates)
    assert rates.seen == [0.1, 0.1, 0.05, 0.025]


def test_the_rate_that_is_set_is_the_rate_that_is_used():
    one, other = model(optimizers.SGD(0.1)), model(optimizers.SGD(0.02))
    fit(one, LearningRateScheduler(lambda epoch, rate: 0.02))
    fit(other)
    assert all(
        np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda epoch: 0.1 * epoch, [0, 0.1, 0.2]),
        (lambda epoch, rate=7.0: rate / 2, [0.05, 0.025, 0.0125]),
        (lambda *told: np.float32(2 ** -len(told)), [0.25, 0.25, 0.25]),
        (lambda epoch: np.where(epoch < 1, 0.5, 0.25), [0.5, 0.25, 0.25]),
        (schedules.ExponentialDecay(0.1, 1, 0.5), [0.1, 0.05, 0.025]),
    ],
)
def test_a_schedule_takes_the_epoch_and_where_it_can_the_rate(schedule, expected):
    rates = Rates()
    fit(model(), LearningRateScheduler(schedule), rates, epochs=3)
    assert rates.seen == expected


@pytest.mark.parametrize("schedule", [0.1, None, max, lambda: 0.1, lambda epoch, rate, more: rate])
def test_a_schedule_that_does_not_take_the_epoch_is_refused(schedule):
    message = "LearningRateScheduler: schedule must be a function of the epoch, or of the epoch and"
    with pytest.raises(TypeError, match=message):
        LearningRateScheduler(schedule)


@pytest.mark.parametrize(
    "rate", [-1, float("nan"), float("inf"), None, "0.1", schedules.CosineDecay(0.1, 10)]
)
def test_a_schedule_that_gives_no_rate_is_refused(rate):
    network = model()
    message = "LearningRateScheduler: schedule must return a number, 0 or above .* for epoch 0"
    with pytest.raises(ValueError, match=message):
        fit(network, LearningRateScheduler(lambda epoch, _: rate))
    assert network.step == 0


@pytest.mark.parametrize(
    "callback", [LearningRateScheduler(lambda epoch, rate: rate), ReduceLROnPlateau("loss")]
)
def test_an_optimizer_with_a_schedule_of_its_own_is_refused(callback):
    network = model(optimizers.SGD(schedules.CosineDecay(0.1, 10)))
    with pytest.raises(TypeError, match="the optimizer follows CosineDecay; give it a number"):
        fit(network, callback)
    assert network.step == 0


def play(callback, values):
    """Tell a callback of epochs with these losses; return the learning rate after each."""
    network = model(optimizers.SGD(1.0))
    callback.model, callback.params = network, {"metrics": ["val_loss"]}
    callback.on_train_begin({})
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        rates.append(network.optimizer.learning_rate)
    return rates


# Worked out by hand; keras.callbacks.ReduceLROnPlateau of Keras 3.15.1 gives the same rates.
@pytest.mark.parametrize(
    ("arguments", "values", "rates"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 2, 2], [1, 1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1}, [3, 2, 1, 0], [1, 1, 1, 1]),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.8, 2.6, 2.4], [1, 0.5, 0.25, 0.25]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.25, 0.25, 0.125]),
        ({"patience": 1, "min_lr": 0.3}, [3, 3, 3, 3], [1, 0.5, 0.3, 0.3]),
        ({"patience": 1, "mode": "max"}, [1, 2, 1, 3], [1, 1, 0.5, 0.5]),
    ],
)
def test_the_rate_falls_on_a_plateau(arguments, values, rates):
    assert play(ReduceLROnPlateau(factor=0.5, **arguments), values) == rates


@pytest.mark.parametrize("factor", [0, 1, 1.5, float("nan")])
def test_a_factor_that_does_not_reduce_is_refused(factor):
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau: factor must be in \(0, 1\), rec"):
        ReduceLROnPlateau(factor=factor)


def test_a_resumed_run_remembers_best_value_and_rate(tmp_path):
    class Losses(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["val_loss"] = [3.0, 1.0, 2.0, 2.0, 2.0][epoch]

    network = model()
    reduce = ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    fit(network, Losses(), reduce, epochs=3, validation_split=0.2)
    network.save(tmp_path / "x.safetensors")
    again = models.load(tmp_path / "x.safetensors")
    rates = Rates()
    fit(again, Losses(), reduce, rates, epochs=5, validation_split=0.2, resume=True)
    assert rates.seen == [0.025, 0.0125]


WATCHED = [np.nan, 3.0, 2.0, 2.5, 2.0, 2.4, 1.0, 1.5, 1.5, 1.5, 1.4, 1.5]


class Watched(Callback):
    """Log values of our own."""

    def on_epoch_end(self, epoch, logs):
        logs["loss"] = WATCHED[epoch]


class SaveAll(ModelCheckpoint):
    """Save each step and epoch under a name of its own."""

    def __init__(self, folder):
        super().__init__(folder)
        self.files = []

    def save(self):
        position = self.model.position
        self.files.append(self.folder / f"{position.epoch}-{position.batch}.safetensors")
        self.model.save(self.files[-1])

    def on_train_batch_end(self, batch, logs):
        if batch + 1 < self.params["steps"]:
            self.save()


class RaisedAgain(ReduceLROnPlateau):
    """Meet a learning rate that something else raises while it is as low as may be."""

    def on_epoch_end(self, epoch, logs):
        super().on_epoch_end(epoch, logs)
        if epoch == 10:
            assert self.model.optimizer.learning_rate == self.min_lr
            self.model.optimizer.learning_rate = 0.1


@pytest.mark.parametrize(
    "told",
    [
        lambda: EarlyStopping("loss", patience=3),
        lambda: EarlyStopping("loss", patience=4, min_delta=0.6),
        lambda: EarlyStopping("loss", patience=4, baseline=1.2),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=2),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=1, cooldown=2, min_delta=0.6),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=2, min_lr=0.04),
        lambda: RaisedAgain("loss", factor=0.5, patience=2, min_lr=0.04),
    ],
)
def test_a_run_resumed_anywhere_ends_as_the_whole_one(told, tmp_path):
    def outcome(network):
        weights = [weight.tobytes() for weight in network.get_weights()]
        return weights, network.history.epoch, network.optimizer.learning_rate, network.step

    whole, saver = model(), SaveAll(tmp_path)
    fit(whole, Watched(), told(), saver, epochs=12)
    assert len(saver.files) == 3 * len(whole.history.epoch)
    for file in saver.files:
        again = models.load(file)
        fit(again, Watched(), told(), epochs=12, resume=True)
        assert outcome(again) == outcome(whole), file.name


def test_best_weights_are_not_to_be_had_by_a_run_that_is_resumed(tmp_path):
    stopper = EarlyStopping("loss", patience=3, restore_best_weights=True)
    network, saver = model(), SaveAll(tmp_path)
    fit(network, Watched(), stopper, saver, epochs=3)
    message = r"the weights of epoch 1, and .* let ModelCheckpoint\(folder, monitor='loss'\) keep"
    again = models.load(tmp_path / "2-1.safetensors")
    before = again.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(again, Watched(), stopper, epochs=6, resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, again.get_weights(), strict=True))
    first = models.load(tmp_path / "0-2.safetensors")  # no epoch is done, so none was the best
    fit(first, Watched(), stopper, epochs=3, resume=True)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(first.get_weights(), network.get_weights(), strict=True)
    )


# ------------------------------------------------------------------------------ logs


def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_the_csv_holds_a_line_an_epoch(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("older")
    history = fit(model(), CSVLogger(path), validation_split=0.25)
    head, *lines = rows(path)
    assert head == ["epoch", "loss", "val_loss"]
    assert [int(line[0]) for line in lines] == [0, 1, 2, 3]
    assert [float(line[1]) for line in lines] == history.history["loss"]
    assert [float(line[2]) for line in lines] == history.history["val_loss"]


def test_the_csv_is_flushed_at_each_epoch(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Reader(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(len(rows(path)))

    fit(model(), CSVLogger(path), Reader())
    assert seen == [2, 3, 4, 5]


def test_the_csv_goes_on_where_asked(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        fit(model(), CSVLogger(path, separator=";", append=True), epochs=2)
    assert [row[0] for row in rows(path, ";")] == ["epoch", "0", "1", "0", "1"]
    with pytest.raises(ValueError, match=r"has the columns \['epoch', 'loss'\], and this run logs"):
        fit(model(), CSVLogger(path, separator=";", append=True), validation_split=0.25, epochs=1)
    assert len(rows(path, ";")) == 5


def test_a_resumed_run_has_each_epoch_in_the_log_once(tmp_path):
    def logger():
        return CSVLogger(tmp_path / "log.csv", append=True)

    fit(model(optimizers.SGD(0.2)), logger(), epochs=3)  # another run, whose lines stay
    saver = SaveAll(tmp_path)
    fit(model(), logger(), saver, epochs=3)
    whole = rows(tmp_path / "log.csv")
    assert [row[0] for row in whole] == ["epoch", *"012012"]
    for file in ("1-0", "1-1", "2-0", "3-0"):
        fit(models.load(tmp_path / f"{file}.safetensors"), logger(), epochs=3, resume=True)
        assert rows(tmp_path / "log.csv") == whole
    fit(model(optimizers.SGD(0.2)), logger(), epochs=1)
    before = rows(tmp_path / "log.csv")
    fit(models.load(tmp_path / "1-0.safetensors"), logger(), epochs=2, resume=True)
    assert rows(tmp_path / "log.csv") == [*before, whole[5]]  # none of another run's are taken away


def test_a_csv_that_cannot_be_written_is_an_error_before_training(tmp_path):
    network = model()
    with pytest.raises(FileNotFoundError):
        fit(network, CSVLogger(tmp_path / "missing" / "log.csv"))
    assert network.step == 0


def test_tensorboard_gets_the_curves(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401  it is the real one
    from tensorboardX.proto.event_pb2 import Event

    history = fit(model(), TensorBoard(tmp_path), validation_split=0.25)

    def read(part):
        (file,) = (tmp_path / part).iterdir()
        content, place, found = file.read_bytes(), 0, {}
        while place < len(content):  # TFRecord: length, its checksum, content, its checksum
            length = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            place += 16 + length
        return found

    train, validation = read("train"), read("validation")
    assert set(train) == {"epoch_loss", "epoch_learning_rate"}
    assert set(validation) == {"epoch_loss"}
    assert train["epoch_loss"] == list(enumerate(np.float32(history.history["loss"]).tolist()))
    expected = list(enumerate(np.float32(history.history["val_loss"]).tolist()))
    assert validation["epoch_loss"] == expected
    assert train["epoch_learning_rate"] == [(epoch, float(np.float32(0.1))) for epoch in range(4)]


def test_tensorboard_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'minidl\[tensorboard\]'"):
        TensorBoard(tmp_path)


# ------------------------------------------------------------------------------ not finite


def guarded(network, *, every=100, x=X, epochs=4):
    """Train under a guard, and check that a warning says what it found."""
    guard = TerminateOnNaN(every)
    catching = warnings.catch_warnings(record=True, action="always")
    with np.errstate(all="ignore"), catching as caught:
        history = network.fit(
            x, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[guard], shuffle=False
        )
    said = [] if guard.found is None else [f"TerminateOnNaN: stopped, not finite: {guard.found}"]
    assert [str(warning.message) for warning in caught] == said
    assert {(warning.category, warning.filename) for warning in caught} <= {
        (RuntimeWarning, __file__)
    }
    return guard, history


def is_finite(network):
    return all(np.isfinite(weight).all() for weight in network.get_weights())


def test_the_guard_lets_good_training_be(device):
    one, other = model(device=device), model(device=device)
    guard, history = guarded(one, every=2)
    expected = other.fit(X, Y, batch_size=4, epochs=4, verbose=0, shuffle=False)
    assert guard.found is None
    assert history.history == expected.history
    assert all(
        np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.parametrize("every", [1, 2, 100])
def test_the_guard_names_the_layer_and_goes_back(every, device):
    network = model(optimizers.SGD(1e25), device=device)
    guard, history = guarded(network, every=every)
    # Step 0 is finite, and its update makes weights of about 1e25. Two such layers overflow.
    assert guard.found == "the outputs of last in step 1"
    assert (network.step, network.optimizer.iterations) == (1, 1)
    assert history.epoch == []
    assert is_finite(network)
    assert [layer.step for layer in network.layers if isinstance(layer, layers.Dropout)] == [1]


def test_the_guard_finds_a_bad_input():
    x = X.copy()
    x[9, 1] = np.nan  # in the third batch
    network = model()
    guard, _ = guarded(network, x=x)
    assert guard.found == "the inputs in step 2"
    assert is_finite(network)


def test_the_guard_finds_an_update_that_overflows():
    network = model(optimizers.SGD(3e38))
    guard, _ = guarded(network)
    assert guard.found.startswith("the update of ")
    assert guard.found.endswith(" in step 0")
    assert is_finite(network)


def test_the_guard_goes_back_to_a_later_epoch_and_training_can_go_on():
    class Spoil(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.model.step == 7:
                self.model.layers[-1].bias.data[...] = np.inf

    network, reference = model(optimizers.Adam()), model(optimizers.Adam())
    guard = TerminateOnNaN(2)
    message = "TerminateOnNaN: stopped, not finite: something outside of the steps after step 6"
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match=message):
        network.fit(X, Y, batch_size=4, epochs=4, verbose=0, callbacks=[Spoil(), guard])
    # Taken again without the spoiling, no step fails: the model is back where the epoch began.
    assert guard.found == "something outside of the steps after step 6"
    assert is_finite(network)
    network.fit(X, Y, batch_size=4, epochs=4, verbose=0, resume=True)
    reference.fit(X, Y, batch_size=4, epochs=4, verbose=0)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(network.get_weights(), reference.get_weights(), strict=True)
    )
    assert network.history.history == reference.history.history


def test_a_model_that_is_no_sequence_is_named_as_a_whole():
    class Net(models.Model):
        def __init__(self):
            super().__init__(name="net")
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    x = X.copy()
    network = Net()
    network.compile(optimizers.SGD(1e30), "mse")
    guard, _ = guarded(network, x=x * 1e10)
    assert guard.found in ("the outputs of net in step 1", "the update of dense/weight in step 0")


def test_a_guard_that_never_looks_is_refused():
    with pytest.raises(ValueError, match="TerminateOnNaN: every must be at least 1, received 0"):
        TerminateOnNaN(0)
