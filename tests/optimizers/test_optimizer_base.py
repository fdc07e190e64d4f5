"""The base class of optimizers: flat buffers, learning rates, constraints, and rejected updates."""

import copy
import math
import re

import numpy as np
import pytest

from minidl import Tensor, layers, models
from minidl.constraints import MaxNorm
from minidl.optimizers import SGD, Adam, AdamW, Nadam, Optimizer, RMSprop, schedules


def two_weights(device="cpu", **arguments):
    """Return the weights of a model: a matrix and a vector."""
    model = models.Sequential(
        [layers.Dense(3, input_shape=(4,), bias_initializer="ones", **arguments)],
        device=device,
        dtype="float64",
    )
    return model.parameters()


def gradients_for(shape):
    return list(np.random.default_rng(1).normal(size=(7, *shape)))


def set_gradients(parameters, step):
    for parameter in parameters:
        values = gradients_for(parameter.shape)[step]
        parameter.grad = Tensor(values, device=parameter.device)


def update(optimizer, parameters, step):
    set_gradients(parameters, step)
    optimizer.update(parameters)


# ------------------------------------------------------------------------------ the flat buffer


def test_weights_are_views_of_one_buffer_after_update():
    parameters = two_weights()
    update(SGD(), parameters, 0)
    assert len({id(parameter.data.base) for parameter in parameters}) == 1


def test_set_weights_changes_the_buffer(device):
    model = models.Sequential([layers.Dense(3, input_shape=(4,))], device=device, dtype="float64")
    parameters, optimizer = model.parameters(), SGD(0.05, momentum=0.9)
    update(optimizer, parameters, 0)
    chosen = [np.full((4, 3), 2.0), np.full(3, -1.0)]
    model.set_weights(chosen)
    update(optimizer, parameters, 1)
    for p, start in zip(parameters, chosen, strict=True):
        g0, g1 = gradients_for(p.shape)[:2]
        np.testing.assert_allclose(p.numpy(), start + 0.9 * (-0.05 * g0) - 0.05 * g1, rtol=1e-12)


def test_two_optimizers_update_the_same_weights_in_turn(device):
    parameters = two_weights(device)
    starts = [p.numpy() for p in parameters]
    heavy, plain = SGD(0.05, momentum=0.9), SGD(0.05)
    for step, optimizer in enumerate((heavy, plain, heavy)):
        update(optimizer, parameters, step)
    for p, start in zip(parameters, starts, strict=True):
        g0, g1, g2 = gradients_for(p.shape)[:3]
        v0 = -0.05 * g0
        expected = start + v0 - 0.05 * g1 + (0.9 * v0 - 0.05 * g2)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


def test_update_uses_array_that_replaced_a_weight():
    parameters, optimizer = two_weights(), SGD(0.5)
    update(optimizer, parameters, 0)
    parameters[1].data = np.full(3, 7.0)
    update(optimizer, parameters, 1)
    np.testing.assert_allclose(parameters[1].numpy(), 7 - 0.5 * gradients_for((3,))[1])


def test_gradients_of_are_views_that_update_reads_without_copy(device):
    parameters, optimizer = two_weights(device), SGD(0.5)
    starts = [p.numpy() for p in parameters]
    arrays = optimizer.gradients_of(parameters)
    assert list(arrays) == parameters
    for p in parameters:
        arrays[p][...] = p.backend.asarray(gradients_for(p.shape)[0])
        p.grad = p.like(arrays[p])
    optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        np.testing.assert_allclose(p.numpy(), start - 0.5 * gradients_for(p.shape)[0], rtol=1e-12)


def test_gradients_of_frozen_weights_do_not_exist():
    parameters, optimizer = two_weights(), SGD()
    parameters[0].requires_grad = False
    assert list(optimizer.gradients_of(parameters)) == parameters[1:]
    parameters[1].requires_grad = False
    assert SGD().gradients_of(parameters) == {}


