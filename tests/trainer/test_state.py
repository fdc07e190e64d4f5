"""TrainState: what a step changes and a checkpoint keeps, by name."""

import signal

import numpy as np
import pytest
from small_models import LABELS, X, bits, classifier

from minidl import layers, models
from minidl.callbacks import Callback
from minidl.optimizers import SGD, Adam, schedules
from minidl.trainer.position import Position
from minidl.trainer.state import History, Moment, Progress, TrainState
from minidl.trainer.totals import Totals

SECTIONS = ("weights", "optimizer", "model", "random", "position", "run")
ARGUMENTS = {
    "batch_size": 8,
    "samples": 50,
    "shuffle": 1,
    "data_checksum": 7,
    "validation_checksum": 0,
}


class Remembers(Callback):
    """Callback with values and an array to remember, which stops training within an epoch."""

    def __init__(self, stop_at=9):
        self.stop_at = stop_at
        self.seen = []

    def on_train_batch_end(self, batch, logs):
        self.seen.append(self.model.step)
        self.model.stop_training = self.model.step == self.stop_at

    def state(self):
        return {"seen": list(self.seen), "weights/first": self.model.parameters()[0].data.copy()}

    def load_state(self, state):
        self.seen = list(state["seen"])


def stopped(optimizer=None, **arguments):
    """Return a model whose run was stopped in the second epoch, after step 9."""
    model = classifier(optimizer=optimizer or Adam(), **arguments)
    model.fit(X, LABELS, batch_size=8, epochs=3, verbose=0, callbacks=[Remembers()])
    return model


