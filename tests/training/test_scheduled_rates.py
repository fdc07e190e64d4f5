"""Dropout rates that are schedules: eager and recorded, resumed, split, and in each mode."""

import numpy as np
import pytest
from recorded_runs import EPOCHS, LABELS, RARE, X, assert_equal, check, fit, network, outcome
from small_models import bits

from minidl import Tensor, callbacks, layers, losses, models, optimizers, rng, training
from minidl.optimizers import schedules
from minidl.optimizers.schedules import PolynomialDecay

pytestmark = pytest.mark.needs_recordings

STEP = 7  # within the schedules, the last of them at 0.0
X1 = Tensor(np.ones((40, 50), "float32"))


def early(step):
    """Return a rate for the first steps only."""
    return 0.5 if step < STEP else 0.0


def stack(rate=None):
    """Return layers with three scheduled rates, one of which ends at 0, and one starts there."""
    return [
        layers.Dropout(rate or PolynomialDecay(0.0, 10, 0.5), input_shape=(6,)),
        layers.Dense(8, activation="relu"),
        layers.Dropout(PolynomialDecay(0.5, STEP, 0.0)),
        layers.Dense(5, activation="relu"),
        layers.Dropout(schedules.CosineDecay(0.5, 20), scaling="inference"),
        layers.Dense(3, activation="softmax"),
    ]


def masked(layer, **options):
    with training(**options):
        return layer(X1).numpy()


# ------------------------------------------------------------------------------ one call


@pytest.mark.parametrize("step", [0, 3, STEP - 1, STEP, STEP + 1])
@pytest.mark.parametrize("scaling", ["train", "inference"])
def test_scheduled_dropout_equals_dropout_at_the_rate_of_the_step(step, scaling, device):
    schedule = PolynomialDecay(0.7, STEP, 0.0, power=2)
    x = X1.to(device)
    with training(step=step):
        y = layers.Dropout(schedule, seed=3, scaling=scaling)(x).numpy()
        expected = layers.Dropout(schedule(step), seed=3, scaling=scaling)(x).numpy()
    assert y.tobytes() == expected.tobytes()


def test_scheduled_rate_without_a_given_step_is_that_of_the_layers_own_step():
    layer, steps = layers.Dropout(early, seed=3), [*range(STEP + 2)]
    found = [(masked(layer) == 0).any() for _ in steps]
    assert found == [step < STEP for step in steps]


def test_scheduled_rate_of_micro_batches_is_that_of_the_batch():
    layer = layers.Dropout(PolynomialDecay(0.1, 10, 0.9), seed=3)
    whole, parts = masked(layer, step=4), []
    for start, stop in ((0, 3), (3, 4), (4, 40)):
        with training(step=4, row_offset=start):
            parts.append(layer(X1[start:stop]).numpy())
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_gradient_of_scheduled_dropout_is_the_mask_of_its_step():
    layer, x = layers.Dropout(PolynomialDecay(0.1, 10, 0.9), seed=3), Tensor(X1.numpy())
    x.requires_grad = True
    with training(step=4):
        y = layer(x)
    y.sum().backward()
    assert x.grad.numpy().tobytes() == y.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scheduled_dropout_keeps_the_dtype(dtype):
    with training(step=2):
        y = layers.Dropout(lambda step: 0.25, seed=1)(X1.astype(dtype))
        expected = layers.Dropout(0.25, seed=1)(X1.astype(dtype))
    assert y.dtype == dtype
    assert y.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("rate", ["0.5", None, [0.5], PolynomialDecay, True])
def test_dropout_rejects_what_is_neither_number_nor_schedule(rate):
    with pytest.raises(TypeError, match=r"^Dropout: expected rate in \[0, 1\], got "):
        layers.Dropout(rate)


@pytest.mark.parametrize("value", [1.0, 1, -0.1, np.nan, "0.5", None, True])
def test_call_rejects_the_invalid_rate_of_a_schedule_and_changes_nothing(value):
    layer = layers.Dropout(lambda step: value if step == 5 else 0.5, seed=1, name="late")
    masked(layer, step=4)
    with pytest.raises(ValueError, match=r"^late: expected its rate .* \[0, 1\), got .* step 5\."):
        masked(layer)
    assert (layer.step, layer.stream) == (5, 0)