def test_copied_optimizer_has_its_own_buffers():
    parameters, optimizer = two_weights(), SGD(0.05, momentum=0.9)
    update(optimizer, parameters, 0)
    twin, twin_parameters = copy.deepcopy((optimizer, parameters))
    before = [p.numpy() for p in parameters]
    update(twin, twin_parameters, 1)
    assert all(np.array_equal(p.numpy(), w) for p, w in zip(parameters, before, strict=True))
    update(optimizer, parameters, 1)
    for p, other in zip(parameters, twin_parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), other.numpy())


def test_update_without_weights_does_nothing():
    optimizer = SGD()
    optimizer.update([])
    assert optimizer.iterations == 0


def test_frozen_weights_stay_and_others_are_trained():
    model = models.Sequential([layers.Dense(4, input_shape=(3,)), layers.Dense(2)], seed=1)
    for parameter in model.layers[0].parameters():
        parameter.requires_grad = False
    model.compile(SGD(0.1), "mse")
    before = model.get_weights()
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    after = model.get_weights()
    is_same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert is_same == [True, True, False, False]


def test_is_for_accepts_any_weights_first_and_then_the_same():
    first, second, optimizer = two_weights(), two_weights(), SGD()
    assert optimizer.is_for(first)
    assert optimizer.is_for(second)
    update(optimizer, first, 0)
    assert optimizer.is_for(first)
    assert not optimizer.is_for(second)
    assert not optimizer.is_for(first[:1])
    first[0].requires_grad = False
    assert not optimizer.is_for(first)


def test_restore_continues_with_given_iterations_and_state():
    parameters, twins = two_weights(), two_weights()
    optimizer, other = Adam(0.05), Adam(0.05)
    update(optimizer, parameters, 0)
    for p, twin in zip(parameters, twins, strict=True):
        twin.assign(p.data)
    state = {name: buffer.copy() for name, buffer in optimizer.state.items()}
    other.restore(twins, optimizer.iterations, state)
    update(optimizer, parameters, 1)
    update(other, twins, 1)
    assert other.iterations == 2
    for p, twin in zip(parameters, twins, strict=True):
        np.testing.assert_array_equal(p.numpy(), twin.numpy())


class SignDescent(Optimizer):
    """A rule of the user's own, with one buffer of state."""

    state_names = ("last",)

    def rule(self, weights, gradients, rate, decay):
        self.state["last"][...] = np.sign(gradients)
        weights -= rate * self.state["last"]


def test_custom_rule_updates_all_weights_at_once():
    parameters = two_weights()
    starts = [p.numpy() for p in parameters]
    update(SignDescent(0.25), parameters, 0)
    for p, start in zip(parameters, starts, strict=True):
        assert np.array_equal(p.numpy(), start - 0.25 * np.sign(gradients_for(p.shape)[0]))


# ------------------------------------------------------------------------------ rejected updates


def test_update_without_any_gradient_raises_and_changes_nothing():
    parameters, optimizer = two_weights(), SGD()
    before = [p.numpy() for p in parameters]
    names = "dense/weight, dense/bias"
    with pytest.raises(ValueError, match=rf"^SGD: expected a gradient.* {names}\. .*backward\(\)"):
        optimizer.update(parameters)
    assert all(np.array_equal(p.numpy(), w) for p, w in zip(parameters, before, strict=True))
    assert (optimizer.iterations, optimizer.is_changing) == (0, False)


OPTIMIZERS = [
    lambda: SGD(0.1, weight_decay=0.2),
    lambda: SGD(0.1, momentum=0.9, nesterov=True),
    lambda: RMSprop(0.1, weight_decay=0.2),
    lambda: Adam(0.1),
    lambda: AdamW(0.1, weight_decay=0.2),
    lambda: Adam(0.1, amsgrad=True),
    lambda: Nadam(0.1, clipnorm=0.1),
]