def plain(state):
    """Return a state with arrays as bytes, so that states can be compared."""
    return {
        name: (str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }


def section_of(state, *sections):
    return {name: value for name, value in state.items() if name.split("/")[0] in sections}


# ------------------------------------------------------------------------------ enumeration


def test_state_names_begin_with_their_section_and_none_is_forgotten():
    state = stopped().train_state.state()
    assert {name.split("/")[0] for name in state} == set(SECTIONS)
    assert len(section_of(state, "weights")) == 6
    assert {name for name in state if not name.startswith("weights/")} == {
        *("optimizer/iterations", "optimizer/learning_rate", "optimizer/mean", "optimizer/square"),
        *("model/step", "model/epoch"),
        *("random/step", "random/is_fixed", "random/seed", "random/stream"),
        *(f"position/{name}" for name in Position._fields if name != "shards"),
        *("position/totals", "position/counts"),
        *("run/history", "run/moment", "run/callbacks", "run/obstacle"),
        *("run/memory/Remembers/seen", "run/memory/Remembers/weights/first"),
    }


def test_every_attribute_of_the_state_is_enumerated_or_belongs_to_compile():
    """A new attribute fails here until `state` and `load_state` know it."""
    by_compile = {"model", "optimizer", "logged"}
    never_saved = {"is_torn"}  # save rejects it
    enumerated = {"step", "epoch", "progress", "totals", "obstacle"}
    by_loading = {"left"}
    assert vars(stopped().train_state).keys() == by_compile | never_saved | enumerated | by_loading


def test_state_of_some_sections_has_no_others():
    state = stopped().train_state
    for section in SECTIONS:
        assert plain(state.state(section)) == plain(section_of(state.state(), section))
    both = state.state("model", "random")
    assert {name.split("/")[0] for name in both} == {"model", "random"}


def test_state_of_a_nested_model_is_on_the_device_of_its_outermost_model(device):
    inner = models.Sequential([layers.Dense(2)])
    outer = models.Sequential([inner, layers.Dense(1)], device=device)
    outer.build((None, 3))
    inner.compile("adam", "mse")
    inner.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    state = inner.train_state
    before = bits(inner)
    state.load_state(state.snapshot())
    assert bits(inner) == before
    assert all(inner.backend.is_array(values) for values in inner.optimizer.state.values())


@pytest.mark.parametrize("section", SECTIONS)
def test_load_state_restores_the_section_and_leaves_the_others(section):
    source, target = stopped().train_state, fresh().train_state
    before = plain(target.state())
    target.load_state(source.snapshot(section))
    after = plain(target.state())
    assert section_of(after, section) == section_of(plain(source.state()), section)
    others = [name for name in SECTIONS if name != section]
    assert section_of(after, *others) == section_of(before, *others)
    changed = [name for name in after if after[name] != before.get(name)]
    assert changed, "the two states differ in this section"


def fresh():
    """Return a compiled model with another seed that was never trained."""
    model = classifier(seed=2, optimizer=Adam(0.5))
    model.train_state.obstacle = ""  # compile sets one, which counts once a run has begun
    return model


def test_load_state_restores_the_whole_state_on_a_device(device):
    source, target = stopped(), classifier(seed=2, optimizer=Adam(0.5), device=device)
    target.train_state.load_state(source.train_state.snapshot())
    found, expected = target.train_state.state(), source.train_state.state()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert target.backend.to_numpy(found[name]).tobytes() == value.tobytes(), name
        else:
            assert found[name] == value, name


def test_loaded_state_trains_on_as_the_original():
    source = stopped()
    twin = fresh()
    twin.placement.seed = source.seed  # it decides the order of the samples
    twin.train_state.load_state(source.train_state.snapshot())
    for model in (source, twin):
        model.fit(X, LABELS, batch_size=8, epochs=3, verbose=0, resume=True)
    assert bits(twin) == bits(source)
    assert twin.history.history == source.history.history


def test_load_state_of_one_entry_leaves_the_others():
    state = stopped().train_state
    name = "weights/dense/bias"
    before = plain(state.state())
    state.load_state({name: np.full(16, 7.0, "float32")})
    after = plain(state.state())
    assert after.pop(name) != before.pop(name)
    assert after.pop("run/obstacle") == "dense/bias was changed since it ended"
    assert before.pop("run/obstacle") == ""
    assert after == before


def test_snapshot_is_a_copy(device):
    model = stopped(device=device)
    snapshot = model.train_state.snapshot()
    to_numpy = model.backend.to_numpy
    arrays = {n: to_numpy(v).copy() for n, v in snapshot.items() if model.backend.is_array(v)}
    others = {n: repr(v) for n, v in snapshot.items() if n not in arrays}
    assert {"weights/dense/weight", "optimizer/mean"} <= arrays.keys()
    model.fit(X, LABELS, batch_size=25, epochs=2, verbose=0)
    for name, value in arrays.items():
        assert to_numpy(snapshot[name]).tobytes() == value.tobytes(), name
    assert {name: repr(snapshot[name]) for name in others} == others


def test_state_holds_live_arrays():
    model = stopped()
    name = "weights/dense/bias"
    live, copied = model.train_state.state()[name], model.train_state.snapshot()[name]
    model.parameters()[1].data[...] = 5.0
    assert live.max() == 5.0
    assert copied.max() < 5.0


def test_weights_with_one_name_are_kept_apart():
    parts = [models.Sequential([layers.Dense(2, input_shape=(2,))], seed=n) for n in range(2)]
    model = models.Sequential([layer for part in parts for layer in part.layers])
    state = model.train_state.state("weights")
    assert len(state) == len(model.parameters()) == 4
    model.train_state.load_state({name: state[name] * 0 + n for n, name in enumerate(state)})
    assert [float(weight.flat[0]) for weight in model.get_weights()] == [0, 1, 2, 3]


def test_state_before_compile_has_no_optimizer_and_no_position():
    model = models.Sequential([layers.Dense(2, input_shape=(2,))])
    assert section_of(model.train_state.state(), "optimizer", "position") == {}


def test_learning_rate_that_follows_a_schedule_is_not_in_the_state():
    state = stopped(SGD(schedules.CosineDecay(0.1, 10))).train_state
    assert state.learning_rate is None
    assert "optimizer/learning_rate" not in state.state("optimizer")


def test_state_of_an_optimizer_of_other_weights_is_that_of_a_new_one():
    model = stopped()
    model.parameters()[0].requires_grad = False
    state = model.train_state.state("optimizer")
    assert state.keys() == {"optimizer/iterations", "optimizer/learning_rate"}
    assert state["optimizer/iterations"] == 0


def test_loaded_optimizer_does_not_share_its_arrays():
    source, target = stopped(), fresh()
    target.train_state.load_state(source.train_state.state("optimizer"))
    assert not np.shares_memory(target.optimizer.state["mean"], source.optimizer.state["mean"])
    assert target.optimizer.is_for(target.parameters())


# ------------------------------------------------------------------------------ the run


def test_begin_run_forgets_the_last_run_and_keeps_the_models_life():
    model = stopped()
    state = model.train_state
    state.obstacle = "something"
    weights = bits(model)
    state.begin_run(ARGUMENTS, first_epoch=4)
    assert state.progress == Progress(Position(4, 0, **ARGUMENTS), state.progress.history)
    assert state.progress.history.logs == []
    assert (state.step, state.epoch, state.obstacle) == (9, 2, "")
    assert state.totals_of_epoch() == {}
    assert bits(model) == weights


def test_count_step_counts_epochs_at_their_first_update():
    state = TrainState(classifier())
    state.begin_run(ARGUMENTS, 0)
    seen = []
    for _ in range(3):
        state.count_steps()
        seen.append((state.step, state.epoch, state.progress.position.batch))
    state.end_epoch({"loss": 0.5})
    state.count_steps()
    seen.append((state.step, state.epoch, state.progress.position.batch))
    assert seen == [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 1)]


