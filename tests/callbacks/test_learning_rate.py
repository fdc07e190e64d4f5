"""LearningRateScheduler and ReduceLROnPlateau."""

import numpy as np
import pytest
from callback_cases import Rates, SaveAll, Watched, curves, exceeds, fit, network
from small_models import bits

from minidl import models, optimizers
from minidl.callbacks import Callback, LearningRateScheduler, ReduceLROnPlateau
from minidl.optimizers import schedules

# ------------------------------------------------------------------------------ scheduler


def test_scheduler_sets_the_rate_of_each_epoch():
    rates = Rates()
    scheduler = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch >= 2 else rate)
    fit(network(), scheduler, rates)
    assert rates.seen == [0.1, 0.1, 0.05, 0.025]


def test_rate_that_a_callback_sets_is_used():
    one, other = network(optimizers.SGD(0.1)), network(optimizers.SGD(0.02))
    fit(one, LearningRateScheduler(lambda epoch, rate: 0.02))
    fit(other)
    assert bits(one) == bits(other)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda epoch: 0.1 * epoch, [0, 0.1, 0.2]),
        (lambda epoch, rate=7.0: rate / 2, [0.05, 0.025, 0.0125]),
        (lambda *used: np.float32(2 ** -len(used)), [0.25, 0.25, 0.25]),
        (lambda epoch: np.where(epoch < 1, 0.5, 0.25), [0.5, 0.25, 0.25]),
        (schedules.ExponentialDecay(0.1, 1, 0.5), [0.1, 0.05, 0.025]),
    ],
)
def test_schedule_gets_the_epoch_and_the_rate_if_it_takes_two_arguments(schedule, expected):
    rates = Rates()
    fit(network(), LearningRateScheduler(schedule), rates, epochs=3)
    assert rates.seen == expected


@pytest.mark.parametrize("schedule", [0.1, None, max, lambda: 0.1, lambda epoch, rate, more: rate])
def test_scheduler_rejects_schedule_that_does_not_take_the_epoch(schedule):
    with pytest.raises(
        TypeError, match=r"LearningRateScheduler: expected schedule .*epoch.*, got "
    ):
        LearningRateScheduler(schedule)


@pytest.mark.parametrize(
    "rate", [-1, float("nan"), float("inf"), None, "0.1", schedules.CosineDecay(0.1, 10)]
)
def test_scheduler_rejects_invalid_rate_before_a_step(rate):
    model = network()
    message = r"LearningRateScheduler: schedule: .*return a finite number, .*for epoch 0"
    with pytest.raises(ValueError, match=message):
        fit(model, LearningRateScheduler(lambda epoch, _: rate))
    assert model.step == 0


@pytest.mark.parametrize(
    "callback", [LearningRateScheduler(lambda epoch, rate: rate), ReduceLROnPlateau("loss")]
)
def test_optimizer_with_a_schedule_is_rejected_before_a_step(callback):
    model = network(optimizers.SGD(schedules.CosineDecay(0.1, 10)))
    message = rf"{type(callback).__name__}: expected the optimizer's learning rate .*CosineDecay"
    with pytest.raises(TypeError, match=message):
        fit(model, callback)
    assert model.step == 0


# ------------------------------------------------------------------------------ plateau


def play(callback, values):
    """Tell a callback of epochs with these losses; return the learning rate after each."""
    model = network(optimizers.SGD(1.0))
    callback.model = model
    callback.params = {"metrics": ["val_loss"], "may_log_more": False}
    callback.on_train_begin({})
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        rates.append(model.optimizer.learning_rate)
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
def test_rate_falls_on_a_plateau(arguments, values, rates):
    assert play(ReduceLROnPlateau(factor=0.5, **arguments), values) == rates


