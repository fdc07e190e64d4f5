"""Dropout against overfitting: the notes' network, with and without, on few and on many images.

The claim: a large network that is trained for long learns its training images by heart, and its
loss on new images rises again; with dropout it does not, or far less. Srivastava et al., JMLR 15
(2014), section 1 and Figure 4, whose networks with dropout end with clearly lower test errors.

All losses are measured in inference mode, so that the curves of both networks can be compared.
"""

from common import WITH, WITHOUT, arguments, classifier, digits, finish, loss_and_error, plt

NOTES = [(512, 0.5), (256, 0.3)]
# images: (batch size, epochs)
FULL = {1_000: (32, 50), 60_000: (128, 40)}
QUICK = {500: (32, 20), 4_000: (128, 8)}
MEASURED = 10_000  # training images, at most, on which the training loss is measured


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    numbers: dict[str, dict[str, float]] = {}
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    for panel, (images, (batch_size, epochs)) in zip(
        panels, (QUICK if chosen.quick else FULL).items(), strict=True
    ):
        train = x[:images], y[:images]
        for name, style, share in (("without", WITHOUT, 0), ("with", WITH, 1)):
            hidden = [(units, rate * share) for units, rate in NOTES]
            model = classifier(hidden, device=chosen.device, seed=chosen.seed)
            curves: dict[str, list[float]] = {"test": [], "training": []}
            for _ in range(epochs):
                model.fit(*train, batch_size=batch_size, epochs=1, verbose=0)
                test_loss, test_error = loss_and_error(model, *test)
                curves["test"].append(test_loss)
                train_loss, _ = loss_and_error(model, *(part[:MEASURED] for part in train))
                curves["training"].append(train_loss)
            for part, losses in curves.items():
                look = style | ({} if part == "test" else {"marker": "", "linewidth": 0.8})
                panel.semilogy(
                    range(1, epochs + 1),
                    losses,
                    **look | {"markevery": max(1, epochs // 10)},
                    label=f"{part}, {name} dropout"
                    + f" (error {test_error:.2f} %)" * (part == "test"),
                )
            numbers[f"{images} images, {name} dropout"] = {
                "test_error_percent": test_error,
                "test_loss": test_loss,
                "lowest_test_loss": min(curves["test"]),
                "training_loss": train_loss,
                "epochs": epochs,
            }
        panel.set(title=f"{images:,} training images", xlabel="epoch", ylim=(1e-5, 2))
        panel.legend(loc="lower left", fontsize=8)
    panels[0].set_ylabel("cross-entropy (nats)")
    finish(chosen, figure, **numbers)


if __name__ == "__main__":
    main()