class Assignments(TrainState):
    """Training state that keeps each value that is assigned to `progress`."""

    def __setattr__(self, name, value):
        if name == "progress":
            vars(self).setdefault("assigned", []).append(value)
        super().__setattr__(name, value)


def test_end_epoch_replaces_position_and_history_in_one_assignment():
    state = Assignments(classifier())
    state.begin_run(ARGUMENTS, 2)
    state.count_steps()
    before = state.progress
    state.assigned.clear()
    state.end_epoch({"loss": 0.5})
    (after,) = state.assigned
    assert after.position == before.position._replace(epoch=3, batch=0)
    assert list(after.history.rows()) == [(2, {"loss": 0.5})]
    assert list(before.history.rows()) == []  # a reader of the old progress sees the old history


def test_count_step_replaces_progress_in_one_assignment():
    state = Assignments(classifier())
    state.begin_run(ARGUMENTS, 0)
    state.assigned.clear()
    state.count_steps()
    assert len(state.assigned) == 1


def test_totals_of_epoch_are_those_of_the_loaded_state_until_others_are_set():
    model, twin = stopped(), fresh()
    state, expected = twin.train_state, model.train_state.totals.state()
    for _ in range(2):
        state.load_state(model.train_state.snapshot("position"))
        assert state.totals_of_epoch() == expected
        state.totals = Totals({"loss": 0, "accuracy": 1}, twin.backend)
        assert state.totals_of_epoch() == {"loss": (0.0, 0), "accuracy": (0.0, 0)}


# ------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_check_resume_names_the_argument_that_differs(name):
    state = TrainState(classifier())
    state.begin_run(ARGUMENTS, 0)
    state.check_resume(ARGUMENTS)
    other = ARGUMENTS | {name: ARGUMENTS[name] + 1}
    message = f"fit: expected {name} {ARGUMENTS[name]} .*got {ARGUMENTS[name] + 1}"
    with pytest.raises(ValueError, match=message):
        state.check_resume(other)


def test_check_resume_accepts_everything_before_the_first_run():
    state = TrainState(classifier())
    state.obstacle = "compile was called"
    state.check_resume(ARGUMENTS)


def begun():
    state = classifier().train_state
    state.begin_run(ARGUMENTS, 0)
    return state


def test_obstacle_makes_the_run_not_resumable():
    state = begun()
    assert state.why_not_resumable() == ""
    state.obstacle = "something put other weights in"
    with pytest.raises(ValueError, match=r"fit: .*but something put other weights in"):
        state.check_resume(ARGUMENTS)
    assert state.state("run")["run/obstacle"] == "something put other weights in"


def test_torn_state_is_not_resumable_before_and_after_the_first_run():
    for state in (classifier().train_state, begun()):
        state.is_torn = True
        with pytest.raises(ValueError, match=r"fit: .*but an update was interrupted"):
            state.check_resume(ARGUMENTS)


def test_frozen_weights_make_the_run_not_resumable_until_they_are_unfrozen():
    model = stopped()
    state, parameter = model.train_state, model.parameters()[0]
    parameter.requires_grad = False
    assert "frozen" in state.why_not_resumable()
    parameter.requires_grad = True
    assert state.why_not_resumable() == ""


def test_run_with_an_obstacle_can_be_resumed_at_its_end():
    state = begun()
    state.obstacle = "the best weights were restored"
    state.progress = state.progress._replace(moment=Moment("on_train_end", 3, 9))
    state.check_resume(ARGUMENTS)
    state.progress = state.progress._replace(moment=Moment("on_epoch_end", 3, 9))
    with pytest.raises(ValueError, match="the best weights were restored"):
        state.check_resume(ARGUMENTS)


