"""One seed is one run: the same masks for any device, number of threads and split of the batch.

The claim is minidl's own: whether an element is dropped depends on its address alone (seed, layer,
step, row, column), so masks are equal bit for bit wherever they are made, and the loss curves lie
on top of each other: they differ by rounding, and where that decides whether a ReLU's input is
above 0, a little more. In the paper, Srivastava et al., JMLR 15 (2014), section 4, a mask is a
draw of a generator, which is another one on another device.

The CPU runs with one thread and with two, the GPU where there is one; each trains with the whole
batch and with three ways to split it, whose gradients add up.
"""

import hashlib
import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import matplotlib.pyplot as plt
import numpy as np
from common import WITH, WITHOUT, arguments, classifier, digits, finish, progress

import minidl
from minidl import Tensor, get_backend, layers, losses, optimizers, rng

BATCH = 128
SPLITS = {"whole": [128], "halves": [64, 64], "uneven": [1, 100, 27], "eighths": [16] * 8}
HIDDEN = [(256, 0.5), (128, 0.3)]
STYLES = [WITH, WITHOUT, {"color": "black", "linestyle": ":", "marker": "^"}]


def train(device: str, sizes: list[int], steps: int, seed: int) -> tuple[list[float], str]:
    """Return each step's loss and a digest of all masks, the batch going through part by part."""
    (x, y), _ = digits(quick=True)
    model = classifier(HIDDEN, device=device, seed=seed)
    optimizer, loss = optimizers.SGD(0.1), losses.SparseCategoricalCrossentropy()
    alone = [layers.Dropout(rate, seed=seed, stream=i) for i, (_, rate) in enumerate(HIDDEN)]
    ends = np.cumsum([0, *sizes]).tolist()
    curve, digest = [], hashlib.sha256()
    for step in range(steps):
        order = rng.permutation(len(x), seed=seed, epoch=step)  # of which the first are taken
        kept = [np.empty((BATCH, units), bool) for units, _ in HIDDEN]
        curve.append(0.0)
        for first, last in itertools.pairwise(ends):
            rows = order[first:last]
            with minidl.training(step=step, row_offset=first):
                error = loss(y[rows], model(x[rows])) * (len(rows) / BATCH)
                for layer, mask in zip(alone, kept, strict=True):
                    ones = Tensor(np.ones_like(mask[first:last], "float32"), device)
                    mask[first:last] = layer(ones).numpy() != 0
            error.backward()
            curve[-1] += error.item()
        optimizer.update(model.parameters())
        for mask in kept:
            digest.update(mask)
    return curve, digest.hexdigest()


def main() -> None:
    chosen = arguments(__doc__)
    steps = 40 if chosen.quick else 200
    places = {"CPU, 1 thread": ("cpu", "1"), "CPU, 2 threads": ("cpu", "2")}
    # With --device cuda, a GPU is required. Otherwise one is used if the machine has one.
    gpu = get_backend("auto" if chosen.device == "cpu" else chosen.device).name
    if gpu != "cpu":
        places["GPU"] = gpu, "2"
    results = []
    for device, threads in progress(places.values(), "place"):
        os.environ["MINIDL_NUM_THREADS"] = threads  # read once, so each place has a process
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            for sizes in SPLITS.values():
                trained = process.submit(train, device, sizes, steps, chosen.seed)
                results.append(trained.result())

    curves, digests = zip(*results, strict=True)
    contract = hashlib.sha256()  # of the masks at the same addresses, computed without a layer
    for step, (i, (units, rate)) in itertools.product(range(steps), enumerate(HIDDEN)):
        contract.update(rng.keep_mask((BATCH, units), rate, seed=chosen.seed, stream=i, step=step))
    apart = np.ptp(curves, axis=0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
    for i, curve in enumerate(curves):
        place, split = divmod(i, len(SPLITS))
        label = None if split else f"{list(places)[place]}, 4 splits"
        left.plot(curve, **STYLES[place], markevery=(i * steps // 40, steps // 5), label=label)
    left.set(xlabel="step", ylabel="loss (nats)", title=f"{len(curves)} curves")
    left.legend()
    right.semilogy(apart + 1e-9, "k")
    right.set(xlabel="step", ylabel="largest difference of two losses (nats)")
    equal = digests.count(contract.hexdigest())
    finish(
        chosen,
        figure,
        "minidl promises that a mask depends on its address alone; here the masks of "
        f"{equal} of {len(curves)} runs are equal bit for bit, and their losses of {steps} steps "
        f"differ by at most {apart.max():.1e} nats.",
        runs=len(curves),
        runs_with_the_same_masks=equal,
        largest_loss_difference=apart.max(),
    )


if __name__ == "__main__":
    main()
