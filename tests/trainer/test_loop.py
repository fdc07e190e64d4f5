"""Run: the loop of fit, its end by stop_training, and where it begins after a break."""

from itertools import chain

import numpy as np
import pytest
from small_models import Watch

from minidl import layers, metrics, models, rng
from minidl.batches import Samples
from minidl.callbacks import Callback
from minidl.callbacks.base import Observers
from minidl.trainer.fusion import Plan
from minidl.trainer.loop import Run
from minidl.trainer.position import run_arguments

X = np.arange(30.0).reshape(10, 3) / 30
Y = X[:, :1] * 2
STEPS = 3  # of 4, 4 and 2 samples
MOMENTS = [
    *("on_epoch_begin", "on_epoch_end"),
    *("on_train_batch_begin", "on_train_batch_end"),
]


class Recorder:
    """The calls of the callbacks of a run, and an action at one of the moments."""

    act_on_batches = True
    observers = Observers("test", [])

    def __init__(self, at=None, act=None):
        self.calls = []
        self.at, self.act = at, act

    def notify(self, name, number, logs):
        self.calls.append((name, number, dict(logs)))
        if (name, number) == self.at:
            self.act()

    def memories(self):
        return {}

    def finish(self, logs):
        self.calls.append(("finish", dict(logs)))

    def names(self):
        return [(name, *rest[:-1]) for name, *rest in self.calls]


def network(seed=3):
    model = models.Sequential([layers.Dense(1, input_shape=(3,))], seed=seed, dtype="float64")
    model.compile("sgd", "mse")
    return model


def run_of(model, epochs=2, calls=None, shuffle=True, held_out=None):
    """Return a run that has begun."""
    samples = Samples(X, Y)
    state = model.train_state
    state.begin_run(run_arguments(samples, None, batch_size=4, shuffle=shuffle), 0)
    plan, validation = (
        part and Plan(model.layers, model.backend, model.dtype, part, model.loss, model.metrics)
        for part in (samples, held_out)
    )
    return Run(model, state, plan, epochs, validation, calls or Recorder())


def epoch_of(number):
    """Return the calls of a whole epoch."""
    batches = [
        (name, batch)
        for batch in range(STEPS)
        for name in ("on_train_batch_begin", "on_train_batch_end")
    ]
    return [("on_epoch_begin", number), *batches, ("on_epoch_end", number)]


# ------------------------------------------------------------------------------ epochs and steps


def test_run_notifies_of_each_moment_in_order():
    run = run_of(network())
    assert run.steps == STEPS
    run.train()
    expected = [("finish",), *epoch_of(0), *epoch_of(1), ("on_train_end", 2)]
    assert run.callbacks.names() == expected
    assert run.position.epoch == 2
    assert run.state.step == 2 * STEPS


def test_run_of_no_epochs_notifies_of_the_end_only():
    run = run_of(network(), epochs=0)
    run.train()
    assert run.callbacks.names() == [("finish",), ("on_train_end", 0)]


def test_logs_of_an_epoch_hold_means_and_validation():
    model, expected = network(), []
    run = run_of(model, held_out=Samples(X[:3], Y[:3]))
    for epoch in range(2):
        run.epochs = epoch + 1
        run.train()
        expected.append(model.evaluate(X[:3], Y[:3], verbose=0))
    logs = [calls[-1] for calls in run.callbacks.calls if calls[0] == "on_epoch_end"]
    assert [list(epoch) for epoch in logs] == [["loss", "val_loss"]] * 2
    assert [epoch["val_loss"] for epoch in logs] == expected
    assert run.state.progress.history.logs == logs
    assert run.callbacks.calls[-1][-1] == logs[-1]  # on_train_end


def test_end_of_an_epoch_is_counted_before_callbacks_run():
    seen = []
    run = run_of(network())
    run.callbacks.at, run.callbacks.act = ("on_epoch_end", 0), lambda: seen.append(run.position)
    run.train()
    assert (seen[0].epoch, seen[0].batch) == (1, 0)