def values_of(optimizer, parameters, which):
    """Return a weight and its part of the optimizer's state, on the host."""
    parameter, size = parameters[which], parameters[0].size
    part = slice(0, size) if which == 0 else slice(size, None)
    backend = parameter.backend
    state = [backend.to_numpy(optimizer.state[name])[part] for name in optimizer.state_names]
    return [parameter.numpy().ravel(), *state]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_weight_without_a_gradient_stays_and_others_are_updated(make, which, device):
    def trained(with_gradients):
        parameters, optimizer = two_weights(device, kernel_constraint=MaxNorm(0.1)), make()
        for step, is_complete in enumerate(with_gradients):
            set_gradients(parameters, step)
            if not is_complete:
                parameters[which].grad = None
            optimizer.update(parameters)
        return optimizer, parameters

    optimizer, parameters = trained([True, False, False])
    one_step, after_one_step = trained([True])
    others, complete = trained([True, True, True])
    for found, expected in [
        (values_of(optimizer, parameters, which), values_of(one_step, after_one_step, which)),
        (values_of(optimizer, parameters, 1 - which), values_of(others, complete, 1 - which)),
    ]:
        assert [value.tobytes() for value in found] == [value.tobytes() for value in expected]
    assert list(optimizer.without_gradient) == [parameters[which].name]
    assert optimizer.iterations == 3


@pytest.mark.parametrize("others", ["fewer", "another model's"])
def test_update_of_other_weights_raises_and_changes_nothing(others):
    parameters, optimizer = two_weights(), SGD()
    update(optimizer, parameters, 0)
    second = parameters[:1] if others == "fewer" else two_weights()
    before = [p.numpy() for p in second]
    with pytest.raises(ValueError, match=r"^SGD: expected the 2 weights of the first update"):
        update(optimizer, second, 1)
    assert all(np.array_equal(p.numpy(), w) for p, w in zip(second, before, strict=True))
    assert (optimizer.iterations, optimizer.is_changing) == (1, False)


def test_update_of_float16_weights_raises_and_changes_nothing():
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], dtype="float16")
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(TypeError, match=r"^Adam: expected float32 or float64 weights, got float16"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert all((a == b).all() for a, b in zip(model.get_weights(), before, strict=True))


def test_is_changing_tells_that_a_rule_was_broken_off():
    class Broken(Optimizer):
        def rule(self, weights, gradients, rate, decay):
            seen.append(self.is_changing)
            raise KeyError

    seen, parameters, optimizer = [], two_weights(), Broken(0.1)
    with pytest.raises(KeyError):
        update(optimizer, parameters, 0)
    assert (seen, optimizer.is_changing, optimizer.iterations) == ([True], True, 0)
    for parameter in parameters:
        parameter.grad = None
    with pytest.raises(ValueError, match="expected a gradient"):
        optimizer.update(parameters)
    assert not optimizer.is_changing  # this update raised before any change


# ------------------------------------------------------------------------------ learning rates


@pytest.mark.parametrize("rate", [-0.1, float("nan"), math.inf, np.float32(-1)])
@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam, AdamW, Nadam])
def test_learning_rate_out_of_range_is_rejected(kind, rate):
    message = f"^{kind.__name__}: expected learning_rate .*got {re.escape(repr(rate))}"
    with pytest.raises(ValueError, match=message):
        kind(rate)
    optimizer = kind(0.5)
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5


@pytest.mark.parametrize("rate", ["0.1", schedules.CosineDecay, None])
def test_learning_rate_that_is_not_a_number_is_rejected(rate):
    optimizer, message = SGD(0.5), "^SGD: expected learning_rate to be .*LearningRateSchedule"
    with pytest.raises(TypeError, match=message):
        SGD(rate)
    with pytest.raises(TypeError, match=message):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5


def test_learning_rate_of_zero_changes_nothing_and_a_new_one_is_used():
    parameters, optimizer = two_weights(), SGD(0)
    starts = [p.numpy() for p in parameters]
    for step, rate in enumerate((None, np.array(0.0), schedules.CosineDecay(0.3, 2))):
        if rate is not None:
            optimizer.learning_rate = rate
        update(optimizer, parameters, step)
        for p, start in zip(parameters, starts, strict=True):
            np.testing.assert_array_equal(p.numpy(), start)
    optimizer.learning_rate = 0.5
    update(optimizer, parameters, 3)
    for p, start in zip(parameters, starts, strict=True):
        expected = start - 0.5 * gradients_for(p.shape)[3]
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam])
def test_numpy_learning_rate_has_same_bits_as_python_float(kind):
    def trained(rate):
        model = models.Sequential([layers.Dense(25, input_shape=(3,))])
        model.compile(kind(rate), "mse")
        model.fit(np.ones((8, 3)), np.zeros((8, 25)), batch_size=2, verbose=0)
        return model.get_weights()[0].tobytes()

    assert trained(np.float64(0.01)) == trained(0.01)