def test_overflow_of_a_schedule_is_an_invalid_rate():
    layer = layers.Dropout(lambda step: 1 / step, seed=1)
    with pytest.raises(ValueError, match=r"got ZeroDivisionError.* for step 0\."):
        masked(layer, step=0)


def test_repr_shows_the_schedule():
    layer = layers.Dropout(PolynomialDecay(0.5, 10, cycle=True))
    shown = "PolynomialDecay(initial_learning_rate=0.5, decay_steps=10, cycle=True)"
    assert repr(layer) == f"Dropout(rate={shown}, seed=None, stream=None, step=0)"
    assert "rate=early," in repr(layers.Dropout(early))


# ------------------------------------------------------------------------------ inference


def test_inference_scales_by_the_rate_of_the_layers_own_step():
    layer = layers.Dropout(PolynomialDecay(0.8, 8, 0.0), seed=3, scaling="inference")
    assert layer(X1[:1, :1]).item() == np.float32(0.2)
    masked(layer, step=3)
    assert layer(X1[:1, :1]).item() == np.float32(1 - 0.4)  # of step 4, the next one


@pytest.mark.parametrize("record", [True, pytest.param(False, marks=RARE)])
def test_draws_have_the_rate_of_the_layers_own_step(record, device):
    scheduled = fit(network(device, stack=stack()), epochs=1)
    fixed = network(device, stack=stack())
    fixed.set_weights(scheduled.get_weights())
    for layer in fixed.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = layer.rate_at(scheduled.step)
    found, expected = (
        model.predict(X, 7, verbose=0, samples=9, record=record) for model in (scheduled, fixed)
    )
    assert scheduled.recording.replays == (2 * 9 - 3) * record
    for mine, other in zip(found, expected, strict=True):
        assert mine.tobytes() == other.tobytes()
    assert (scheduled.streams()[0].step, found.std.max() > 0) == (scheduled.step, True)


def test_recorded_validation_scales_by_the_rate_of_its_epoch(device, tmp_path):
    def train(model, *used, record):
        return fit(model, *used, record=record, validation_data=(X, LABELS))

    def make():
        drop = layers.Dropout(schedules.CosineDecay(0.5, 20), scaling="inference")
        last = layers.Dense(3, activation="softmax")
        return network(device, stack=[layers.Input((6,)), drop, last])

    check(make, tmp_path, train=train)


# ------------------------------------------------------------------------------ training


def test_recorded_fit_equals_a_loop_by_hand(device):
    model, other = (network(device, stack=stack()) for _ in range(2))
    fit(model, shuffle=False, batch_size=7)
    assert model.recording.replays > 0
    x, y = (Tensor(array).to(device) for array in (X, LABELS))
    loss, optimizer = losses.get("sparse_categorical_crossentropy"), other.optimizer
    for step in range(model.step):
        rows = slice(7 * (step % 2), 7 * (step % 2) + 7)
        with training(step=step):
            error = loss(y[rows], other(x[rows]))
        error.backward()
        optimizer.update(other.parameters())
    assert np.allclose(model.get_weights()[0], other.get_weights()[0], rtol=1e-5, atol=1e-6)


class Fault(Exception):
    """The exception that breaks a run off."""