OBSTACLES = {
    "compile was called": lambda m: m.compile("sgd", m.loss, metrics=m.metrics),
    "set_weights replaced": lambda m: m.set_weights(m.get_weights()),
}


@pytest.mark.parametrize("obstacle", sorted(OBSTACLES))
def test_change_outside_of_fit_is_an_obstacle_that_a_new_run_forgets(obstacle):
    model = stopped()
    OBSTACLES[obstacle](model)
    arguments = {"batch_size": 8, "epochs": 3, "verbose": 0}
    with pytest.raises(ValueError, match=f"fit: .*but {obstacle}"):
        model.fit(X, LABELS, **arguments, resume=True)
    assert model.step == 9
    model.fit(X, LABELS, **arguments)
    assert model.train_state.why_not_resumable() == ""


@pytest.mark.parametrize("obstacle", sorted(OBSTACLES))
def test_change_by_a_callback_is_part_of_the_run(obstacle):
    class Changes(Callback):
        def on_epoch_end(self, epoch, logs):
            OBSTACLES[obstacle](self.model)

    model = classifier()
    model.fit(X, LABELS, batch_size=8, epochs=2, verbose=0, callbacks=[Changes()])
    assert model.train_state.why_not_resumable() == ""
    assert model.fit(X, LABELS, batch_size=8, epochs=3, verbose=0, resume=True).epoch == [0, 1, 2]


def test_weights_that_a_callback_sets_at_the_end_are_an_obstacle():
    class Sets(Callback):
        def on_train_end(self, logs):
            self.model.set_weights(self.model.get_weights())

    model = classifier()
    model.fit(X, LABELS, verbose=0, callbacks=[Sets()])
    assert "set_weights" in model.train_state.why_not_resumable()


def test_broken_callback_loses_its_change_of_the_learning_rate():
    state = begun()
    state.progress = state.progress._replace(learning_rate=0.1)  # while callbacks act
    state.optimizer.learning_rate = 0.7
    assert state.state("optimizer")["optimizer/learning_rate"] == 0.1
    state.undo_broken_callback()
    assert state.optimizer.learning_rate == 0.1
    state.optimizer.learning_rate = 0.7  # by the user, after the run
    assert state.state("optimizer")["optimizer/learning_rate"] == 0.7
    state.undo_broken_callback()
    assert state.optimizer.learning_rate == 0.7


def test_end_of_a_batch_and_of_an_epoch_are_the_moments_that_callbacks_hear_of_next():
    state = begun()
    assert state.progress.moment is None
    state.count_steps()
    assert state.progress.moment == Moment("on_train_batch_end", 0, 1)
    state.end_epoch({})
    assert state.progress.moment == Moment("on_epoch_end", 0, 1)


# ------------------------------------------------------------------------------ Position, History


def test_position_yields_each_difference_of_its_arguments():
    position = Position(3, 1, **ARGUMENTS)
    assert list(position.differences(ARGUMENTS)) == []
    other = ARGUMENTS | {"samples": 49, "shuffle": 0}
    assert list(position.differences(other)) == [("samples", 50, 49), ("shuffle", 1, 0)]
    assert list(Position().differences(other)) == []


def test_history_leaves_out_names_that_an_epoch_does_not_have():
    rows = [(3, {"loss": 2.0}), (4, {"loss": 1.0, "norm": 5.0})]
    history = History(rows)
    assert history.history == {"loss": [2.0, 1.0], "norm": [5.0]}
    assert list(history.rows()) == rows
    assert History().history == {}


class LoadsTwice(Callback):
    """Load a snapshot while Ctrl-C arrives after the first weight."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def on_train_batch_end(self, batch, logs):
        state = self.model.train_state
        if self.model.step == 1:
            self.before = state.snapshot()
        elif self.model.step == 3:
            weight = self.model.parameters()[0]
            assign = type(weight).assign

            def interrupted(weight, values):
                assign(weight, values)
                signal.raise_signal(signal.SIGINT)

            with self.monkeypatch.context() as patch:
                patch.setattr(type(weight), "assign", interrupted)
                state.load_state(self.before)


def test_ctrl_c_waits_until_the_state_is_loaded(monkeypatch):
    model, loads = classifier(), LoadsTwice(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS, batch_size=8, verbose=0, callbacks=[loads])
    for name, weight in model.train_state.state("weights").items():
        assert (weight == loads.before[name]).all()
    assert model.step == 1
