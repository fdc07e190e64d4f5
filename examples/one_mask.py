"""One mask: computed for a whole batch, for its parts, on each device and by the specification.

The claim is minidl's own: a decision of dropout depends only on its address (rate, seed, layer,
step, row, column). So the mask of a batch is the same wherever it is computed and however the batch
is split. In the paper, Srivastava et al., JMLR 15 (2014), section 4, a mask is drawn from a random
number generator. What is drawn then depends on what was drawn before, on which device.

One element is marked in all panels: its random word, below or not below rate x 2^32, decides it.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from common import arguments, finish, progress

import minidl
from minidl import Tensor, get_backend, layers, rng

ROWS, COLUMNS, RATE, STEP = 16, 24, 0.5, 7
SPLITS = {"whole batch": [16], "two halves": [8, 8], "uneven parts": [3, 9, 4]}
MARKED = (11, 5)  # row, column
DROPPED, KEPT, RING = "white", "#0072B2", "#D55E00"


def mask_by_parts(sizes: list[int], device: str, seed: int) -> np.ndarray:
    """Return the mask of a batch that goes through a layer part by part."""
    layer = layers.Dropout(RATE, seed=seed, stream=0)
    parts = []
    for first, last in itertools.pairwise(np.cumsum([0, *sizes]).tolist()):
        with minidl.training(step=STEP, row_offset=first):
            parts.append(layer(Tensor(np.ones((last - first, COLUMNS), "float32"), device)).numpy())
    return np.concatenate(parts) > 0


def draw(panel: plt.Axes, mask: np.ndarray, sizes: list[int], title: str) -> None:
    """Draw a mask, with a gap between the parts of the batch, and mark an element."""
    ends = np.cumsum(sizes)
    for row, column in np.ndindex(mask.shape):
        gaps = int((ends <= row).sum())
        colour = KEPT if mask[row, column] else DROPPED
        edge = {"edgecolor": "#999999", "linewidth": 0.4}
        panel.add_patch(plt.Rectangle((column, row + gaps), 1, 1, facecolor=colour, **edge))
        if (row, column) == MARKED:
            centre = column + 0.5, row + gaps + 0.5
            panel.plot(*centre, "o", markersize=11, color=RING, markerfacecolor="none", mew=2)
    panel.set(title=title, xlim=(-0.3, COLUMNS + 0.3), ylim=(ROWS + 2.3, -0.3), aspect="equal")
    panel.title.set_fontsize(10)
    panel.axis("off")


def main() -> None:
    chosen = arguments(__doc__)
    # With --device cuda, a GPU is required. Otherwise one is used if the machine has one.
    gpu = get_backend("auto" if chosen.device == "cpu" else chosen.device).name
    devices = ["cpu"] if gpu == "cpu" else ["cpu", gpu]
    address = {"seed": chosen.seed, "stream": 0, "step": STEP}
    specified = rng.keep_mask((ROWS, COLUMNS), RATE, **address)
    ways = [(device, how) for device in devices for how in SPLITS]
    masks = [mask_by_parts(SPLITS[how], device, chosen.seed) for device, how in progress(ways)]

    shown = [("specification, in NumPy", [ROWS], specified)]
    shown += [
        (f"{device}, {how}", SPLITS[how], mask)
        for (device, how), mask in zip(ways, masks, strict=True)
    ]
    lines = len(devices)
    figure, grid = plt.subplots(lines, 4, figsize=(11, 0.7 + 2.1 * lines), squeeze=False)
    for panel in grid.flat[len(shown) :]:
        panel.axis("off")
    for panel, (title, sizes, mask) in zip(grid.flat, shown, strict=False):
        draw(panel, mask, sizes, title)
    equal = sum(np.array_equal(mask, specified) for mask in masks)
    row, column = MARKED
    word = rng.word(**address, row=row, column=column)
    figure.suptitle(
        f"Dropout({RATE}) of {ROWS} samples x {COLUMNS} units, seed {chosen.seed}, layer 0, step "
        f"{STEP}. Ring: row {row}, column {column}, whose random word {word:,} is "
        f"{'not below' if specified[MARKED] else 'below'} {RATE} x 2^32, so it is "
        f"{'kept (blue)' if specified[MARKED] else 'dropped (white)'}.",
        fontsize=9.5,
    )
    finish(
        chosen,
        figure,
        "minidl promises that one address is one decision; here "
        f"{equal} of {len(masks)} masks are the specified one, bit for bit.",
        masks=len(masks),
        masks_as_specified=equal,
        word=word,
        threshold=round(RATE * 2**32),
        kept=int(specified.sum()),
        elements=specified.size,
    )


if __name__ == "__main__":
    main()
