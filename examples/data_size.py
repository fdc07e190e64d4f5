"""The gain of dropout against the size of the data set.

The claim: with very few images dropout brings nothing, since a large network overfits them in spite
of it. The gain grows with the data up to a point, and declines after it. Srivastava et al.,
JMLR 15 (2014), section 7.4 and Figure 10: 784-1024-1024-2048-10 on 100 to 50,000 images; no gain at
100 and 500.

The network is 784-512-512-10 here. Small sizes, whose errors depend on which images they are, are
trained on several sets.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import WITH, WITHOUT, arguments, classifier, digits, finish, loss_and_error, progress

from minidl.optimizers import schedules

BATCH_SIZE = 100
# images: (epochs, sets of images)
FULL = {
    100: (500, 3),
    500: (200, 3),
    1_000: (100, 3),
    5_000: (50, 1),
    10_000: (40, 1),
    60_000: (15, 1),
}
QUICK = {100: (100, 2), 1_000: (15, 1), 4_000: (8, 1)}


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    sizes, units = (QUICK, 256) if chosen.quick else (FULL, 512)

    errors: dict[str, dict[int, float]] = {"without": {}, "with": {}}
    for images, (epochs, sets) in progress(sizes.items(), "size"):
        fall = schedules.CosineDecay(0.001, epochs * images // BATCH_SIZE)
        for name, rate in (("without", 0.0), ("with", 0.5)):
            found = []
            for number in range(sets):
                place = {"device": chosen.device, "seed": chosen.seed + number}
                model = classifier([(units, rate)] * 2, learning_rate=fall, **place)
                part = slice(number * images, (number + 1) * images)
                model.fit(x[part], y[part], batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
                found.append(loss_and_error(model, *test)[1])
            errors[name][images] = float(np.mean(found))

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
    for name, style in (("without", WITHOUT), ("with", WITH)):
        left.loglog(list(sizes), list(errors[name].values()), **style, label=f"{name} dropout")
    left.set(xlabel="training images", ylabel="test error (%)")
    left.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    left.tick_params(axis="y", which="minor", labelleft=False)
    left.legend()
    gain = {
        images: 100 * (1 - errors["with"][images] / errors["without"][images]) for images in sizes
    }
    right.semilogx(list(gain), list(gain.values()), **WITH)
    right.axhline(0, color="black", linewidth=1)
    right.set(xlabel="training images", ylabel="errors avoided by dropout (%)")
    for panel in (left, right):
        panel.xaxis.set_major_formatter("{x:,.0f}")
    finish(
        chosen,
        figure,
        "The paper finds no gain at 100 and 500 images, then a gain that grows and declines; here "
        "dropout avoids "
        + ", ".join(f"{value:.0f} % of the errors at {size:,}" for size, value in gain.items())
        + " images.",
        test_error_percent=errors,
        gain_percent=gain,
        epochs={images: epochs for images, (epochs, _) in sizes.items()},
        sets={images: sets for images, (_, sets) in sizes.items()},
    )


if __name__ == "__main__":
    main()
