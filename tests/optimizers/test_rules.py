"""Update rules by formulas for one array, each written from its source."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, models, optimizers
from minidl.optimizers import SGD, Adam, AdamW, Nadam, Optimizer, RMSprop, schedules

STEPS = 5


# ------------------------------------------------------------------------------ formulas


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


def adamw(w, gradients, rates, weight_decay=0.004):
    """Loshchilov & Hutter, ICLR 2019, algorithm 2, with the decay of Keras."""
    return adam(w, gradients, rates, weight_decay=weight_decay)


def amsgrad(w, gradients, rates, beta_2=0.999, weight_decay=0.0, amsgrad=True):
    """Reddi et al., ICLR 2018, algorithm 2, with the bias corrections and epsilon of Keras."""
    m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        w = w - rate * weight_decay * w
        m = 0.9 * m + 0.1 * g
        v = beta_2 * v + (1 - beta_2) * g**2
        largest = np.maximum(largest, v)
        w = w - rate * np.sqrt(1 - beta_2**t) / (1 - 0.9**t) * m / (np.sqrt(largest) + 1e-7)
    return w


def nadam(w, gradients, rates, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.0):
    """Dozat, ICLR workshop 2016, algorithm 2, with the momentum of Keras."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    momenta = beta_1 * (1 - 0.5 * 0.96 ** np.arange(1, len(gradients) + 2))
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        w = w - rate * weight_decay * w
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        ahead = momenta[t] * m / (1 - momenta[: t + 1].prod())
        ahead += (1 - momenta[t - 1]) * g / (1 - momenta[:t].prod())
        w = w - rate * ahead / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
    return w


# For each class: options, and the formula, which takes the same options.
OPTIMIZERS = {
    "SGD": [
        (SGD, {}, sgd),
        (SGD, {"momentum": 0.9}, sgd),
        (SGD, {"momentum": 0.9, "nesterov": True}, sgd),
        (SGD, {"momentum": 0.5, "weight_decay": 0.1}, sgd),
    ],
    "RMSprop": [
        (RMSprop, {}, rmsprop),
        (RMSprop, {"rho": 0.5, "epsilon": 0.1, "weight_decay": 0.1}, rmsprop),
    ],
    "Adam": [
        (Adam, {}, adam),
        (Adam, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1, "weight_decay": 0.1}, adam),
    ],
    "Nadam": [
        (Nadam, {}, nadam),
        (Nadam, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1, "weight_decay": 0.1}, nadam),
    ],
    "AdamW": [
        (AdamW, {"amsgrad": True, "beta_2": 0.5, "weight_decay": 0.3}, amsgrad),
        (AdamW, {}, adamw),
        (AdamW, {"weight_decay": 0.3}, adamw),
    ],
}
CASES = [
    pytest.param(*row, id=f"{name}{number}")
    for name, rows in OPTIMIZERS.items()
    for number, row in enumerate(rows)
]
every_case = pytest.mark.parametrize(("kind", "options", "formula"), CASES)


def two_weights(device="cpu", dtype="float64"):
    """Return the weights of a model: a matrix and a vector."""
    model = models.Sequential(
        [layers.Dense(3, input_shape=(4,), bias_initializer="ones")], device=device, dtype=dtype
    )
    return model.parameters()


def gradients_for(shape):
    return list(np.random.default_rng(1).normal(size=(STEPS, *shape)))


def set_gradients(parameters, step):
    for parameter in parameters:
        values = gradients_for(parameter.shape)[step].astype(parameter.dtype)
        parameter.grad = Tensor(values, device=parameter.device)


def test_table_names_every_optimizer():
    public = {
        name
        for name, value in vars(optimizers).items()
        if isinstance(value, type) and issubclass(value, Optimizer)
    }
    assert set(OPTIMIZERS) == public - {"Optimizer"}


