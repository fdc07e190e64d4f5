"""Dropout shows what a network does not know: rotated digits.

The claim: outputs drawn with dropout spread more where inputs leave the training data, so a
network can say that it is unsure. Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML
2016, section 5.2 and Figure 4: as a 1 is turned, its outputs overlap with those of other classes.

Every test image of a 1 is turned in steps, and outputs with dropout are drawn for each. Mutual
information is what the drawn outputs disagree on (the uncertainty of the model); the spread is the
standard deviation of the probability of the predicted class. Whether they tell wrong answers from
right ones is measured by the area under the ROC curve, over all test images turned by any angle:
1 is perfect, 0.5 is chance. The confidence of the mean prediction is compared with them.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import CLASSES, WITH, WITHOUT, arguments, classifier, digits, finish, progress
from PIL import Image

LINES = ("-o", "--s", "-.^", ":D")  # of the four classes with the highest probabilities


def turned(x: np.ndarray, degrees: float) -> np.ndarray:
    """Return the images, turned counterclockwise."""
    images = (255 * x.reshape(-1, 28, 28)).round().astype("uint8")
    bilinear = Image.Resampling.BILINEAR
    rows = [np.asarray(Image.fromarray(image).rotate(degrees, bilinear)) for image in images]
    return np.stack(rows).reshape(len(x), -1) / np.float32(255)


def area_under_curve(score: np.ndarray, is_wrong: np.ndarray) -> float:
    """Return the probability that a wrong answer has a higher score than a right one."""
    values, places = np.unique(score, return_inverse=True)
    counts = np.bincount(places, minlength=len(values))
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores: their mean rank
    wrong, right = int(is_wrong.sum()), int((~is_wrong).sum())
    return float((ranks[places][is_wrong].sum() - wrong * (wrong + 1) / 2) / (wrong * right))


def main() -> None:
    chosen = arguments(__doc__)
    epochs, draws, step, images = (8, 50, 30, 300) if chosen.quick else (20, 100, 15, 2_000)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    model = classifier([(512, 0.5), (256, 0.5)], device=chosen.device, seed=chosen.seed)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)

    angles = np.arange(0, 181, step)
    some, labels = x_test[:images], y_test[:images]
    is_one = labels == 1
    found = [
        model.predict(turned(some, angle), samples=draws, verbose=0)
        for angle in progress(angles, "angle")
    ]
    mean = np.stack([each.mean for each in found])
    information = np.stack([each.mutual_information for each in found])
    predicted, confidence = mean.argmax(axis=2), mean.max(axis=2)
    is_wrong = predicted != labels
    deviation = np.stack([each.std for each in found])
    spread = np.take_along_axis(deviation, predicted[..., None], 2)
    scores = {"mutual_information": information, "spread": spread[..., 0], "doubt": 1 - confidence}
    areas = {name: area_under_curve(s.ravel(), is_wrong.ravel()) for name, s in scores.items()}

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 5), sharex=True)
    first = np.flatnonzero(is_one)[0]
    likely = np.argsort(mean[:, first].max(axis=0))[-len(LINES) :][::-1]
    for digit, look in zip(likely, LINES, strict=True):
        shown, by = mean[:, first, digit], deviation[:, first, digit]
        line = top.plot(angles, shown, look, label=f"{digit}", markersize=4)[0]
        top.fill_between(angles, shown - by, shown + by, alpha=0.2, color=line.get_color())
    top.set(ylabel="probability, one image of a 1", ylim=(0, 1))
    top.legend(title="class", ncols=2)
    by_angle = information[:, is_one].mean(axis=1)
    bottom.plot(angles, by_angle / np.log(CLASSES), label="mutual information / log 10", **WITH)
    errors = is_wrong[:, is_one].mean(axis=1)
    bottom.plot(angles, errors, label="share of wrong answers", **WITHOUT)
    bottom.set(xlabel="angle in degrees", ylabel="mean over all 1s", ylim=(0, None))
    bottom.set_xticks(angles[:: 30 // step])
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    upright, most = by_angle[0], by_angle.argmax()
    finish(
        chosen,
        figure,
        "The paper finds that outputs spread as a 1 is turned; here the mutual information of 1s "
        f"is {upright:.2f} nats upright and {by_angle[most]:.2f} nats at {angles[most]} degrees.",
        angles=angles.tolist(),
        mutual_information_of_ones=by_angle.tolist(),
        spread_of_ones=scores["spread"][:, is_one].mean(axis=1).tolist(),
        error_percent_of_ones=(100 * errors).tolist(),
        area_under_curve=areas,
        ones=int(is_one.sum()),
        draws=draws,
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