def test_schedule_is_called_with_number_of_update():
    seen = []

    class Recorder(schedules.LearningRateSchedule):
        def __call__(self, step):
            seen.append(step)
            return np.array(0.1)

    parameters, optimizer = two_weights(), SGD(Recorder())
    for step in range(3):
        update(optimizer, parameters, step)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("wrong", [None, -0.1, float("nan"), math.inf, "0.1"])
def test_update_with_invalid_rate_from_schedule_raises_and_changes_nothing(wrong):
    class Ending(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 if step == 0 else wrong

    parameters, optimizer = two_weights(), SGD(Ending())
    update(optimizer, parameters, 0)
    before = [p.numpy() for p in parameters]
    with pytest.raises(ValueError, match=f"^SGD: Ending: .*got {wrong!r} for update 1"):
        update(optimizer, parameters, 1)
    assert all((p.numpy() == values).all() for p, values in zip(parameters, before, strict=True))
    assert all(p.grad is not None for p in parameters)
    assert (optimizer.iterations, optimizer.is_changing) == (1, False)


class Pole(schedules.LearningRateSchedule):
    """A schedule that divides by zero at update 3."""

    def __call__(self, step):
        return 0.1 / (3 - step)


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        (schedules.ExponentialDecay(1e-3, 1, 1.5), 1751),
        (schedules.ExponentialDecay(1e-3, 1, 10.0, staircase=True), 309),
        (schedules.ExponentialDecay(1e-3, 10, 1e300), 11),
        (schedules.CosineDecay(1e200, 10, alpha=1e200), 1),
        (Pole(), 3),
    ],
)
def test_update_with_overflow_in_schedule_names_it_and_changes_nothing(schedule, first):
    parameters, optimizer = two_weights(), SGD(schedule)
    optimizer.iterations = first
    before = [p.numpy() for p in parameters]
    who = f"^SGD: {type(schedule).__name__}: .*for update {first}. Correct its"
    with pytest.raises(ValueError, match=who):
        update(optimizer, parameters, 0)
    assert all((p.numpy() == values).all() for p, values in zip(parameters, before, strict=True))
    assert optimizer.iterations == first


# ------------------------------------------------------------------------------ constraints


def test_constraint_is_applied_after_each_update(device):
    parameters, optimizer = two_weights(device, kernel_constraint=MaxNorm(0.7)), SGD(0.05)
    expected = [p.numpy() for p in parameters]
    for step in range(7):
        update(optimizer, parameters, step)
        w, b = (value - 0.05 * gradients_for(value.shape)[step] for value in expected)
        norm = np.sqrt((w**2).sum(axis=0))
        w = w * np.minimum(1, 0.7 / norm)
        expected = [w, b]
        assert np.linalg.norm(parameters[0].numpy(), axis=0).max() <= 0.7 * (1 + 1e-15 * 8)
        np.testing.assert_allclose(parameters[0].numpy(), w, rtol=1e-12)
        np.testing.assert_allclose(parameters[1].numpy(), b, rtol=1e-12)


@pytest.mark.parametrize("order", [1, -1])
def test_update_rejects_weights_of_two_dtypes_and_changes_none(order):
    parameters = []
    for dtype in ("float32", "float64")[::order]:
        dense = layers.Dense(1, input_shape=(2,))
        parameters += models.Sequential([dense], dtype=dtype, name=dtype).parameters()
    before = [parameter.numpy() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = Tensor(np.ones(parameter.shape), dtype=parameter.dtype)
    with pytest.raises(ValueError, match=r"^SGD: expected weights of one dtype, got float32 and"):
        SGD(0.1).update(parameters)
    for parameter, values in zip(parameters, before, strict=True):
        assert parameter.dtype == values.dtype
        assert (parameter.numpy() == values).all()
