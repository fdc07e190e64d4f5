"""Test error against the dropout rate: with n units, and with n / (1 - rate) units.

The claim: with n fixed the error is flat over a wide range of rates and grows where few units are
left; the networks that grow as the rate does suffer much less from high rates. Srivastava et al.,
JMLR 15 (2014), section 7.3 and Figure 9: 784-2048-2048-2048-10, flat for p = 1 - rate from 0.4 to
0.8, and at p = 0.1 2.7 % with n fixed against 1.7 % with pn fixed.

Hidden layers alone have dropout, and it scales at inference, as there: scaled in training instead,
each layer multiplies the variance by 1 / p, and at p = 0.1 the networks do far worse. n is 512
here, and pn 128; Adam's learning rate falls along a cosine.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import WITH, WITHOUT, arguments, classifier, digits, finish, loss_and_error, progress

from minidl.optimizers import schedules

LAYERS, BATCH_SIZE = 3, 128
# units, images, epochs, and the shares of kept units
FULL = 512, 60_000, 20, [0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
QUICK = 256, 2_000, 15, [0.2, 0.5, 1.0]


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    units, images, epochs, keeps = QUICK if chosen.quick else FULL
    kept = units // 4

    widths = {
        f"n = {units}": [units for _ in keeps],
        f"pn = {kept}": [round(kept / keep) for keep in keeps],
    }
    fall = schedules.CosineDecay(0.001, epochs * images // BATCH_SIZE)
    figure, axes = plt.subplots(figsize=(7, 4.2))
    errors: dict[str, list[float]] = {}
    train_errors: list[float] = []
    for (name, sizes), style in zip(widths.items(), (WITHOUT, WITH), strict=True):
        errors[name] = []
        for keep, size in progress(list(zip(keeps, sizes, strict=True))):
            hidden = [(size, 1 - keep)] * LAYERS
            place = {"device": chosen.device, "seed": chosen.seed}
            model = classifier(hidden, scaling="inference", learning_rate=fall, **place)
            model.fit(x[:images], y[:images], batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
            errors[name].append(loss_and_error(model, *test)[1])
            if size == units and name.startswith("n "):
                train_errors.append(loss_and_error(model, x[:images], y[:images])[1])
        axes.plot(1 - np.array(keeps), errors[name], **style, label=f"test error, {name}")
    axes.plot(
        1 - np.array(keeps), train_errors, "^-.", color="gray", label=f"training error, n = {units}"
    )
    axes.set_yscale("symlog", linthresh=0.01, linscale=0.3)  # a training error may be 0
    ticks = [0, 0.01, 0.1, 1, 2, 5, 10, 20, 50]
    axes.set_yticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.tick_params(axis="y", which="minor", labelleft=False)
    axes.set(
        xlabel="dropout rate of the three hidden layers, 1 - p",
        ylabel="error (%)",
        ylim=(-0.002, 100),
        title=f"{images:,} training images, {epochs} epochs",
    )
    axes.legend(loc="upper left")
    flat = [
        error for keep, error in zip(keeps, errors[f"n = {units}"], strict=True) if 0.4 <= keep < 1
    ]
    (fixed, *_), (growing, *_) = errors.values()
    finish(
        chosen,
        figure,
        "The paper finds the test error flat for p from 0.4 to 0.8, and at p = 0.1 2.7 % with n "
        f"and 1.7 % with pn fixed; here it is {min(flat):.2f} to {max(flat):.2f} % for p from 0.4 "
        f"to 0.8, and at p = {keeps[0]} {fixed:.1f} % with n and {growing:.1f} % with pn fixed.",
        rates=[1 - keep for keep in keeps],
        test_error_percent=errors,
        training_error_percent=train_errors,
        widths=widths,
        epochs=epochs,
        images=images,
    )


if __name__ == "__main__":
    main()
