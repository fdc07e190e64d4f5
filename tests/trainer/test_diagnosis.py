"""Diagnosis: the first number that is not finite, and the step that made it."""

import numpy as np
import pytest
from small_models import TARGETS, X

from minidl import layers, models
from minidl.batches import Samples
from minidl.optimizers import SGD, Optimizer
from minidl.trainer.diagnosis import CHANGED_BY_A_STEP, non_finite_weight, repeat_until_failure
from minidl.trainer.fusion import Plan
from minidl.trainer.loop import Run
from minidl.trainer.position import run_arguments

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflows of NumPy


class Silent:
    """Callbacks that do nothing."""

    def notify(self, name, number, logs):
        pass

    def finish(self, logs):
        pass


class Spoiled(layers.Layer):
    """Identity that returns infinity for inputs above 50."""

    def call(self, x):
        return x - x.like((x.data <= 50).astype(x.dtype)).log()


def run_of(model, x=X[:12], y=TARGETS[:12]):
    """Return a run over three batches that has begun."""
    samples = Samples(x, y)
    state = model.train_state
    state.begin_run(run_arguments(samples, None, batch_size=4, shuffle=False), 0)
    plan = Plan(model.layers, model.backend, model.dtype, samples, model.loss, model.metrics)
    return Run(model, state, plan, 1, None, Silent())


def network(*stack, optimizer=None, device="cpu"):
    stack = stack or [layers.Dense(4, "tanh", name="first"), layers.Dropout(0.5), layers.Dense(2)]
    model = models.Sequential([layers.Input((6,)), *stack], seed=1, device=device)
    model.compile(optimizer or SGD(0.1), "mse")
    return model


def changed_by_a_step(model):
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in model.train_state.state(*CHANGED_BY_A_STEP).items()
    }


def test_changed_by_a_step_names_everything_that_a_step_changes():
    model = network(optimizer=SGD(0.1, momentum=0.9))
    run = run_of(model)
    run.begin_totals()
    before = model.train_state.snapshot()
    run.make_step()(next(run.batches_left()))
    after = model.train_state.state()
    changed = {
        name.split("/")[0]
        for name in after
        if name not in before or repr(after[name]) != repr(before[name])
    }
    assert changed - {"run"} == set(CHANGED_BY_A_STEP)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_weight_returns_the_first_name(value, device):
    model = network(device=device)
    assert non_finite_weight(model.parameters()) is None
    for parameter in reversed(model.parameters()[1:]):
        parameter.data[...] = value
        assert non_finite_weight(model.parameters()) == parameter.name


def test_finite_run_is_repeated_to_its_end():
    model, plain = network(), network()
    assert repeat_until_failure(run_of(model)) is None
    plain.fit(X[:12], TARGETS[:12], batch_size=4, shuffle=False, verbose=0)
    assert model.step == 3
    assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in plain.get_weights()]


def test_bad_input_is_found_in_its_step():
    x = X[:12].copy()
    x[9, 1] = np.inf
    model = network()
    assert repeat_until_failure(run_of(model, x=x)) == "the inputs in step 2"
    assert model.step == 2
    assert non_finite_weight(model.parameters()) is None


def test_layer_whose_outputs_are_not_finite_is_named():
    x = X[:12].copy()
    x[5] = 60.0
    model = network(layers.ReLU(), Spoiled(name="spoiled"), layers.Dense(2))
    assert repeat_until_failure(run_of(model, x=x)) == "the outputs of spoiled in step 1"
    assert model.step == 1


def test_loss_that_overflows_is_named():
    model = network(layers.Dense(2), optimizer=SGD(0.0))
    found = repeat_until_failure(run_of(model, y=np.full((12, 2), 1e30)))
    assert found == "the loss in step 0"


class Overflows(Optimizer):
    """Updates that make the first weight infinite in update 1."""

    def rule(self, weights, gradients, rate, decay):
        if self.iterations == 1:
            weights[0] = np.inf


def test_update_that_overflows_is_named_and_undone():
    model = network(optimizer=Overflows(0.1))
    assert repeat_until_failure(run_of(model)) == "the update of first/weight in step 1"
    assert (model.step, model.optimizer.iterations) == (1, 1)
    assert non_finite_weight(model.parameters()) is None


def test_state_is_left_before_the_step_that_failed():
    x = X[:12].copy()
    x[9, 1] = np.nan
    model, plain = (network(optimizer=SGD(0.1, momentum=0.9)) for _ in range(2))
    repeat_until_failure(run_of(model, x=x))
    run = run_of(plain, x=x)
    run.begin_totals()
    step, batches = run.make_step(), run.batches_left()
    for _ in range(2):
        step(next(batches))
    assert changed_by_a_step(model) == changed_by_a_step(plain)


def test_repetition_begins_at_the_position():
    x = X[:12].copy()
    x[1, 1] = np.nan  # in the first batch, which is done
    model = network()
    run = run_of(model, x=x)
    run.state.count_steps()
    assert repeat_until_failure(run) is None
    assert model.step == 3
