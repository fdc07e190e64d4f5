"""Dropout in linear regression is ridge regression: trained weights against the closed form.

The claim: dropping inputs of a linear model is, in expectation, a penalty on its weights that is
larger for the inputs that vary more. With inverted dropout of rate q the expected squared error is
||y - Xw||^2 + q/(1-q) ||Gamma w||^2, Gamma^2 the diagonal of X'X, and it is least at
w = (X'X + q/(1-q) Gamma^2)^-1 X'y. Srivastava et al., JMLR 15 (2014), section 9.1, where p = 1 - q.

Here the inputs are digits, averaged to 4 x 4 pixels, and the ten targets say which digit it is.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import THEORY, WITH, arguments, digits, finish, progress

import minidl
from minidl import Tensor, layers, losses, models, optimizers

ROWS = 20_000  # in an update: each image several times, so that only masks are left to chance


def small_digits(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return 16 pixels, each with mean square 1, and one-hot targets.

    The scale of an input changes nothing but the speed: dropout and its penalty scale with it.
    """
    (x, y), _ = digits(quick)
    x = x.reshape(len(x), 4, 7, 4, 7).mean(axis=(2, 4)).reshape(len(x), 16)[:10_000]
    return x / np.sqrt((x * x).mean(axis=0)), np.eye(10, dtype="float32")[y[:10_000]]


def closed_form(x: np.ndarray, y: np.ndarray, rate: float) -> np.ndarray:
    """Return the weights of ridge regression with dropout's penalty."""
    x, y = x.astype("float64"), y.astype("float64")
    gram = x.T @ x
    return np.linalg.solve(gram + rate / (1 - rate) * np.diag(np.diag(gram)), x.T @ y)


def trained(x: np.ndarray, y: np.ndarray, rate: float, updates: int, chosen) -> np.ndarray:
    """Return the weights around which gradient descent moves with dropout on the inputs."""
    model = models.Sequential(
        [layers.Input((16,)), layers.Dropout(rate), layers.Dense(10, use_bias=False)],
        device=chosen.device,
        seed=chosen.seed,
    )
    times = ROWS // len(x)
    x, y = (Tensor(np.tile(part, (times, 1)), chosen.device) for part in (x, y))
    optimizer, loss = optimizers.SGD(0.2, momentum=0.9), losses.MeanSquaredError()
    arrived, total = updates // 5, 0.0
    for step in range(updates):
        with minidl.training(step=step):
            error = loss(y, model(x))
        error.backward()
        optimizer.update(model.parameters())
        if step >= arrived:
            total = total + model.get_weights()[0].astype("float64")
    return total / (updates - arrived)


def main() -> None:
    chosen = arguments(__doc__)
    updates = 400 if chosen.quick else 4000
    rates = [0.2, 0.5] if chosen.quick else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    x, y = small_digits(chosen.quick)
    unpenalised = closed_form(x, y, 0.0)

    difference, from_unpenalised, norms = {}, {}, {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4))
    for rate in progress(rates, "rate"):
        expected, found = closed_form(x, y, rate), trained(x, y, rate, updates, chosen)
        length = np.linalg.norm(expected)
        difference[rate] = np.linalg.norm(found - expected) / length
        from_unpenalised[rate] = np.linalg.norm(unpenalised - expected) / length
        norms[rate] = np.linalg.norm(found)
        if rate == 0.5:
            left.plot(expected.ravel(), found.ravel(), **WITH | {"linestyle": ""})
            ends = [expected.min(), expected.max()]
            left.plot(ends, ends, **THEORY, label="equal")
    left.set(xlabel="weight, closed form", ylabel="weight, trained", title="Each weight, rate 0.5")
    left.legend()

    fine = np.linspace(0.02, 0.95, 60)
    curve = [np.linalg.norm(closed_form(x, y, rate)) for rate in fine]
    right.plot(fine, curve, **THEORY, label="ridge regression, closed form")
    right.plot(rates, list(norms.values()), **WITH | {"linestyle": ""}, label="dropout, trained")
    right.set(xlabel="dropout rate", ylabel="Euclidean norm of all weights", title="The penalty")
    right.legend()
    finish(
        chosen,
        figure,
        "The paper derives that dropout in linear regression is ridge regression; here trained "
        f"weights are within {100 * max(difference.values()):.2f} % of the closed form.",
        largest_relative_difference=max(difference.values()),
        relative_difference=difference,
        relative_difference_without_penalty=from_unpenalised,
        images=len(x),
        updates=updates,
    )


if __name__ == "__main__":
    main()
