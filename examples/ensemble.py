"""Weight scaling stands for an ensemble: how many thinned networks must be averaged to meet it.

The claim: a network with dropout is an ensemble of the exponentially many thinned networks that
share its weights, and one pass through the whole network with scaled weights approximates the mean
of their predictions. Srivastava et al., JMLR 15 (2014), section 7.5 and Figure 11: the average of
about 50 samples meets weight scaling, and larger ones are within one standard deviation of it.
"""

import numpy as np
from common import PIXELS, THEORY, WITH, arguments, classifier, digits, finish, loss_and_error, plt

from minidl import models, no_grad, rng


def errors_of_averages(
    model: models.Sequential, x: np.ndarray, y: np.ndarray, draws: int, repeat: int
) -> list[float]:
    """Return the test error in percent of the average of the first 1, 2, ... thinned networks."""
    total, errors = 0.0, []
    for draw in range(draws):
        with no_grad(), rng.monte_carlo(sample=repeat * draws + draw, row_offset=0):
            total = total + model(x).numpy()
        errors.append(100 * float((total.argmax(axis=1) != y).mean()))
    return errors


def main() -> None:
    chosen = arguments(__doc__)
    hidden = [(256, 0.5)] * 2 if chosen.quick else [(512, 0.5)] * 2
    epochs, draws, repeats = (8, 60, 4) if chosen.quick else (12, 120, 5)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    model = classifier(hidden, device=chosen.device, seed=chosen.seed)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    _, scaled = loss_and_error(model, x_test, y_test)

    runs = [errors_of_averages(model, x_test, y_test, draws, repeat) for repeat in range(repeats)]
    mean, deviation = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1)
    k = np.arange(1, draws + 1)
    near = np.abs(mean - scaled) <= deviation
    # In percent of the test images one wrong answer more is the least there is to tell apart.
    meets = int(k[near][0]) if near.any() else None

    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.axhline(scaled, **THEORY, label="weight scaling: one pass")
    axes.plot(
        k, mean, **WITH | {"markevery": 10}, label=f"mean of k thinned networks ({repeats} runs)"
    )
    axes.fill_between(
        k, mean - deviation, mean + deviation, color=WITH["color"], alpha=0.2, label="± one s.d."
    )
    axes.set(
        xlabel="k, thinned networks in the average",
        ylabel="test error (%)",
        ylim=(min(scaled, mean.min()) * 0.9, mean[1] * 1.05),
        title=f"{PIXELS}-{'-'.join(str(units) for units, _ in hidden)}-10",
    )
    axes.legend()
    finish(
        chosen,
        figure,
        weight_scaling_error_percent=scaled,
        monte_carlo_error_percent={n: mean[n - 1] for n in (1, 5, 10, 20, 50, draws)},
        standard_deviation={n: deviation[n - 1] for n in (1, 5, 10, 20, 50, draws)},
        meets_at_k=meets,
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
