"""Dropout against overfitting: the notes' network, with and without, on few and on many images.

The claim: a large network that is trained for long overfits: its loss on new images rises again;
with dropout it does not, or far less. Srivastava et al., JMLR 15 (2014), section 1 and Figure 4,
whose networks with dropout end with clearly lower test errors.

All losses are measured in inference mode, so that the curves of both networks can be compared.
"""

import matplotlib.pyplot as plt
from common import WITH, WITHOUT, arguments, classifier, digits, finish, loss_and_error, progress

NOTES = [(512, 0.5), (256, 0.3)]
# images: (batch size, epochs)
FULL = {1_000: (32, 50), 60_000: (128, 40)}
QUICK = {500: (32, 20), 4_000: (128, 8)}
MEASURED = 10_000  # training images, at most, on which the training loss is measured
WAYS = {"without": (WITHOUT, 0), "with": (WITH, 1)}


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    numbers: dict[str, dict[str, float]] = {}
    figure, panels = plt.subplots(2, 2, figsize=(9.5, 6), sharex="col", height_ratios=(3, 2))
    for (upper, lower), (images, (batch_size, epochs)) in zip(
        panels.T, (QUICK if chosen.quick else FULL).items(), strict=True
    ):
        train = x[:images], y[:images]
        for name, (style, share) in WAYS.items():
            hidden = [(units, rate * share) for units, rate in NOTES]
            model = classifier(hidden, device=chosen.device, seed=chosen.seed)
            test_losses, train_losses = [], []
            for _ in progress(range(epochs), "epoch"):
                model.fit(*train, batch_size=batch_size, epochs=1, verbose=0)
                test_loss, test_error = loss_and_error(model, *test)
                test_losses.append(test_loss)
                train_loss, _ = loss_and_error(model, *(part[:MEASURED] for part in train))
                train_losses.append(train_loss)
            look = style | {"markevery": max(1, epochs // 10)}
            label = f"{name} dropout (error {test_error:.2f} %)"
            upper.plot(range(1, epochs + 1), test_losses, **look, label=label)
            lower.semilogy(range(1, epochs + 1), train_losses, **look)
            numbers[f"{images} images, {name} dropout"] = {
                "test_error_percent": test_error,
                "test_loss": test_loss,
                "lowest_test_loss": min(test_losses),
                "training_loss": train_loss,
                "epochs": epochs,
            }
        upper.set(title=f"{images:,} training images", ylim=(0, None))
        upper.legend(loc="lower right", fontsize=8)
        lower.set(xlabel="epoch")
    panels[0, 0].set_ylabel("test loss (nats)")
    panels[1, 0].set_ylabel("training loss (nats)")
    without, with_dropout = (numbers[f"{images} images, {way} dropout"] for way in WAYS)
    finish(
        chosen,
        figure,
        "The paper finds clearly lower test errors with dropout; here, on "
        f"{images:,} images, the test loss ends at {with_dropout['test_loss']:.3f} with and "
        f"{without['test_loss']:.3f} without dropout, the test error at "
        f"{with_dropout['test_error_percent']:.2f} and {without['test_error_percent']:.2f} %.",
        **numbers,
    )


if __name__ == "__main__":
    main()
