"""Step: forward, backward, exchange, update, count, in this order."""

import numpy as np
import pytest
from small_models import TARGETS, X, bits

from minidl import Tensor, layers, models, rng
from minidl.batches import Samples
from minidl.constraints import MaxNorm
from minidl.optimizers import SGD, AdamW, Optimizer
from minidl.trainer.fusion import Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.position import run_arguments
from minidl.trainer.state import TrainState
from minidl.trainer.step import Step
from minidl.trainer.totals import Totals

SAMPLES = Samples(X[:8], TARGETS[:8])


def network(optimizer="sgd"):
    """Return a compiled model with dropout and a constraint."""
    stack = [layers.Dense(4, "tanh", input_shape=(6,), kernel_constraint=MaxNorm(0.5))]
    model = models.Sequential([*stack, layers.Dropout(0.5), layers.Dense(2)], seed=3)
    model.compile(optimizer, "mse")
    return model


def begun(model, kind=Step):
    """Return a step of a run that has begun, and the batch of all samples."""
    state = model.train_state
    state.begin_run(run_arguments(SAMPLES, None, batch_size=8, shuffle=False), 0)
    plan = Plan(model.layers, model.backend, model.dtype, SAMPLES, model.loss, model.metrics)
    state.totals = Totals(plan.columns, model.backend)
    (batch,) = plan.feed.batches(8)
    return kind(state, plan, Interrupts()), batch


