"""Layers, losses, optimizers and whole trainings, compared with PyTorch.

PyTorch's own dropout draws other bits, so minidl's masks are multiplied in.
"""

import numpy as np
import pytest
from layer_table import ROWS, STEP

import minidl
from minidl import Tensor, layers, losses, models, optimizers, rng

torch = pytest.importorskip("torch", reason="the oracle is PyTorch: pip install 'minidl[oracle]'")
torch.set_num_threads(1)  # its threads would compete with those of minidl
functional = torch.nn.functional

SEED = 3


@pytest.fixture(scope="module", autouse=True)
def whole_torch():
    """Import what the first optimizer of PyTorch imports, before the double replaces CuPy."""
    torch.optim.SGD([torch.zeros(1)], 0.1)


def numbers(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def mask_of(shape, rate, stream=0, step=0):
    return torch.from_numpy(rng.keep_mask(shape, rate, seed=SEED, stream=stream, step=step))


# ------------------------------------------------------------------------------ layers


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.in_torch])
def test_layer_agrees_in_value_and_gradients(name, device):
    row = ROWS[name]
    model = models.Sequential([row.make()], device=device)
    x = Tensor(numbers(row.shape), device=device, requires_grad=True)
    with minidl.training(step=STEP):
        y = model(x)
    gradient = numbers(y.shape, seed=1)
    y.backward(Tensor(gradient, device=device))

    theirs = [torch.tensor(w, requires_grad=True) for w in (x.numpy(), *model.get_weights())]
    expected = row.in_torch(torch, *theirs)
    expected.backward(torch.from_numpy(gradient))
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    for ours, their in zip([x, *model.parameters()], theirs, strict=True):
        if not ours.requires_grad:  # a moving average
            assert ours.grad is their.grad is None
            continue
        np.testing.assert_allclose(ours.grad.numpy(), their.grad.numpy(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------ losses

LABELS = np.array([0, 4, 2, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(5), 4).astype("float32")


@pytest.mark.parametrize(
    ("loss", "y", "function"),
    [
        (
            losses.SparseCategoricalCrossentropy(from_logits=True),
            LABELS,
            lambda x: functional.cross_entropy(x, torch.from_numpy(LABELS)),
        ),
        (
            losses.CategoricalCrossentropy(from_logits=True),
            SOFT,
            lambda x: functional.cross_entropy(x, torch.from_numpy(SOFT)),
        ),
        (
            losses.MeanSquaredError(),
            SOFT,
            lambda x: functional.mse_loss(x, torch.from_numpy(SOFT)),
        ),
    ],
    ids=["sparse", "dense", "mse"],
)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_loss_agrees_in_value_and_gradient(loss, y, function, size, device):
    values = numbers((4, 5)) * np.float32(size)
    ours = Tensor(values, device=device, requires_grad=True)
    value = loss(Tensor(y, device=device), ours)
    value.backward()
    theirs = torch.tensor(values, requires_grad=True)
    expected = function(theirs)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------ optimizers


def keras_epsilon(optimizer, step, epsilon=1e-7, beta_2=0.999):
    """Set the epsilon of PyTorch's Adam that equals Keras' constant one in this step.

    Keras adds it to the root of the uncorrected mean square, PyTorch to that of the corrected one.
    """
    for group in optimizer.param_groups:
        if "betas" in group:
            group["eps"] = epsilon / (1 - beta_2 ** (step + 1)) ** 0.5


# RMSprop has no epsilon here: Keras adds it under the root, PyTorch outside of it.
OPTIMIZERS = {
    "sgd": (lambda: optimizers.SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (
        lambda: optimizers.SGD(0.05, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    ),
    "nesterov": (
        lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    ),
    "rmsprop": (
        lambda: optimizers.RMSprop(0.01, epsilon=0.0),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=0.0),
    ),
    "adam": (lambda: optimizers.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adamw": (
        lambda: optimizers.AdamW(0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_agrees(name, device):
    make, make_theirs = OPTIMIZERS[name]
    model = models.Sequential(
        [layers.Dense(3, input_shape=(4,))], device=device, dtype="float64", seed=SEED
    )
    theirs = [torch.tensor(w, requires_grad=True) for w in model.get_weights()]
    ours, their_optimizer = make(), make_theirs(theirs)
    for step in range(10):
        for parameter, their in zip(model.parameters(), theirs, strict=True):
            gradient = numbers(parameter.shape, "float64", seed=step)
            parameter.grad = Tensor(gradient, device=device)
            their.grad = torch.from_numpy(gradient)
        ours.update(model.parameters())
        keras_epsilon(their_optimizer, step)
        their_optimizer.step()
    for weight, their in zip(model.get_weights(), theirs, strict=True):
        np.testing.assert_allclose(weight, their.detach().numpy(), rtol=1e-10, atol=1e-13)


# ------------------------------------------------------------------------------ trainings

X = numbers((40, 6), "float64", seed=8)
CLASSES = np.random.default_rng(9).integers(0, 3, 40)
RATES = (0.25, 0.5)


def network(rates, device):
    """Return minidl's model; PyTorch's weights below are copies of its initial ones."""
    return models.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(6,)),
            *([layers.Dropout(rates[0])] if rates else []),
            layers.Dense(12, activation="tanh"),
            *([layers.Dropout(rates[1])] if rates else []),
            layers.Dense(3, activation="softmax"),
        ],
        seed=SEED,
        dtype="float64",
        device=device,
    )


def their_loss(weights, x, labels, rates, step):
    """Return the loss of the same network in PyTorch, with minidl's masks multiplied in."""
    w0, b0, w1, b1, w2, b2 = weights

    def drop(x, layer):
        if not rates:
            return x
        return x * mask_of(tuple(x.shape), rates[layer], layer, step) / (1 - rates[layer])

    x = drop(torch.relu(torch.from_numpy(x) @ w0 + b0), 0)
    x = drop(torch.tanh(x @ w1 + b1), 1)
    return functional.cross_entropy(x @ w2 + b2, torch.from_numpy(labels))


def check_training(name, rates, steps, device):
    """Compare losses of `steps` updates, and the weights after them."""
    make, make_theirs = OPTIMIZERS[name]
    model = network(rates, device)
    theirs = [torch.tensor(w, requires_grad=True) for w in model.get_weights()]
    their_optimizer = make_theirs(theirs)
    model.compile(make(), "sparse_categorical_crossentropy")
    ours = model.fit(X, CLASSES, batch_size=40, epochs=steps, shuffle=False, verbose=0)

    expected = []
    for step in range(steps):
        their_optimizer.zero_grad()
        loss = their_loss(theirs, X, CLASSES, rates, step)
        loss.backward()
        keras_epsilon(their_optimizer, step)
        their_optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(ours.history["loss"], expected, rtol=1e-9)
    for weight, their in zip(model.get_weights(), theirs, strict=True):
        np.testing.assert_allclose(weight, their.detach().numpy(), rtol=1e-9, atol=1e-9)
    assert expected[-1] < expected[0]


every_training = pytest.mark.parametrize(
    ("name", "rates"),
    [
        pytest.param(name, rates, id=f"{name}-{'dropout' if rates else 'plain'}")
        for name in ("sgd", "nesterov", "adam")
        for rates in ((), RATES)
    ],
)


@every_training
def test_twenty_steps_agree_on_the_cpu(name, rates):
    check_training(name, rates, 20, "cpu")


@pytest.mark.parametrize(("name", "rates"), [("nesterov", ()), ("adam", RATES)])
def test_five_steps_agree(name, rates, device):
    check_training(name, rates, 5, device)


@pytest.mark.slow
@every_training
def test_twenty_steps_agree(name, rates, device):
    check_training(name, rates, 20, device)


def test_twenty_steps_with_both_normalisations_agree(device):
    """PyTorch averages variances with the divisor n - 1, minidl and Keras with n."""
    stack = [layers.Dense(8, "gelu", input_shape=(6,)), layers.BatchNormalization(epsilon=1e-5)]
    stack += [layers.Dense(5), layers.LayerNormalization(epsilon=1e-5), layers.Activation("silu")]
    stack += [layers.Dense(3)]
    model = models.Sequential(stack, seed=SEED, dtype="float64", device=device)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.SGD(0.1, momentum=0.9), loss)
    weights = [torch.from_numpy(weight.T) for weight in model.get_weights()]
    theirs = torch.nn.Sequential(
        *(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.BatchNorm1d(8, momentum=0.01)),
        *(torch.nn.Linear(8, 5), torch.nn.LayerNorm(5), torch.nn.SiLU(), torch.nn.Linear(5, 3)),
    ).double()
    state = theirs.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    theirs.load_state_dict(state | dict(zip(names, weights, strict=True)))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    expected = []
    for _ in range(20):
        optimizer.zero_grad()
        value = functional.cross_entropy(theirs(torch.from_numpy(X)), torch.from_numpy(CLASSES))
        value.backward()
        optimizer.step()
        expected.append(value.item())
    options = {"batch_size": 40, "epochs": 20, "shuffle": False, "verbose": 0}
    history = model.fit(X, CLASSES, **options).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-9)
    for name, weight in zip(names, model.get_weights(), strict=True):
        their = theirs.state_dict()[name].numpy().T
        if name.endswith("running_var"):
            first = 0.99**20  # the share of the initial 1
            their = first + (their - first) * 39 / 40
        np.testing.assert_allclose(weight, their, rtol=1e-8, atol=1e-9, err_msg=name)
    theirs.eval()
    assert abs(theirs(torch.from_numpy(X)).detach().numpy() - model.predict(X)).max() < 0.1


def test_losses_without_the_masks_or_with_others_differ():
    model = network(RATES, "cpu")
    theirs = [torch.tensor(w) for w in model.get_weights()]
    with minidl.training(step=5):
        ours = losses.SparseCategoricalCrossentropy()(CLASSES, model(X)).item()
    assert ours == pytest.approx(their_loss(theirs, X, CLASSES, RATES, 5).item(), rel=1e-12)
    assert ours != pytest.approx(their_loss(theirs, X, CLASSES, (), 5).item(), rel=1e-3)
    assert ours != pytest.approx(their_loss(theirs, X, CLASSES, RATES, 6).item(), rel=1e-3)
