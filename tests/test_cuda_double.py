"""Training and masks on the CUDA backend, with its kernels as compiled, on a machine without a GPU.

The CUDA backend runs over a double of its array library, which counts what goes over to the host.
"""

from dataclasses import asdict

import numpy as np
import pytest
from minidl_kernels import mask_contract

import minidl
from minidl import callbacks, layers, models
from minidl.datasets import mnist_5k
from minidl.rng import Address, keep_mask


def network(device, units=(24, 16), features=30, dtype="float32", begins_with=None):
    """Return the notes' network with layers of these sizes."""
    model = models.Sequential(
        [
            layers.Input((features,)),
            *([] if begins_with is None else [begins_with]),
            layers.Dense(units[0], activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(units[1], activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ],
        device=device,
        dtype=dtype,
        seed=5,
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def samples(count=64, features=30):
    """Return inputs and class numbers."""
    rng = np.random.default_rng(8)
    return rng.random((count, features), "float32"), rng.integers(0, 10, count)


# ------------------------------------------------------------------------------ what a step costs


class StepCounts(callbacks.Callback):
    """Keep what each step had the device and its link do, from the end of the step before on."""

    def __init__(self, counts):
        self.counts = counts
        self.steps = []

    def on_train_batch_end(self, batch, logs):
        if batch > 0:  # the first has the beginning of the epoch in it
            self.steps.append(asdict(self.counts))
        self.counts.reset()


class ReadsTheLoss(StepCounts):
    """Look at the loss after each step."""

    def on_train_batch_end(self, batch, logs):
        assert np.isfinite(logs["loss"])
        super().on_train_batch_end(batch, logs)


class EpochCounts(callbacks.Callback):
    """Keep what reading an epoch's logs took."""

    def __init__(self, counts):
        self.counts = counts

    def on_train_batch_end(self, batch, logs):
        self.counts.reset()

    def on_epoch_end(self, epoch, logs):
        self.read = asdict(self.counts)


MOST_LAUNCHES = 17  # an eager step of the notes' network


def test_step_takes_few_launches_and_neither_copies_nor_waits(cuda_double):
    seen = StepCounts(cuda_double)
    model = network("cuda", begins_with=layers.Rescaling(1 / 255))
    x, y = samples(80)
    x = (255 * x).astype("uint8")
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[seen], record=False)
    assert len(seen.steps) == 4
    for step in seen.steps:
        assert step["launches"] <= MOST_LAUNCHES
        assert step["host_to_device"] == 0
        assert step["device_to_host"] == 0
        assert step["synchronizations"] == 0
        assert step["device_switches"] == 0
    assert len({step["launches"] for step in seen.steps}) == 1


def test_step_of_more_than_256_samples_takes_four_more_launches(cuda_double):
    """The sums over the rows are made in chunks, and added up: of the biases and of the loss."""
    seen = StepCounts(cuda_double)
    model = network("cuda", begins_with=layers.Rescaling(1 / 255))
    x, y = samples(600)
    x = (255 * x).astype("uint8")
    model.fit(x, y, batch_size=300, verbose=0, callbacks=[seen], record=False)
    assert [step["launches"] <= MOST_LAUNCHES + 4 for step in seen.steps] == [True]


def test_data_set_is_copied_to_the_device_once(cuda_double):
    class Epochs(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(cuda_double.host_to_device)
            cuda_double.reset()

    seen = []
    x, y = samples(64)
    model = network("cuda")
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[Epochs()])
    assert seen[1:] == [4, 4]  # the order of the samples, and the columns of the table of numbers


def test_data_set_too_large_for_the_device_is_copied_batch_by_batch(cuda_double, monkeypatch):
    x, y = samples(64)
    whole, by_batches = network("cuda"), network("cuda")
    whole.fit(x, y, batch_size=16, verbose=0)
    dataset_array = type(minidl.get_backend("cuda")).dataset_array
    monkeypatch.setitem(dataset_array.__globals__, "DATASET_SHARE", 0.0)
    seen = StepCounts(cuda_double)
    by_batches.fit(x, y, batch_size=16, verbose=0, callbacks=[seen])
    assert [step["host_to_device"] for step in seen.steps] == [1] * 3
    for a, b in zip(whole.get_weights(), by_batches.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loss_read_at_each_step_is_counted(cuda_double):
    seen = ReadsTheLoss(cuda_double)
    network("cuda").fit(*samples(), batch_size=16, verbose=0, callbacks=[seen], record=False)
    assert [step["device_to_host"] for step in seen.steps] == [1] * 3
    assert [step["synchronizations"] for step in seen.steps] == [1] * 3


def test_loss_and_metrics_are_read_once_in_an_epoch(cuda_double):
    seen = EpochCounts(cuda_double)
    network("cuda").fit(*samples(), batch_size=16, verbose=0, callbacks=[seen], record=False)
    assert seen.read == {
        "host_to_device": 0,
        "device_to_host": 1,  # the totals
        "synchronizations": 1,
        "launches": 0,
        "device_switches": 0,
        "graph_launches": 0,
        "nodes": 0,
    }


def test_model_on_a_second_device_computes_there(cuda_double):
    from cuda_double.install import cuda_double as installed

    with installed(device_count=2):
        model, seen = network("cuda:1"), StepCounts(cuda_double)
        model.fit(*samples(), batch_size=16, verbose=0, callbacks=[seen])
        assert all(weight.data.device.id == 1 for weight in model.parameters())
        assert [step["device_switches"] for step in seen.steps] == [0] * 3


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_masks_of_a_second_device_are_drawn_there(dtype, cuda_double):
    from cuda_double.install import cuda_double as installed

    with installed(device_count=2):
        backend = minidl.get_backend("cuda:1")
        address = Address(seed=1, stream=2, step=3)
        expected = keep_mask((4, 5), 0.5, **address._asdict())
        mask = backend.keep_mask((4, 5), 0.5, address)
        dropped = backend.dropout(backend.asarray(np.ones((4, 5), dtype)), 0.5, address)
        assert mask.device.id == dropped.device.id == 1
        np.testing.assert_array_equal(backend.to_numpy(mask), expected)
        np.testing.assert_array_equal(backend.to_numpy(dropped) != 0, expected)


# ------------------------------------------------------------------------------ masks


SHAPES = [(), (1,), (3,), (4, 5), (255,), (1, 256), (2, 257), (3, 63), (5, 64), (2, 3, 65), (0, 3)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rate", [0, 1e-9, 0.1, 0.5, 0.999999, 1])
def test_compiled_kernel_draws_the_masks_of_the_contract(rate, dtype, cuda_double):
    backend = minidl.get_backend("cuda")
    address = Address(seed=2**64 - 1, stream=2**30 + 3, step=2**32 - 1, row_offset=2**31)
    for shape in SHAPES:
        ones = backend.asarray(np.ones(shape, dtype))
        received = backend.to_numpy(backend.dropout(ones, rate, address, rescale=False))
        expected = keep_mask(shape, rate, **address._asdict())
        np.testing.assert_array_equal(received, expected.astype(dtype), strict=True)


def test_mask_of_a_million_elements_equals_the_contract(cuda_double):
    shape, address = (1, 2**20 + 3), Address(seed=7, stream=1, step=2)
    backend = minidl.get_backend("cuda")
    mask = backend.to_numpy(backend.keep_mask(shape, 0.25, address))
    np.testing.assert_array_equal(mask, keep_mask(shape, 0.25, **address._asdict()))


@pytest.mark.parametrize("wrong", ["threshold", "row"])
def test_wrong_kernel_is_found(wrong, monkeypatch, cuda_double):
    """The negative control."""
    address = Address(seed=7, stream=1, step=2)
    expected = keep_mask((20, 64), 0.25, **address._asdict())
    if wrong == "threshold":
        monkeypatch.setattr(mask_contract, "threshold", lambda rate: int(rate * 2**32) + 2**24)
    else:
        address = address._replace(row_offset=1)
    backend = minidl.get_backend("cuda")
    mask = backend.to_numpy(backend.keep_mask((20, 64), 0.25, address))
    assert (mask != expected).any()


# ------------------------------------------------------------------------------ loss curves


class Losses(callbacks.Callback):
    """Keep the loss of the epoch so far, after each step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, batch, logs):
        self.values.append(logs["loss"])


def loss_curve(device, x, y, **options):
    """Return the running loss of one epoch."""
    seen = Losses()
    network(device, **options).fit(x, y, batch_size=32, verbose=0, callbacks=[seen])
    return seen.values


TOLERANCES = [("float64", 1e-6), ("float32", 1e-4)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_ten_steps_have_the_losses_of_the_cpu(dtype, tolerance, cuda_double):
    x, y = samples(320)
    on_cpu, on_cuda = (loss_curve(device, x, y, dtype=dtype) for device in ("cpu", "cuda"))
    assert len(on_cuda) == 10
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=tolerance)


def test_ten_steps_of_the_notes_network_have_the_losses_of_the_cpu(cuda_double):
    (x, y), _ = mnist_5k.load_data()
    x = (x[:320] / 255).astype("float32").reshape(320, 784)
    options = {"units": (512, 256), "features": 784}
    on_cpu, on_cuda = (loss_curve(device, x, y[:320], **options) for device in ("cpu", "cuda"))
    assert len(on_cuda) == 10
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-4)


def test_another_seed_gives_other_losses(cuda_double):
    """The negative control: the tolerance tells different masks apart."""
    x, y = samples(320)
    first = loss_curve("cuda", x, y)
    model, seen = network("cuda"), Losses()
    model.layers[1].random_stream.own_seed = 6
    model.fit(x, y, batch_size=32, verbose=0, callbacks=[seen])
    assert not np.allclose(seen.values, first, rtol=1e-4)