def values(model):
    """Return everything that a step changes, as comparable values."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in model.train_state.state().items()
    }


def test_step_forwards_backwards_exchanges_updates_and_counts_in_this_order(monkeypatch):
    order = []

    def record(kind, name, label):
        method = getattr(kind, name)

        def recorded(*arguments, **options):
            order.append(label)
            return method(*arguments, **options)

        monkeypatch.setattr(kind, name, recorded)

    record(Plan, "compare", "forward")
    record(Tensor, "backward", "backward")
    record(Step, "exchange", "exchange")
    record(Optimizer, "update", "update")
    record(TrainState, "count_steps", "count")
    step, batch = begun(network())
    step(batch)
    assert order == ["forward", "backward", "exchange", "update", "count"]


def test_step_counts_and_adds_to_the_totals(device):
    model = models.Sequential([layers.Dense(2, input_shape=(6,))], device=device)
    model.compile("sgd", "mse")
    loss = model.evaluate(X[:8], TARGETS[:8], verbose=0)
    step, batch = begun(model)
    step(batch)
    state = model.train_state
    assert (state.step, state.epoch, state.progress.position.batch) == (1, 1, 1)
    assert state.totals["loss"] == pytest.approx(loss, rel=1e-6)
    assert state.is_torn is False


def test_step_equals_a_hand_written_update():
    model, plain = network(SGD(0.1)), network(SGD(0.1))
    step, batch = begun(model)
    step(batch)
    with rng.training(step=0):
        loss = plain.loss(TARGETS[:8], plain(X[:8]))
    loss.backward()
    plain.optimizer.update(plain.parameters())
    assert bits(model) == bits(plain)


def test_exchange_sees_gradients_and_unchanged_weights():
    seen = []

    class Watching(Step):
        def exchange(self):
            seen.append([(p.numpy(), p.grad.numpy()) for p in self.trained])

    model = network(SGD(0.1))
    before = model.get_weights()
    step, batch = begun(model, Watching)
    step(batch)
    ((*pairs,),) = seen
    assert [weight.tobytes() for weight, _ in pairs] == [weight.tobytes() for weight in before]
    assert all(gradient.any() for _, gradient in pairs)
    moved = before[-1] - 0.1 * pairs[-1][1]
    np.testing.assert_allclose(model.get_weights()[-1], moved, rtol=1e-6)


def test_exchange_that_changes_gradients_in_place_changes_the_update():
    class Halved(Step):
        def exchange(self):
            for parameter in self.trained:
                parameter.grad.data[...] *= 0.5

    half, whole = network(SGD(0.2)), network(SGD(0.1))
    for model, kind in ((half, Halved), (whole, Step)):
        step, batch = begun(model, kind)
        step(batch)
    for a, b in zip(half.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_step_forgets_gradients_that_were_left():
    model, plain = network(), network()
    step, batch = begun(model)
    model.parameters()[0].grad = Tensor(np.full((6, 4), 1e9, "float32"))
    step(batch)
    step, batch = begun(plain)
    step(batch)
    assert bits(model) == bits(plain)


def test_step_leaves_frozen_weights():
    model = network()
    model.parameters()[0].requires_grad = False
    before = bits(model)
    step, batch = begun(model)
    step(batch)
    after = bits(model)
    assert after[0] == before[0]
    assert all(a != b for a, b in zip(after[1:], before[1:], strict=True))


def failing(*_, **__):
    raise OverflowError("a fault")


def broken_off(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Plan, "compare"), (Tensor, "backward"), (Step, "exchange"), (Optimizer, "numbers")],
    ids=["forward", "backward", "exchange", "learning rate"],
)
def test_exception_before_the_update_changes_nothing(kind, name, monkeypatch):
    model = network("adam")
    step, batch = begun(model)
    step(batch)
    before = values(model)
    monkeypatch.setattr(kind, name, failing)
    with pytest.raises(OverflowError, match="a fault"):
        step(batch)
    monkeypatch.undo()
    after = values(model)
    # A stream may have drawn; the next step draws at the same address.
    del before["random/step"], after["random/step"]
    assert after == before
    assert model.train_state.is_torn is False
    assert not rng.is_training()


@pytest.mark.parametrize("ends", [failing, broken_off])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SGD, "rule"),
        (MaxNorm, "apply"),
        (Totals, "add"),
        (TrainState, "count_steps"),
    ],
)
def test_exception_in_the_update_makes_the_state_torn(kind, name, ends, monkeypatch):
    model = network()
    step, batch = begun(model)
    step(batch)
    monkeypatch.setattr(kind, name, ends)
    with pytest.raises((OverflowError, KeyboardInterrupt)):
        step(batch)
    state = model.train_state
    assert state.is_torn is True
    assert step.interrupts.is_held is False
    assert (state.step, state.progress.position.batch) == (1, 1)
    assert "update was interrupted" in state.why_not_resumable()


def test_next_update_ends_the_torn_state(monkeypatch):
    model = network()
    step, batch = begun(model)
    monkeypatch.setattr(SGD, "rule", failing)
    with pytest.raises(OverflowError):
        step(batch)
    monkeypatch.undo()
    step(batch)
    assert model.train_state.is_torn is False


def test_sigint_is_held_exactly_during_update_and_count(monkeypatch):
    held = {}

    def record(kind, name):
        method = getattr(kind, name)

        def recorded(*arguments, **options):
            held[name] = step.interrupts.is_held
            return method(*arguments, **options)

        monkeypatch.setattr(kind, name, recorded)

    for kind, name in (
        (Plan, "compare"),
        (Tensor, "backward"),
        (Step, "exchange"),
        (Optimizer, "update"),
        (TrainState, "count_steps"),
    ):
        record(kind, name)
    step, batch = begun(network())
    step(batch)
    assert held == {
        "compare": False,
        "backward": False,
        "exchange": False,
        "update": True,
        "count_steps": True,
    }
    assert step.interrupts.is_held is False


def test_batches_of_a_feed_are_not_changed_by_a_step():
    model = network()
    step, batch = begun(model)
    before = batch.x.numpy(), batch.y.numpy()
    step(batch)
    assert np.array_equal(batch.x.numpy(), before[0])
    assert np.array_equal(batch.y.numpy(), before[1])


# ------------------------------------------------------------------------------ no gradient


class WithSpare(models.Model):
    """A model with a layer that no loss depends on, or only every second call in training."""

    def __init__(self, every=None, **arguments):
        super().__init__(**arguments)
        self.used, self.spare = layers.Dense(2, name="used"), layers.Dense(2, name="spare")
        self.every, self.calls = every, 0

    def call(self, x):
        used, spare = self.used(x), self.spare(x)
        if self.every is None or not rng.is_training():
            return used
        self.calls += 1
        return used + spare if self.calls % self.every == 0 else used


def spare_model(every=None, optimizer=None, device="cpu"):
    model = WithSpare(every, seed=1, device=device)
    model.build((None, 6))
    model.compile(optimizer or AdamW(0.1, weight_decay=0.3), "mse")
    return model


def fit_spare(model, **arguments):
    with pytest.warns(UserWarning, match=r"^fit: .*spare/weight, spare/bias\. They stayed") as said:
        model.fit(X[:8], TARGETS[:8], 4, verbose=0, **arguments)
    assert (len(said), said[0].filename) == (1, __file__)
    return model


def test_fit_leaves_weights_that_no_loss_depends_on_and_warns_once(device):
    model = spare_model(device=device)
    before = bits(model)
    fit_spare(model, epochs=3)
    after = bits(model)
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, False, True, True]
    only = models.Sequential([layers.Dense(2, name="used")], seed=1, device=device)
    only.compile(AdamW(0.1, weight_decay=0.3), "mse")
    only.fit(X[:8], TARGETS[:8], 4, epochs=3, verbose=0)
    assert bits(only) == after[:2]


def test_fit_updates_weights_in_the_steps_that_use_them():
    model = spare_model(every=2)
    before = bits(model)
    fit_spare(model, epochs=2)
    assert all(a != b for a, b in zip(bits(model), before, strict=True))
    assert list(model.optimizer.without_gradient) == []  # the next run warns anew


def test_fit_without_a_gradient_for_frozen_weights_does_not_warn():
    model = spare_model()
    for parameter in model.spare.parameters():
        parameter.requires_grad = False
    model.fit(X[:8], TARGETS[:8], 4, verbose=0)


def test_run_with_weights_without_gradient_resumes_to_equal_bits():
    whole, parts = fit_spare(spare_model(), epochs=4), fit_spare(spare_model(), epochs=2)
    fit_spare(parts, epochs=4, resume=True)
    assert bits(parts) == bits(whole)