class At(callbacks.Callback):
    """Call ``action(model)`` after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.action(self.model)


def fail(model):
    raise Fault


@pytest.mark.parametrize("step", [6, *(pytest.param(step, marks=RARE) for step in (2, 9))])
def test_run_that_breaks_off_in_mid_schedule_resumes_to_eager_bits(step, device, tmp_path):
    model = network(device, stack=stack())
    with pytest.raises(Fault):
        fit(model, At(step, fail))
    model.save(tmp_path / "broken.safetensors")
    model = models.load(tmp_path / "broken.safetensors", device=device)
    assert repr(model.layers[2].rate) == repr(stack()[2].rate)
    fit(model, resume=True)
    assert model.recording.replays > 0
    assert_equal(model, fit(network(device, stack=stack()), record=False), tmp_path)


def replace_schedule(model):
    model.layers[0].rate = PolynomialDecay(0.9, 20, 0.1)


def change_schedule(model):
    model.layers[0].rate.end_learning_rate = 0.9


def set_number(model):
    model.layers[2].rate = 0.4


def set_schedule(model):
    model.layers[2].rate = PolynomialDecay(0.3, 3, 0.6)


@pytest.mark.parametrize(
    "action",
    [replace_schedule, change_schedule, set_number, set_schedule],
    ids=lambda a: a.__name__,
)
def test_recorded_step_follows_a_change_of_the_schedule(action, tmp_path):
    changed = [
        fit(network(stack=stack()), At(10, action), record=record) for record in (True, False)
    ]
    assert changed[0].recording.replays > 0
    assert_equal(*changed, tmp_path)
    assert bits(changed[0]) != bits(fit(network(stack=stack())))


def test_fit_stops_before_the_step_of_an_invalid_rate():
    def ending(step):
        return 0.5 if step < 6 else 1.0

    def run(record):
        model = network(stack=stack(ending))
        with pytest.raises(ValueError, match=r"^dropout: expected its rate .* got 1\.0 for step 6"):
            fit(model, record=record)
        assert (model.step, model.train_state.is_torn) == (6, False)
        assert [stream.step for stream in model.streams()] == [6] * 3
        return bits(model)

    assert run(record=True) == run(record=False)


def test_function_as_a_rate_is_not_saved_but_its_weights_are(tmp_path):
    model = fit(network(stack=stack(early)), epochs=1)
    with pytest.raises(TypeError, match=r"^save: expected .*early, a function"):
        model.save(tmp_path / "model.safetensors")
    model.save_weights(tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_user_function_as_a_rate_is_recorded_with_eager_bits():
    recorded, eager = (fit(network(stack=stack(early)), record=record) for record in (True, False))
    assert recorded.recording.replays > 0
    assert bits(recorded) == bits(eager)


def test_fit_ends_with_the_steps_of_all_epochs():
    model = fit(network(stack=stack()))
    assert model.layers[2].rate_at(model.step) == 0.0
    assert model.epoch == EPOCHS
    assert optimizers.Adam(PolynomialDecay(0.1, 4)).numbers(4)[0][0] != 0


def test_rate_of_a_stream_in_each_mode():
    stream = rng.RandomStream(seed=1)
    stream.step = 9
    assert stream.training_step == 9
    with training(step=4):
        assert stream.training_step == 4
    with training():
        assert stream.training_step == 9
    with rng.monte_carlo(sample=2, row_offset=0):
        assert stream.training_step == 9
    assert stream.moving is None


def test_outcome_of_scheduled_rates_is_a_file_with_the_schedules(tmp_path):
    first, second = (outcome(fit(network(stack=stack())), tmp_path) for _ in range(2))
    assert first == second
    assert b"CosineDecay" in first["file"]


def late(step):
    return 0.0 if step < 6 else 0.5


late.recordable = True
LATE = {
    "dropout": lambda: layers.Dropout(late),
    "shared by the step": lambda: layers.Dropout(late, (1, None)),
    "drop path": lambda: layers.DropPath(late),
    "alpha dropout": lambda: layers.AlphaDropout(late),
    "Gaussian dropout": lambda: layers.GaussianDropout(late),
    "drop connect": lambda: layers.DropConnect(8, late, activation="relu"),
}


@pytest.mark.parametrize("name", LATE)
def test_rate_that_is_0_when_a_step_is_recorded_gives_eager_bits(name):
    def trained(record):
        stack = [
            layers.Dense(8, "relu", input_shape=(6,)),
            LATE[name](),
            layers.Dense(3, "softmax"),
        ]
        return fit(network(stack=stack), record=record)

    recorded, eager = trained(True), trained(False)
    assert recorded.step > 6
    assert recorded.recording.replays > 0
    assert bits(recorded) == bits(eager)
