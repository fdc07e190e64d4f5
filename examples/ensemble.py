"""Weight scaling stands for an ensemble: how many thinned networks must be averaged to meet it.

The claim: a network with dropout is an ensemble of the exponentially many thinned networks that
share its weights, and one pass through the whole network with scaled weights approximates the mean
of their predictions. Srivastava et al., JMLR 15 (2014), section 7.5 and Figure 11: the average of
about 50 samples meets weight scaling, and larger ones are within one standard deviation of it.

What one trained network shows is decided by a few test images, so several are trained, each from a
seed of its own, and the two errors of each are compared: they meet where the mean difference is no
larger than its standard deviation over the networks, first at one k, and for good from another on.
"""

import numpy as np
from common import PIXELS, THEORY, WITH, arguments, classifier, digits, finish, loss_and_error, plt

from minidl import models, no_grad, rng


def errors_of_averages(model: models.Sequential, x: np.ndarray, y: np.ndarray, draws: int) -> list:
    """Return the test error in percent of the average of the first 1, 2, ... thinned networks."""
    total, errors = 0.0, []
    for draw in range(draws):
        with no_grad(), rng.monte_carlo(sample=draw, row_offset=0):
            total = total + model(x).numpy()
        errors.append(100 * float((total.argmax(axis=1) != y).mean()))
    return errors


def main() -> None:
    chosen = arguments(__doc__)
    hidden = [(256, 0.5)] * 2 if chosen.quick else [(512, 0.5)] * 2
    networks, epochs, draws = (4, 8, 60) if chosen.quick else (20, 12, 120)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    by_scaling, by_average = [], []
    for seed in range(chosen.seed, chosen.seed + networks):
        model = classifier(hidden, device=chosen.device, seed=seed)
        model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
        by_scaling.append(loss_and_error(model, x_test, y_test)[1])
        by_average.append(errors_of_averages(model, x_test, y_test, draws))

    scaled, mean = np.mean(by_scaling), np.mean(by_average, axis=0)
    difference = np.array(by_average) - np.array(by_scaling)[:, None]
    deviation = difference.std(axis=0, ddof=1)
    k = np.arange(1, draws + 1)
    near = np.abs(difference.mean(axis=0)) <= deviation
    # One more than was drawn stands for never.
    met = {"first": k[near].min(initial=draws + 1), "for_good": k[~near].max(initial=0) + 1}

    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.axhline(scaled, **THEORY, label="weight scaling: one pass")
    axes.plot(k, mean, **WITH | {"markevery": 10}, label="mean of k thinned networks")
    label = "± one s.d. of the difference to weight scaling"
    band = mean - deviation, mean + deviation
    axes.fill_between(k, *band, color=WITH["color"], alpha=0.2, label=label)
    name = f"{PIXELS}-{'-'.join(str(units) for units, _ in hidden)}-10"
    axes.set(
        xlabel="k, thinned networks in the average",
        ylabel="test error (%)",
        ylim=(min(scaled, mean.min()) * 0.9, mean[1] * 1.05),
        title=f"{name}, mean over {networks} trained networks",
    )
    axes.legend()
    shown = (1, 5, 10, 20, 50, draws)
    finish(
        chosen,
        figure,
        weight_scaling_error_percent=scaled,
        monte_carlo_error_percent={n: mean[n - 1] for n in shown},
        standard_deviation_of_difference={n: deviation[n - 1] for n in shown},
        within_one_deviation_at_k={when: int(at) for when, at in met.items()},
        networks=networks,
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
