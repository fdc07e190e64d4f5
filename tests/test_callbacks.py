"""When callbacks are told, what they are told, and what the built-in ones do with it."""

import re
import sys

import numpy as np
import pytest

from minidl import layers, metrics, models, optimizers
from minidl.callbacks import Callback, EarlyStopping, History

X = np.random.default_rng(0).normal(size=(10, 3))
Y = np.random.default_rng(1).normal(size=(10, 2))


def model(rate=0.01, metrics=()):
    network = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1)
    network.compile(optimizers.SGD(rate), "mse", metrics=metrics)
    return network


class Recorder(Callback):
    """Write down every call."""

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


def test_callbacks_are_told_of_everything_in_order():
    recorder = Recorder()
    model().fit(
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
    expected += [("train end", ["loss", "val_loss"])]
    assert recorder.calls == expected


def test_callbacks_know_model_and_parameters():
    recorder, network = Recorder(), model(metrics=["accuracy"])
    network.fit(X, Y, batch_size=4, epochs=3, validation_split=0.2, callbacks=[recorder], verbose=2)
    assert recorder.model is network
    assert recorder.params == {
        "epochs": 3,
        "steps": 2,  # of the 8 samples that are trained on
        "verbose": 2,
        "metrics": ["loss", "accuracy", "val_loss", "val_accuracy"],
    }


def test_several_callbacks_are_told_in_their_order():
    told = []

    class Named(Callback):
        def __init__(self, name):
            self.name = name

        def on_epoch_end(self, epoch, logs):
            told.append(self.name)

    model().fit(X, Y, callbacks=[Named("a"), Named("b")], verbose=0)
    assert told == ["a", "b"]


def test_the_loss_of_a_batch_end_is_the_mean_so_far():
    seen = []

    class Reader(Callback):
        def on_train_batch_end(self, batch, logs):
            seen.append(logs["loss"])

    class Still(optimizers.Optimizer):
        """Leave the weights, so that the loss is known."""

        def rule(self, weights, gradients, rate, decay):
            pass

    network = model()
    network.compile(Still(0.1), "mse")
    network.fit(X, Y, batch_size=4, shuffle=False, callbacks=[Reader()], verbose=0)
    losses = ((network.predict(X) - Y) ** 2).mean(axis=1)
    assert seen == pytest.approx([losses[:4].mean(), losses[:8].mean(), losses.mean()], rel=1e-6)


def test_logs_are_read_only_when_one_is_looked_up():
    reads = []
    logs = LazyLogs({"loss": lambda: reads.append("loss") or 2.5, "accuracy": lambda: 1.0})
    assert list(logs) == ["loss", "accuracy"]
    assert len(logs) == 2
    assert "loss" not in reads
    assert logs["loss"] == 2.5
    assert reads == ["loss"]
    assert dict(logs) == {"loss": 2.5, "accuracy": 1.0}


def test_fit_reads_the_loss_once_an_epoch_where_nobody_looks(monkeypatch):
    reads = []
    result = metrics.Mean.result
    monkeypatch.setattr(metrics.Mean, "result", lambda self: reads.append(1) or result(self))
    model().fit(X, Y, batch_size=2, epochs=3, callbacks=[Callback()], verbose=0)
    assert len(reads) == 3


# ------------------------------------------------------------------------------ stopping


class StopAt(Callback):
    """Ask for the end after a batch or an epoch."""

    def __init__(self, batch=None, epoch=None):
        self.batch, self.epoch = batch, epoch

    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = self.model.stop_training or batch == self.batch

    def on_epoch_end(self, epoch, logs):
        self.model.stop_training = self.model.stop_training or epoch == self.epoch


def test_stopping_in_an_epoch_ends_fit_after_the_step():
    network, recorder = model(), Recorder()
    history = network.fit(
        X, Y, batch_size=4, epochs=5, callbacks=[recorder, StopAt(batch=1)], verbose=0
    )
    assert network.step == 2
    assert history.epoch == []  # the epoch did not come to its end
    assert [call[0] for call in recorder.calls[-2:]] == ["batch end", "train end"]


def test_stopping_at_the_last_batch_lets_the_epoch_end():
    network = model()
    history = network.fit(X, Y, batch_size=4, epochs=5, callbacks=[StopAt(batch=2)], verbose=0)
    assert network.step == 3
    assert history.epoch == [0]


def test_stopping_at_an_epochs_end_and_going_on():
    network = model()
    history = network.fit(X, Y, epochs=5, callbacks=[StopAt(epoch=1)], verbose=0)
    assert history.epoch == [0, 1]
    assert network.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]
    assert (network.step, network.epoch) == (4, 4)


def play(stopper, values, monitor="val_loss"):
    """Tell a callback of epochs with these values, as `fit` would.

    Return the number of epochs until it stopped, and the epoch whose weights are there at the end.
    """
    network = model()
    stopper.model, stopper.params = network, {"metrics": [monitor]}
    network.stop_training = False
    stopper.on_train_begin({})
    for epoch, value in enumerate(values):
        network.set_weights([np.full((3, 2), epoch), np.full(2, epoch)])
        stopper.on_epoch_end(epoch, {monitor: value})
        if network.stop_training:
            break
    stopper.on_train_end({})
    return epoch + 1, network.get_weights()[1][0]