def keras_reduces(mode, values, patience, delta, cooldown):
    """Return the learning rate that ReduceLROnPlateau of Keras 3 leaves after each epoch."""
    rate, best, wait, cooling, rates = 1.0, None, 0, 0, []
    for value in values:
        if cooling:
            cooling, wait = cooling - 1, 0
        if exceeds(mode, value, best, delta):
            best, wait = value, 0
        elif not cooling:
            wait += 1
            if wait >= patience:
                rate, cooling, wait = rate * 0.5, cooldown, 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_rates_are_those_of_keras(patience, delta, cooldown):
    for mode, values in curves(40):
        arguments = {"patience": patience, "min_delta": delta, "cooldown": cooldown}
        reduce = ReduceLROnPlateau(factor=0.5, mode=mode, **arguments)
        expected = keras_reduces(mode, values, patience, delta, cooldown)
        assert play(reduce, values) == expected, (mode, values)


@pytest.mark.parametrize(
    ("callbacks", "rates"),
    [
        ([LearningRateScheduler(lambda epoch, rate: rate / 2)], [0.05, 0.025, 0.0125]),
        ([ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9)], [0.1, 0.1, 0.05]),
        (
            [
                ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9),
                LearningRateScheduler(lambda epoch, rate: rate),
            ],
            [0.1, 0.1, 0.05],
        ),
        ([LearningRateScheduler(lambda epoch: 0)], [0.0, 0.0, 0.0]),
    ],
    ids=["scheduler", "plateau", "both", "zero"],
)
def test_history_has_the_rate_that_each_epoch_had(callbacks, rates):
    history = fit(network(), *callbacks, epochs=3).history
    assert list(history) == ["loss", "learning_rate"]
    assert history["learning_rate"] == rates


@pytest.mark.parametrize("rate", [0.1, schedules.CosineDecay(0.1, 10)])
def test_history_has_no_rate_without_a_callback_that_sets_it(rate):
    assert list(fit(network(optimizers.SGD(rate)), Rates()).history) == ["loss"]


@pytest.mark.parametrize("factor", [0, 1, 1.5, float("nan")])
def test_factor_that_does_not_reduce_is_rejected(factor):
    message = rf"ReduceLROnPlateau: expected factor in \(0, 1\), got {factor}"
    with pytest.raises(ValueError, match=message):
        ReduceLROnPlateau(factor=factor)


# ------------------------------------------------------------------------------ resuming


def test_resumed_run_remembers_best_value_and_rate(tmp_path):
    class Losses(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["val_loss"] = [3.0, 1.0, 2.0, 2.0, 2.0][epoch]

    model = network()
    reduce = ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    fit(model, Losses(), reduce, epochs=3, validation_split=0.2)
    model.save(tmp_path / "x.safetensors")
    again = models.load(tmp_path / "x.safetensors")
    rates = Rates()
    fit(again, Losses(), reduce, rates, epochs=5, validation_split=0.2, resume=True)
    assert rates.seen == [0.025, 0.0125]


class RaisedAgain(ReduceLROnPlateau):
    """ReduceLROnPlateau whose rate something else raises while it is at its minimum."""

    def on_epoch_end(self, epoch, logs):
        super().on_epoch_end(epoch, logs)
        if epoch == 10:
            assert self.model.optimizer.learning_rate == self.min_lr
            self.model.optimizer.learning_rate = 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=2),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=1, cooldown=2, min_delta=0.6),
        lambda: ReduceLROnPlateau("loss", factor=0.5, patience=2, min_lr=0.04),
        lambda: RaisedAgain("loss", factor=0.5, patience=2, min_lr=0.04),
    ],
    ids=["scheduler", "patience", "cooldown", "min_lr", "raised again"],
)
def test_run_resumed_at_any_step_ends_with_the_rate_and_weights_of_the_whole(make, tmp_path):
    def outcome(model):
        rates = model.history.history["learning_rate"]
        return bits(model), model.history.epoch, model.optimizer.learning_rate, rates, model.step

    arguments = {"epochs": 12, "batch_size": 6}
    whole, saver = network(), SaveAll(tmp_path)
    fit(whole, Watched(), make(), saver, **arguments)
    assert len(saver.files) == 2 * 12
    for file in saver.files:
        again = models.load(file)
        fit(again, Watched(), make(), **arguments, resume=True)
        assert outcome(again) == outcome(whole), file.name