@pytest.mark.parametrize(
    "learning_rate",
    [
        pytest.param(0.05, id="constant"),
        pytest.param(schedules.ExponentialDecay(0.05, 3, 0.5), id="schedule"),
    ],
)
@every_case
def test_updates_equal_formula(kind, options, formula, learning_rate, device):
    parameters = two_weights(device)
    starts = [p.numpy() for p in parameters]
    optimizer = kind(learning_rate, **options)
    for step in range(STEPS):
        set_gradients(parameters, step)
        optimizer.update(parameters)
        assert all(p.grad is None for p in parameters)
    rates = [
        learning_rate(step) if callable(learning_rate) else learning_rate for step in range(STEPS)
    ]
    for p, start in zip(parameters, starts, strict=True):
        expected = formula(start, gradients_for(p.shape), rates, **options)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-11)
        assert not np.allclose(p.numpy(), start)
    assert optimizer.iterations == STEPS


@every_case
def test_float32_weights_and_state_stay_float32(kind, options, formula, device):
    parameters = two_weights(device, "float32")
    start = parameters[0].numpy()
    optimizer = kind(0.05, **options)
    for step in range(STEPS):
        set_gradients(parameters, step)
        optimizer.update(parameters)
    assert {p.dtype for p in parameters} == {np.dtype("float32")}
    assert {buffer.dtype for buffer in optimizer.state.values()} <= {np.dtype("float32")}
    rates, gradients = [0.05] * STEPS, gradients_for((4, 3))
    expected = formula(start.astype("float64"), gradients, rates, **options)
    np.testing.assert_allclose(parameters[0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_momentum_can_be_set_after_the_first_update(device):
    parameters, optimizer = two_weights(device), SGD(0.1)
    starts = [p.numpy() for p in parameters]
    for step in range(STEPS):
        optimizer.momentum = 0.0 if step < 3 else 0.9
        set_gradients(parameters, step)
        optimizer.update(parameters)
    for p, start in zip(parameters, starts, strict=True):
        gradients = gradients_for(p.shape)
        expected = sgd(start, gradients[:3], [0.1] * 3)
        expected = sgd(expected, gradients[3:], [0.1] * (STEPS - 3), momentum=0.9)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


def test_adam_finds_minimum_of_quadratic_loss():
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


# ------------------------------------------------------------------------------ arguments


def test_default_learning_rates_are_those_of_keras():
    rates = [kind().learning_rate for kind in (SGD, RMSprop, Adam, AdamW)]
    assert rates == [0.01, 0.001, 0.001, 0.001]


def test_positional_arguments_are_those_of_keras():
    adamw = AdamW(0.1, 0.2, 0.3, 0.4)
    assert (adamw.weight_decay, adamw.beta_1, adamw.beta_2) == (0.2, 0.3, 0.4)
    with pytest.raises(TypeError, match="positional"):
        RMSprop(0.1, 0.9, 0.9)  # the third one of Keras is the momentum


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (SGD, "momentum", -0.1, r"in \[0, 1\)"),
        (SGD, "momentum", 1.0, r"in \[0, 1\)"),
        (SGD, "momentum", float("nan"), r"in \[0, 1\)"),
        (SGD, "weight_decay", -1, r"in \[0, inf\)"),
        (SGD, "weight_decay", float("inf"), r"in \[0, inf\)"),
        (RMSprop, "rho", 5, r"in \[0, 1\)"),
        (RMSprop, "epsilon", -1e-9, r"in \[0, inf\)"),
        (Adam, "beta_1", 1.0, r"in \[0, 1\)"),
        (Adam, "beta_2", -0.1, r"in \[0, 1\)"),
        (Adam, "epsilon", -1, r"in \[0, inf\)"),
        (AdamW, "weight_decay", float("nan"), r"in \[0, inf\)"),
    ],
)
def test_hyperparameter_out_of_range_is_rejected(kind, name, value, expected):
    message = rf"^{kind.__name__}: expected {name} {expected}, got {value}"
    with pytest.raises(ValueError, match=message):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", SGD), ("RMSprop", RMSprop), ("Adam", Adam), ("adamw", AdamW)]
)
def test_get_returns_optimizer_of_that_name(name, kind):
    assert type(optimizers.get(name)) is kind
    own = kind()
    assert optimizers.get(own) is own


def test_get_rejects_unknown_optimizer_with_the_names():
    with pytest.raises(ValueError, match=r"^optimizer: expected an Optimizer or one of .*'ada'"):
        optimizers.get("ada")