@pytest.mark.parametrize(
    ("arguments", "values", "epochs"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.4, 1], 4),
        ({"patience": 2}, [3, 2, 2.5, 1.9, 2, 2, 2], 6),
        ({"patience": 0}, [3, 2, 2, 1], 3),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "min_delta": -0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 2, 9], 4),
        ({"patience": 2, "baseline": 1.0}, [3, 2, 2.5, 0.5], 3),
        ({"patience": 2, "baseline": 1.0}, [3, 0.5, 0.6, 0.4, 2], 5),
        ({"patience": 3, "baseline": 1.0}, [3, 2, 0.5, 0.4, 0.3], 5),
        ({"patience": 2}, [float("nan"), float("nan"), 1], 2),
    ],
)
def test_early_stopping(arguments, values, epochs):
    assert play(EarlyStopping(**arguments), values)[0] == epochs


def test_early_stopping_takes_more_for_accuracies():
    stopper = EarlyStopping("val_accuracy", patience=1)
    assert play(stopper, [0.1, 0.2, 0.3, 0.2, 0.9], "val_accuracy")[0] == 4
    assert (stopper.best_epoch, stopper.stopped_epoch) == (2, 3)
    stopper = EarlyStopping("val_accuracy", patience=1, mode="min")
    assert play(stopper, [0.1, 0.2], "val_accuracy")[0] == 2


@pytest.mark.parametrize(("restore", "expected"), [(True, 1), (False, 3)])
def test_early_stopping_brings_back_the_best_weights_where_asked(restore, expected):
    stopper = EarlyStopping(patience=2, restore_best_weights=restore)
    assert play(stopper, [3, 2, 2.5, 2.4]) == (4, expected)


def test_early_stopping_in_fit_and_used_again():
    stopper = EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)
    network = model()
    for _ in range(2):  # the second fit begins anew
        history = network.fit(X, Y, epochs=9, callbacks=[stopper], verbose=0)
        assert history.epoch == [0, 1]  # the loss falls, so there is no better epoch
        assert stopper.stopped_epoch == 1


def test_an_unknown_name_to_watch_is_refused_before_training():
    network = model()
    before = network.get_weights()
    message = "EarlyStopping: val_loss is not logged; there are loss; give validation data"
    with pytest.raises(ValueError, match=message):
        network.fit(X, Y, callbacks=[EarlyStopping()], verbose=0)
    assert network.step == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


def test_an_unknown_mode_is_refused():
    message = 'EarlyStopping: mode must be "auto", "min" or "max", received \'most\''
    with pytest.raises(ValueError, match=message):
        EarlyStopping(mode="most")


# ------------------------------------------------------------------------------ history and lines


def test_history_keeps_names_in_order_and_one_entry_an_epoch():
    network = model(metrics=["accuracy"])
    history = network.fit(X, Y, epochs=3, validation_data=(X, Y), verbose=0)
    assert isinstance(history, History)
    assert network.history is history
    assert history.epoch == [0, 1, 2]
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(
        len(values) == 3 and all(isinstance(value, float) for value in values)
        for values in history.history.values()
    )


LINE = r"Epoch \d/2 - \d+\.\d s - loss: \d+\.\d{4} - val_loss: \d+\.\d{4}"


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_what_is_no_terminal_gets_a_line_an_epoch(verbose, capsys):
    model().fit(X, Y, epochs=2, validation_data=(X, Y), verbose=verbose)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(LINE, line) for line in lines)
    assert [line[:9] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert printed.err == ""


def test_a_terminal_gets_a_bar_that_gives_way_to_the_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    model().fit(X, Y, batch_size=2, epochs=2, validation_data=(X, Y), verbose=1)
    printed = capsys.readouterr().out
    assert "Epoch 1/2:" in printed
    assert "/5 [" in printed  # the bar, of 5 steps
    assert len(re.findall(LINE, printed)) == 2


def test_a_terminal_gets_no_bar_with_verbose_2(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    model().fit(X, Y, epochs=2, validation_data=(X, Y), verbose=2)
    assert all(re.fullmatch(LINE, line) for line in capsys.readouterr().out.splitlines())


def test_verbose_0_prints_nothing(capsys):
    model().fit(X, Y, epochs=2, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_an_epoch_that_is_broken_off_prints_no_line(capsys):
    model().fit(X, Y, batch_size=2, callbacks=[StopAt(batch=1)], verbose=1)
    assert capsys.readouterr().out == ""


def test_an_error_in_an_epoch_still_tells_the_end_of_training():
    class Bad(Callback):
        def on_train_batch_end(self, batch, logs):
            raise KeyError("mine")

    recorder, network = Recorder(), model()
    with pytest.raises(KeyError, match="mine"):
        network.fit(X, Y, callbacks=[recorder, Bad()], verbose=0)
    assert recorder.calls[-1][0] == "train end"
    assert network.step == 1
