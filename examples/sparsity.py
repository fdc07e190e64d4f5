"""Dropout makes hidden units sparse: their activations and mean activations, with and without.

The claim: with dropout only few hidden units are active for an image, though nothing in the loss
asks for it. Srivastava et al., JMLR 15 (2014), section 7.2 and Figure 8, for the autoencoder of
Figure 7: mean activations of the units around 2.0 without and around 0.7 with dropout, and a
histogram of all activations with a sharp peak at zero.

Activations are those of inference, of all hidden units for 1,000 test images.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import WITH, WITHOUT, arguments, digits, finish, progress
from features import autoencoder


def main() -> None:
    chosen = arguments(__doc__)
    (x, _), (x_test, _) = digits(chosen.quick)
    epochs = 8 if chosen.quick else 10
    activations, errors = {}, {}
    for name, rate in progress({"without": 0.0, "with": 0.5}.items()):
        model, hidden = autoencoder(rate, x, epochs, chosen)
        activations[name] = hidden.predict(x_test[:1000], batch_size=1000, verbose=0)
        errors[name] = model.evaluate(x_test, x_test, batch_size=1000, verbose=0)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
    highest = max(np.quantile(values, 0.999) for values in activations.values())
    highest_mean = max(values.mean(axis=0).max() for values in activations.values())
    for name, style in (("without", WITHOUT), ("with", WITH)):
        values, look = activations[name], {"color": style["color"], "ls": style["linestyle"]}
        means = values.mean(axis=0)
        for panel, numbers, end in ((left, means, highest_mean), (right, values.ravel(), highest)):
            panel.hist(
                numbers,
                bins=np.linspace(0, end, 41),
                histtype="step",
                linewidth=1.8,
                weights=np.full(numbers.size, 100 / numbers.size),
                label=f"{name} dropout (mean {numbers.mean():.2f})",
                **look,
            )
    left.set(xlabel="mean activation of a unit over the images", ylabel="share of the units (%)")
    right.set(xlabel="activation of a unit for an image", ylabel="share of the activations (%)")
    right.set_yscale("log")
    for panel in (left, right):
        panel.legend()
    finish(
        chosen,
        figure,
        "The paper finds mean activations of about 2.0 without and 0.7 with dropout; here they are "
        f"{activations['without'].mean():.2f} and {activations['with'].mean():.2f}.",
        **{
            f"{name} dropout": {
                "mean_activation": values.mean(),
                "share_of_zeros": (values == 0).mean(),
                "test_squared_error": errors[name],
            }
            for name, values in activations.items()
        },
        epochs=epochs,
        images=len(x),
    )


if __name__ == "__main__":
    main()
