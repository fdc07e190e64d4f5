"""Optimizers against formulas for one array; the flat buffer, constraints and schedules."""

import itertools
import math
import pickle
import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, models, optimizers
from minidl.constraints import MaxNorm
from minidl.engine import backward as autograd
from minidl.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, schedules

STEPS = 7


# ------------------------------------------------------------------------------ the formulas
# Each is written from its source, for one array, as a loop over the gradients.


def sgd(w, gradients, rates, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Polyak's momentum in Keras' form; Sutskever et al., ICML 2013, for nesterov."""
    velocity = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        w = w - rate * weight_decay * w
        velocity = momentum * velocity - rate * g
        w = w + (momentum * velocity - rate * g if nesterov else velocity)
    return w


def rmsprop(w, gradients, rates, rho=0.9, epsilon=1e-7, weight_decay=0.0):
    """Hinton, lecture 6e, with Keras' epsilon under the root."""
    square = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        w = w - rate * weight_decay * w
        square = rho * square + (1 - rho) * g**2
        w = w - rate * g / np.sqrt(square + epsilon)
    return w


def adam(w, gradients, rates, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.0):
    """Kingma & Ba, ICLR 2015: the end of section 2, with epsilon hat as in Keras."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        w = w - rate * weight_decay * w
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        rate_t = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        w = w - rate_t * m / (np.sqrt(v) + epsilon)
    return w


# A new optimizer needs rows: its class, options, its formula, and the formula's options.
OPTIMIZERS = {
    "SGD": [
        (SGD, {}, sgd, {}),
        (SGD, {"momentum": 0.9}, sgd, {"momentum": 0.9}),
        (
            SGD,
            {"momentum": 0.9, "nesterov": True},
            sgd,
            {"momentum": 0.9, "nesterov": True},
        ),
        (
            SGD,
            {"momentum": 0.5, "weight_decay": 0.1},
            sgd,
            {"momentum": 0.5, "weight_decay": 0.1},
        ),
    ],
    "RMSprop": [
        (RMSprop, {}, rmsprop, {}),
        (
            RMSprop,
            {"rho": 0.5, "epsilon": 0.1, "weight_decay": 0.1},
            rmsprop,
            {"rho": 0.5, "epsilon": 0.1, "weight_decay": 0.1},
        ),
    ],
    "Adam": [
        (Adam, {}, adam, {}),
        (
            Adam,
            {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1, "weight_decay": 0.1},
            adam,
            {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1, "weight_decay": 0.1},
        ),
    ],
    "AdamW": [
        (AdamW, {}, adam, {"weight_decay": 0.004}),
        (AdamW, {"weight_decay": 0.3}, adam, {"weight_decay": 0.3}),
    ],
}
CASES = [
    pytest.param(*row, id=f"{name}{number}")
    for name, rows in OPTIMIZERS.items()
    for number, row in enumerate(rows)
]
RATES = [
    pytest.param(0.05, id="constant"),
    pytest.param(schedules.ExponentialDecay(0.05, 3, 0.5), id="schedule"),
]


def two_weights(device="cpu", dtype="float64"):
    """Return the parameters of a model, which are a matrix and a vector."""
    model = models.Sequential(
        [layers.Dense(3, input_shape=(4,), bias_initializer="ones")], device=device, dtype=dtype
    )
    return model.parameters()


def gradients_of(shape):
    return list(np.random.default_rng(1).normal(size=(STEPS, *shape)))


def give(parameters, step):
    """Leave the gradient of that step at each parameter."""
    for p in parameters:
        values = gradients_of(p.shape)[step].astype(p.dtype)
        p.grad = Tensor(values, device=p.device)


def test_every_optimizer_has_rows():
    public = {
        name
        for name, value in vars(optimizers).items()
        if isinstance(value, type) and issubclass(value, Optimizer)
    }
    assert set(OPTIMIZERS) == public - {"Optimizer"}


@pytest.mark.parametrize("learning_rate", RATES)
@pytest.mark.parametrize(("kind", "options", "formula", "formula_options"), CASES)
def test_updates_follow_the_formula(kind, options, formula, formula_options, learning_rate, device):
    parameters = two_weights(device)
    starts = [p.numpy() for p in parameters]
    optimizer = kind(learning_rate, **options)
    for step in range(STEPS):
        give(parameters, step)
        optimizer.update(parameters)
        assert all(p.grad is None for p in parameters)
    rates = [
        learning_rate(step) if callable(learning_rate) else learning_rate for step in range(STEPS)
    ]
    for p, start in zip(parameters, starts, strict=True):
        expected = formula(start, gradients_of(p.shape), rates, **formula_options)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-11)
        assert not np.allclose(p.numpy(), start)
    assert optimizer.iterations == STEPS


@pytest.mark.parametrize(("kind", "options", "formula", "formula_options"), CASES)
def test_float32_stays_float32(kind, options, formula, formula_options, device):
    parameters = two_weights(device, "float32")
    start = parameters[0].numpy()
    optimizer = kind(0.05, **options)
    for step in range(STEPS):
        give(parameters, step)
        optimizer.update(parameters)
    assert {p.dtype for p in parameters} == {np.dtype("float32")}
    assert {buffer.dtype for buffer in optimizer.state.values()} <= {np.dtype("float32")}
    expected = formula(
        start.astype("float64"), gradients_of((4, 3)), [0.05] * STEPS, **formula_options
    )
    np.testing.assert_allclose(parameters[0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_defaults_are_those_of_keras():
    assert [kind().learning_rate for kind in (SGD, RMSprop, Adam, AdamW)] == [
        0.01,
        0.001,
        0.001,
        0.001,
    ]


def test_optimizers_by_name():
    for name, kind in (("sgd", SGD), ("RMSprop", RMSprop), ("Adam", Adam), ("adamw", AdamW)):
        assert type(optimizers.get(name)) is kind
    mine = SGD()
    assert optimizers.get(mine) is mine
    with pytest.raises(ValueError, match=r"optimizer: expected an Optimizer or .*'ada'"):
        optimizers.get("ada")


@pytest.mark.parametrize("rate", [-0.1, float("nan"), math.inf, np.float32(-1)])
@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam, AdamW])
def test_a_learning_rate_below_0_or_not_finite_is_refused(kind, rate):
    message = (
        f"{kind.__name__}: learning_rate must be a number, 0 or above and finite, or a "
        f"LearningRateSchedule, received {re.escape(repr(rate))}"
    )
    with pytest.raises(ValueError, match=message):
        kind(rate)
    optimizer = kind(0.5)
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"SGD: momentum must be in \[0, 1\), received"):
        SGD(momentum=momentum)


# ------------------------------------------------------------------------------ the flat buffer


def test_a_missing_gradient_is_named_and_nothing_changes():
    parameters = two_weights()
    before = [p.numpy() for p in parameters]
    parameters[0].grad = Tensor(np.ones((4, 3)))
    optimizer = SGD()
    with pytest.raises(ValueError, match=r"SGD: no gradient for dense/bias; call backward\(\)"):
        optimizer.update(parameters)
    assert all(np.array_equal(p.numpy(), w) for p, w in zip(parameters, before, strict=True))
    assert optimizer.iterations == 0


@pytest.mark.parametrize("others", ["fewer", "another model's"])
def test_other_parameters_than_the_first_are_refused(others):
    parameters, optimizer = two_weights(), SGD()
    give(parameters, 0)
    optimizer.update(parameters)
    second = parameters[:1] if others == "fewer" else two_weights()
    before = [p.numpy() for p in second]
    give(second, 1)
    with pytest.raises(ValueError, match="SGD: expected the 2 weights of the first update"):
        optimizer.update(second)
    assert all(np.array_equal(p.numpy(), w) for p, w in zip(second, before, strict=True))


def test_weights_are_views_of_one_buffer():
    parameters, optimizer = two_weights(), SGD()
    give(parameters, 0)
    optimizer.update(parameters)
    owners = {id(p.data.base) for p in parameters}
    assert len(owners) == 1


def test_set_weights_reaches_the_buffer(device):
    model = models.Sequential([layers.Dense(3, input_shape=(4,))], device=device, dtype="float64")
    parameters, optimizer = model.parameters(), SGD(0.05, momentum=0.9)
    give(parameters, 0)
    optimizer.update(parameters)
    chosen = [np.full((4, 3), 2.0), np.full(3, -1.0)]
    model.set_weights(chosen)
    give(parameters, 1)
    optimizer.update(parameters)
    for p, start in zip(parameters, chosen, strict=True):
        g0, g1 = gradients_of(p.shape)[:2]
        np.testing.assert_allclose(p.numpy(), start + 0.9 * (-0.05 * g0) - 0.05 * g1, rtol=1e-12)


def test_two_optimizers_take_turns(device):
    parameters = two_weights(device)
    starts = [p.numpy() for p in parameters]
    heavy, plain = SGD(0.05, momentum=0.9), SGD(0.05)
    for step, optimizer in enumerate((heavy, plain, heavy)):
        give(parameters, step)
        optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        g0, g1, g2 = gradients_of(p.shape)[:3]
        v0 = -0.05 * g0
        expected = start + v0 - 0.05 * g1 + (0.9 * v0 - 0.05 * g2)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


def test_a_parameter_that_was_replaced_is_taken_up():
    parameters, optimizer = two_weights(), SGD(0.5)
    give(parameters, 0)
    optimizer.update(parameters)
    parameters[1].data = np.full(3, 7.0)
    give(parameters, 1)
    optimizer.update(parameters)
    np.testing.assert_allclose(parameters[1].numpy(), 7 - 0.5 * gradients_of((3,))[1])


def test_no_parameters_are_no_update():
    optimizer = SGD()
    optimizer.update([])
    assert optimizer.iterations == 0


def test_frozen_weights_stay_and_the_others_learn():
    model = models.Sequential([layers.Dense(4, input_shape=(3,)), layers.Dense(2)], seed=1)
    frozen = model.layers[0].parameters()
    for parameter in frozen:
        parameter.requires_grad = False
    model.compile(SGD(0.1), "mse")
    before = model.get_weights()
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    after = model.get_weights()
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


# ------------------------------------------------------------------------------ changes in place


def one_weight(device="cpu"):
    """Return a model whose output is the sum of two inputs, to begin with."""
    ones = layers.Dense(
        1, input_shape=(2,), kernel_initializer="ones", use_bias=False, name="plain"
    )
    return models.Sequential([ones], device=device)


def update_once(model):
    model(Tensor([[1.0, 1.0]], device=model.device)).sum().backward()
    SGD(0.5).update(model.parameters())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(update_once, id="update"),
        pytest.param(lambda m: m.set_weights([[[3.0], [4.0]]]), id="set_weights"),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_backward_refuses_a_result_of_weights_that_changed_since(change, frozen, device):
    model = one_weight(device)
    update_once(model)  # from now on the weight is a view, and changes in place
    x = Tensor([[1.0, 2.0]], device=device, requires_grad=True)
    bystander = Tensor(1.0, device=device, requires_grad=True)
    (weight,) = model.parameters()
    loss = model(x).sum() * bystander
    change(model)
    weight.requires_grad = not frozen
    message = (
        r"backward: plain/weight was changed in place after matmul had used it; call backward\(\) "
        r"before update\(\) or set_weights\(\), or compute the result again"
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            loss.backward()
        assert x.grad is weight.grad is bystander.grad is None
    model(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), weight.numpy().T)


def test_results_of_weights_that_changed_before_or_elsewhere_have_gradients(device):
    first, second = one_weight(device), one_weight(device)
    x = Tensor([[1.0, 2.0]], device=device)
    for step in range(3):
        losses_of_both = [model(x).sum() for model in (first, second)]
        again = first(x).sum()
        for loss in (losses_of_both[0], again):  # gradients add up
            loss.backward()
        SGD(0.5).update(first.parameters())
        losses_of_both[1].backward()
        SGD(0.5).update(second.parameters())
        gradients = (step + 1) * np.array([[1.0], [2.0]])
        np.testing.assert_array_equal(first.get_weights()[0], 1 - 0.5 * 2 * gradients)
        np.testing.assert_array_equal(second.get_weights()[0], 1 - 0.5 * gradients)


def test_a_pickled_weight_has_gradients_in_a_process_that_counts_anew(monkeypatch):
    model = one_weight()
    update_once(model)
    model = pickle.loads(pickle.dumps(model))
    monkeypatch.setattr(autograd, "next_number", itertools.count().__next__)
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    model(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0.5, 0.5]])


def test_a_momentum_may_be_given_later(device):
    parameters, optimizer = two_weights(device), SGD(0.1)
    starts = [p.numpy() for p in parameters]
    for step in range(STEPS):
        optimizer.momentum = 0.0 if step < 3 else 0.9
        give(parameters, step)
        optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        gradients = gradients_of(p.shape)
        expected = sgd(start, gradients[:3], [0.1] * 3)
        expected = sgd(expected, gradients[3:], [0.1] * (STEPS - 3), momentum=0.9)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


def test_a_rule_of_ones_own():
    class SignDescent(Optimizer):
        state_names = ("last",)

        def rule(self, weights, gradients, rate, decay):
            self.state["last"][...] = np.sign(gradients)
            weights -= rate * self.state["last"]

    parameters, optimizer = two_weights(), SignDescent(0.25)
    starts = [p.numpy() for p in parameters]
    give(parameters, 0)
    optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        assert np.array_equal(p.numpy(), start - 0.25 * np.sign(gradients_of(p.shape)[0]))


def test_adam_finds_the_minimum_of_a_bowl():
    model = models.Sequential([layers.Dense(1, input_shape=(2,))], seed=1, dtype="float64")
    x = np.random.default_rng(0).normal(size=(64, 2))
    y = x @ [[2.0], [-3.0]] + 0.5
    optimizer, loss = Adam(0.1), losses.MeanSquaredError()
    for step in range(300):
        with minidl.training(step=step):
            error = loss(y, model(x))
        error.backward()
        optimizer.update(model.parameters())
    np.testing.assert_allclose(model.get_weights()[0], [[2.0], [-3.0]], atol=1e-3)


# ------------------------------------------------------------------------------ MaxNorm


def test_max_norm_after_each_update(device):
    constraint = MaxNorm(0.7)
    model = models.Sequential(
        [layers.Dense(3, kernel_constraint=constraint, input_shape=(4,))],
        device=device,
        dtype="float64",
    )
    parameters, optimizer = model.parameters(), SGD(0.05)
    expected = model.get_weights()
    for step in range(STEPS):
        give(parameters, step)
        optimizer.update(parameters)
        w, b = (value - 0.05 * gradients_of(value.shape)[step] for value in expected)
        norm = np.sqrt((w**2).sum(axis=0))
        w = w * np.minimum(1, 0.7 / norm)
        expected = [w, b]
        assert np.linalg.norm(parameters[0].numpy(), axis=0).max() <= 0.7 * (1 + 1e-15 * 8)
        np.testing.assert_allclose(parameters[0].numpy(), w, rtol=1e-12)
        np.testing.assert_allclose(parameters[1].numpy(), b, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_within_the_ball_keep_their_bits(backend, dtype):
    host = np.random.default_rng(0).normal(size=(50, 40)).astype(dtype)
    host[:, 7:9] = 0
    norms = np.sqrt((host * host).sum(axis=0))
    limit = float(np.median(norms))  # half of the columns are within, one of them at the edge
    weight = backend.asarray(host.copy())
    MaxNorm(limit).apply(weight, backend)
    after = backend.to_numpy(weight)
    inside = norms <= limit
    assert 20 <= inside.sum() < 40
    assert np.array_equal(after[:, inside], host[:, inside])
    np.testing.assert_allclose(np.linalg.norm(after[:, ~inside], axis=0), limit, rtol=1e-6)


def test_max_norm_over_another_axis(backend):
    weight = backend.asarray(np.array([[3.0, 4.0], [0.3, 0.4]]))
    MaxNorm(1.0, axis=1).apply(weight, backend)
    np.testing.assert_allclose(backend.to_numpy(weight), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-15)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_ball_without_room_is_refused(limit):
    with pytest.raises(ValueError, match=f"MaxNorm: max_value must be above 0, received {limit}"):
        MaxNorm(limit)


# ------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 25, 1000])
def test_schedules_follow_their_formulas(step):
    assert schedules.ExponentialDecay(0.1, 10, 0.5)(step) == 0.1 * 0.5 ** (step / 10)
    assert schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True)(step) == 0.1 * 0.5 ** (
        step // 10
    )
    assert schedules.InverseTimeDecay(0.1, 10, 0.5)(step) == 0.1 / (1 + 0.5 * step / 10)
    assert schedules.InverseTimeDecay(0.1, 10, 0.5, staircase=True)(step) == 0.1 / (
        1 + 0.5 * (step // 10)
    )
    done = min(step, 10) / 10
    cosine = 0.1 * (0.8 * (1 + math.cos(math.pi * done)) / 2 + 0.2)
    assert schedules.CosineDecay(0.1, 10, alpha=0.2)(step) == pytest.approx(cosine, rel=1e-12)
    piecewise = schedules.PiecewiseConstantDecay([9, 20], [0.3, 0.2, 0.1])(step)
    assert piecewise == (0.3 if step <= 9 else 0.2 if step <= 20 else 0.1)


def test_a_cosine_ends_at_alpha():
    assert schedules.CosineDecay(0.1, 10)(10) == 0
    assert schedules.CosineDecay(0.1, 10, alpha=0.5)(11) == pytest.approx(0.05)


def test_boundaries_and_values_must_agree():
    message = "PiecewiseConstantDecay: 1 boundaries need 2 values, received 1"
    with pytest.raises(ValueError, match=message):
        schedules.PiecewiseConstantDecay([5], [0.1])


def test_a_schedule_of_ones_own_counts_updates():
    seen = []

    class Recorder(schedules.LearningRateSchedule):
        def __call__(self, step):
            seen.append(step)
            return np.array(0.1)

    parameters, optimizer = two_weights(), SGD(Recorder())
    for step in range(3):
        give(parameters, step)
        optimizer.update(parameters)
    assert seen == [0, 1, 2]


def test_positions_are_those_of_keras():
    adamw = optimizers.AdamW(0.1, 0.2, 0.3, 0.4)
    assert (adamw.weight_decay, adamw.beta_1, adamw.beta_2) == (0.2, 0.3, 0.4)
    with pytest.raises(TypeError, match="positional"):
        optimizers.RMSprop(0.1, 0.9, 0.9)  # Keras' third is momentum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.Adam(beta_1=1.0), r"Adam: beta_1 must be in \[0, 1\), received 1.0"),
        (lambda: optimizers.RMSprop(rho=5), r"RMSprop: rho must be in \[0, 1\), received 5"),
        (lambda: optimizers.Adam(epsilon=-1), "Adam: epsilon must be 0 or above, received -1"),
        (
            lambda: optimizers.SGD(float("inf")),
            "SGD: learning_rate must be a number, 0 or above and finite, or a .*, received inf",
        ),
        (lambda: optimizers.SGD(weight_decay=-1), "SGD: weight_decay must be 0 or above"),
        (
            lambda: optimizers.schedules.CosineDecay(0.1, 0),
            "CosineDecay: decay_steps must be above 0, received 0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("rate", ["0.1", lambda step: 0.1, None])
def test_a_learning_rate_is_a_number_or_a_schedule(rate):
    optimizer, message = optimizers.SGD(0.5), "SGD: learning_rate must be a number, 0 or above"
    with pytest.raises(TypeError, match=message):
        optimizers.SGD(rate)
    with pytest.raises(TypeError, match=message):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5


def test_a_learning_rate_of_0_changes_nothing_and_one_that_is_set_is_used():
    parameters, optimizer = two_weights(), SGD(0)
    starts = [p.numpy() for p in parameters]
    for step, rate in enumerate((None, np.array(0.0), schedules.CosineDecay(0.3, 2))):
        if rate is not None:
            optimizer.learning_rate = rate
        give(parameters, step)
        optimizer.update(parameters)
        for p, start in zip(parameters, starts, strict=True):
            np.testing.assert_array_equal(p.numpy(), start)
    optimizer.learning_rate = 0.5
    give(parameters, 3)
    optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        expected = start - 0.5 * gradients_of(p.shape)[3]
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("wrong", [None, -0.1, float("nan"), math.inf, "0.1"])
def test_a_schedule_that_gives_no_learning_rate_is_refused_and_nothing_changes(wrong):
    class Ending(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 if step == 0 else wrong

    parameters, optimizer = two_weights(), SGD(Ending())
    give(parameters, 0)
    optimizer.update(parameters)
    before = [p.numpy() for p in parameters]
    give(parameters, 1)
    message = (
        f"SGD: Ending must return a number, 0 or above and finite, received {wrong!r} for update 1"
    )
    with pytest.raises(ValueError, match=message):
        optimizer.update(parameters)
    assert all((p.numpy() == values).all() for p, values in zip(parameters, before, strict=True))
    assert all(p.grad is not None for p in parameters)
    assert optimizer.iterations == 1


def test_what_keras_has_and_minidl_not_is_refused_by_name():
    with pytest.raises(TypeError, match="Adam: clipnorm is not in minidl: scale"):
        optimizers.Adam(clipnorm=1.0)
    optimizers.Adam(clipnorm=None)  # asks for nothing


def test_float16_weights_are_not_trained():
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], dtype="float16")
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(TypeError, match="Adam: float16 weights cannot be trained"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert all((a == b).all() for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("make", [optimizers.SGD, optimizers.RMSprop, optimizers.Adam])
def test_a_numpy_learning_rate_gives_the_same_bits(make):
    def trained(rate):
        model = models.Sequential([layers.Dense(25, input_shape=(3,))])
        model.compile(make(rate), "mse")
        model.fit(np.ones((8, 3)), np.zeros((8, 25)), batch_size=2, verbose=0)
        return model.get_weights()[0].tobytes()

    assert trained(np.float64(0.01)) == trained(0.01)


def test_a_norm_of_float16_does_not_overflow():
    weight = np.full((4, 2), 200, "float16")
    MaxNorm(3.0).apply(weight, minidl.get_backend("cpu"))
    assert weight.tolist() == [[1.5, 1.5]] * 4