def test_sets_of_weights_count_as_part_of_the_run_until_its_end():
    flags = {}
    run = run_of(network())
    notify = run.callbacks.notify

    def notifying(name, *rest):
        flags.setdefault(name, run.is_training)
        notify(name, *rest)

    run.callbacks.notify = notifying
    assert run.is_training
    run.train()
    assert flags == dict.fromkeys(MOMENTS, True) | {"on_train_end": False}


# ------------------------------------------------------------------------------ stop_training

STOPS = [
    # moment, number of the epoch or batch, steps taken, epochs in the history
    ("on_epoch_begin", 0, 1, []),
    ("on_train_batch_begin", 0, 1, []),
    ("on_train_batch_end", 0, 1, []),
    ("on_train_batch_begin", 1, 2, []),
    ("on_train_batch_end", 1, 2, []),
    ("on_train_batch_begin", 2, 3, [0]),
    ("on_train_batch_end", 2, 3, [0]),
    ("on_epoch_end", 0, 3, [0]),
    ("on_epoch_begin", 1, 4, [0]),
    ("on_epoch_end", 1, 6, [0, 1]),
]


@pytest.mark.parametrize(("name", "number", "steps", "epochs"), STOPS)
def test_stop_training_ends_the_run_after_the_current_step(name, number, steps, epochs):
    model = network()
    run = run_of(model, epochs=3)
    run.callbacks.at = (name, number)
    run.callbacks.act = lambda: setattr(model, "stop_training", True)
    run.train()
    assert run.state.step == steps
    assert run.state.progress.history.epoch == epochs
    assert run.callbacks.names()[-1] == ("on_train_end", len(epochs))
    ended = [calls for calls in run.callbacks.names() if calls[0] == "on_epoch_end"]
    assert ended == [("on_epoch_end", epoch) for epoch in epochs]


@pytest.mark.parametrize(("name", "number", "steps", "epochs"), STOPS)
def test_stopped_run_resumes_to_the_bits_of_a_whole_one(name, number, steps, epochs):
    class Stop(Callback):
        stopped = False

    def stop(self, given, logs):
        if given == number and not self.stopped:
            self.stopped = self.model.stop_training = True

    arguments = {"batch_size": 4, "epochs": 3, "verbose": 0}
    whole, model = network(), network()
    whole.fit(X, Y, **arguments)
    stopper = type("StopOnce", (Stop,), {name: stop})()
    model.fit(X, Y, **arguments, callbacks=[stopper])
    assert model.step == steps
    history = model.fit(X, Y, **arguments, callbacks=[stopper], resume=True)
    assert model.get_weights()[0].tobytes() == whole.get_weights()[0].tobytes()
    assert history.history == whole.history.history


def test_logs_of_on_train_end_after_a_stop_are_those_of_the_steps_taken():
    model = network()
    run = run_of(model)
    run.callbacks.at = ("on_train_batch_end", 1)
    run.callbacks.act = lambda: setattr(model, "stop_training", True)
    run.train()
    assert run.callbacks.calls[-1] == ("on_train_end", 0, run.callbacks.calls[-2][-1])


def test_run_with_an_obstacle_takes_no_step_and_notifies_of_the_end():
    run = run_of(network())
    run.state.obstacle = "the best weights were restored"
    run.train()
    assert run.state.step == 0
    assert run.callbacks.names() == [("finish",), ("on_train_end", 0)]


# ------------------------------------------------------------------------------ position


def rows_of(batches):
    return [np.rint(batch.x.numpy()[:, 0] * 10).astype(int).tolist() for batch in batches]


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_left_begin_at_the_position(shuffle):
    model = network()
    run = run_of(model, shuffle=shuffle)
    order = rng.permutation(10, seed=3, epoch=0) if shuffle else np.arange(10)
    expected = [order[:4].tolist(), order[4:8].tolist(), order[8:].tolist()]
    assert rows_of(run.batches_left()) == expected
    for done in (1, 2, 3):
        run.state.count_steps()
        assert rows_of(run.batches_left()) == expected[done:]


