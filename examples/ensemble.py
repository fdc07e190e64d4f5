"""Weight scaling and the average of thinned networks: which average, and of how many.

The claim: a network with dropout is an ensemble of the exponentially many thinned networks that
share its weights, and one pass through the whole network with scaled weights stands for their
average. Srivastava et al., JMLR 15 (2014), section 7.5 and Figure 11: the test error of the average
of about 50 networks meets that of weight scaling, and stays within one standard deviation of it.

The errors meet, the probabilities need not: weight scaling approximates the normalised geometric
mean of the outputs (Baldi & Sadowski, "Understanding dropout", NIPS 2013), not the plain mean. So
both means are taken, and their probabilities of the class that weight scaling predicts are compared
with its own. A few test images decide the errors of one network, so several networks are trained.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import THEORY, WITH, WITHOUT, arguments, classifier, digits, finish, progress

from minidl import models, no_grad, rng

TINY = np.finfo("float32").tiny  # in place of 0, which has no logarithm
MEANS = {"plain mean": WITH, "geometric mean": WITHOUT}


def averages(model: models.Sequential, x: np.ndarray, draws: int):
    """Yield the plain and the normalised geometric mean of the first 1, 2, ... networks."""
    total, logs = 0.0, 0.0
    for draw in range(draws):
        with no_grad(), rng.monte_carlo(sample=draw, row_offset=0):
            outputs = model(x).numpy().astype("float64")
        total, logs = total + outputs, logs + np.log(np.maximum(outputs, TINY))
        product = np.exp(logs / (draw + 1))
        yield total / (draw + 1), product / product.sum(axis=1, keepdims=True)


def main() -> None:
    chosen = arguments(__doc__)
    units = 256 if chosen.quick else 512
    networks, epochs, draws = (4, 8, 60) if chosen.quick else (20, 12, 120)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    images, k, scaled = np.arange(len(y_test)), np.arange(1, draws + 1), np.empty((networks, 1))
    error, gap = np.empty((2, networks, draws)), np.empty((2, networks, draws, len(y_test)), "f4")
    for i in progress(range(networks)):
        model = classifier([(units, 0.5)] * 2, device=chosen.device, seed=chosen.seed + i)
        model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
        outputs = model.predict(x_test, batch_size=1000, verbose=0)
        answers = outputs.argmax(axis=1)
        scaled[i] = 100 * (answers != y_test).mean()
        for draw, means in enumerate(averages(model, x_test, draws)):
            for kind, mean in enumerate(means):
                error[kind, i, draw] = 100 * (mean.argmax(axis=1) != y_test).mean()
                gap[kind, i, draw] = 100 * (mean - outputs)[images, answers]

    deviation = (error - scaled).std(axis=1, ddof=1)
    near = np.abs((error - scaled).mean(axis=1))[0] <= deviation[0]
    # One more than was drawn stands for never.
    met = {"first": k[near].min(initial=draws + 1), "for_good": k[~near].max(initial=0) + 1}
    error, mean_gap = error.mean(axis=1), gap.mean(axis=(1, 3))
    median = np.median(np.abs(gap[:, :, -1]), axis=(1, 2))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.axhline(scaled.mean(), **THEORY, label="weight scaling: one pass")
    band = error[0] - deviation[0], error[0] + deviation[0]
    label = "± one s.d. of the difference to weight scaling"
    left.fill_between(k, *band, color=WITH["color"], alpha=0.2, label=label)
    right.axhline(0, **THEORY, label="weight scaling: one pass")
    for kind, (name, style) in enumerate(MEANS.items()):
        look = style | {"markevery": draws // 10, "label": f"{name} of k thinned networks"}
        left.plot(k, error[kind], **look)
        right.plot(k, mean_gap[kind], **look)
    low, high = min(scaled.mean(), error.min()), error[:, 1].max()
    left.set(ylabel="test error (%)", ylim=(low * 0.9, high * 1.05))
    right.set(ylabel="probability - that of weight scaling (points)")
    for panel in (left, right):
        panel.set(xlabel="k, thinned networks in the mean")
        panel.legend(fontsize=8)
    figure.suptitle(f"784-{units}-{units}-10, mean over {networks} trained networks")
    finish(
        chosen,
        figure,
        "The paper finds that about 50 thinned networks have the error of weight scaling; here "
        f"{draws} have {error[0, -1]:.2f} % and weight scaling {scaled.mean():.2f} %. The "
        f"probability is {mean_gap[0, -1]:+.2f} points from weight scaling's in the plain mean "
        f"and {mean_gap[1, -1]:+.2f} in the geometric mean.",
        weight_scaling_error_percent=scaled.mean(),
        error_percent={n: dict(zip(MEANS, error[:, n - 1], strict=True)) for n in (1, 10, draws)},
        standard_deviation_of_difference={n: deviation[0, n - 1] for n in (1, 10, draws)},
        within_one_deviation_at_k={when: int(at) for when, at in met.items()},
        mean_gap_points=dict(zip(MEANS, mean_gap[:, -1], strict=True)),
        median_absolute_gap_points=dict(zip(MEANS, median, strict=True)),
        networks=networks,
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