def test_batches_left_have_the_order_of_the_epoch_of_the_models_life():
    model = network()
    run = run_of(model)
    for epoch in range(3):
        expected = rng.permutation(10, seed=3, epoch=epoch).tolist()
        assert list(chain(*rows_of(run.batches_left()))) == expected
        run.state.count_steps()
        assert list(chain(*rows_of(run.batches_left()))) == expected[4:]
        run.state.end_epoch({})


def test_begin_totals_holds_the_batches_that_are_done():
    run = run_of(network())
    totals = run.begin_totals()
    step, batches = run.make_step(), run.batches_left()
    step(next(batches))
    loss = totals["loss"]
    again = run.begin_totals()
    assert again is run.state.totals
    assert again is not totals
    assert dict(again) == {"loss": loss}
    run.state.end_epoch({})
    assert np.isnan(run.begin_totals()["loss"])


def test_run_from_the_middle_of_an_epoch_does_not_notify_of_its_beginning():
    run = run_of(network(), epochs=1)
    run.begin_totals()
    step, batches = run.make_step(), run.batches_left()
    step(next(batches))
    run.train()
    assert run.callbacks.names() == [("finish",), *epoch_of(0)[3:], ("on_train_end", 1)]
    assert run.state.step == STEPS


def test_finish_gets_the_means_so_far_or_the_logs_of_the_last_epoch():
    run = run_of(network(), epochs=1)
    run.begin_totals()
    step, batches = run.make_step(), run.batches_left()
    step(next(batches))
    means = dict(run.state.totals)
    run.train()
    assert run.callbacks.calls[0] == ("finish", means)
    run.epochs = 2
    run.callbacks.calls.clear()
    run.train()
    assert run.callbacks.calls[0] == ("finish", run.state.progress.history.logs[0])


def test_compile_in_a_callback_takes_effect_with_the_next_epoch():
    model = network()
    run = run_of(model)
    run.callbacks.at = ("on_epoch_end", 0)
    run.callbacks.act = lambda: model.compile("sgd", "mse", metrics=[Doubled()])
    model.run = run
    run.train()
    first, second = run.state.progress.history.logs
    assert list(first) == ["loss"]
    assert list(second) == ["loss", "doubled"]
    assert second["doubled"] == pytest.approx(2 * second["loss"])


class Doubled(metrics.Metric):
    """Twice the squared error."""

    name = "doubled"

    def per_sample(self, y_true, y_pred):
        return (y_pred - y_true) ** 2 * 2


def test_weights_that_a_callback_unfreezes_between_epochs_are_in_the_next_step():
    model = network()
    model.layers[0].bias.requires_grad = False
    model.compile("sgd", "mse")
    run = run_of(model)

    def unfreeze():
        model.layers[0].bias.requires_grad = True
        model.compile("sgd", "mse")

    run.callbacks.at, run.callbacks.act = ("on_epoch_end", 0), unfreeze
    model.run = run
    run.train()
    assert model.layers[0].bias.numpy().any()


def test_layers_of_the_plan_see_training_mode_within_a_step():
    watch = Watch()
    model = models.Sequential([layers.Dropout(0.5), watch, layers.Dense(1)], seed=3)
    model.compile("sgd", "mse")
    model.build((None, 3))
    watch.seen.clear()
    run = run_of(model, epochs=1, shuffle=False)
    run.train()
    dropped = np.concatenate(watch.seen) == 0
    masks = [
        rng.keep_mask((rows, 3), 0.5, seed=3, stream=0, step=n) for n, rows in enumerate((4, 4, 2))
    ]
    assert np.array_equal(dropped[1:], ~np.concatenate(masks)[1:])  # X[0, 0] is 0 itself
