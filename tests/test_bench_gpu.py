"""The report on a GPU: its parts, and the faults that each of its checks must find.

It runs on the double of the CUDA backend's array library, which has no properties of a device.
"""

import contextlib
import functools
import itertools
import math
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import minidl
from bench import epochs, gpu, gpu_training, images, recordings, workers
from minidl import datasets, layers
from minidl.engine import ops
from minidl.trainer import loop

SHAPES = ((), (0,), (2, 65))
LARGE = 2**11 + 3
UNITS = (24, 16)
RECORDED_UNITS = (784, 24, 16, 10)

PROPERTIES = {"name": b"Double of a GPU", "major": 8, "minor": 9, "totalGlobalMem": 24 * 2**30}
RUNTIME = {
    "getDeviceProperties": lambda index: PROPERTIES,
    "driverGetVersion": lambda: 13020,
    "runtimeGetVersion": lambda: 12080,
}


@pytest.fixture
def double(cuda_double, tmp_path, monkeypatch):
    """Return the CUDA backend over the double, with a device that has properties.

    Reports go to `tmp_path`.
    """
    (tmp_path / "RESULTS.md").write_text("# What was measured\n")
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    backend = minidl.get_backend("cuda:0")
    for name, function in RUNTIME.items():
        monkeypatch.setitem(vars(backend.xp.cuda.runtime), name, function)
    return backend


@pytest.fixture
def double_with_small_masks(double, monkeypatch):
    """Return `double`, with few rates for the checks of masks."""
    monkeypatch.setattr(gpu, "RATES", (0.1, 1))
    return double


@pytest.fixture
def double_with_short_training(double, monkeypatch):
    """Return `double`, with three small steps in float32 for the checks of training."""
    monkeypatch.setattr(gpu, "STEPS", 3)
    monkeypatch.setattr(gpu, "BATCH", 8)
    monkeypatch.setattr(gpu, "LOSS_LIMITS", {"float32": 1e-4})
    return double


@pytest.fixture
def double_with_short_recordings(double, monkeypatch):
    """Return `double`, with few small batches in float32 for the checks of recordings."""
    monkeypatch.setattr(recordings, "DTYPES", ("float32",))
    monkeypatch.setattr(recordings, "SAMPLES", 10)
    monkeypatch.setattr(recordings, "BATCH_SIZES", (4,))
    monkeypatch.setattr(recordings.recording_module(double), "TOGETHER", 2)
    monkeypatch.setattr(loop, "LONGEST_WAIT", math.inf)  # the double is slow
    return double


@pytest.fixture
def in_this_process(monkeypatch):
    """Let the sides of training work in this process, whose CUDA is the double."""

    class Worker(workers.Worker):
        def __init__(self, side, *arguments):
            if side.needs is not None:
                raise workers.Unavailable(f"{side.needs} is not installed")
            self._turn = side.build(*arguments, **side.options)

        def __exit__(self, *error):
            pass

        def __call__(self, *arguments):
            return self._turn(*arguments)

    monkeypatch.setattr(workers, "Worker", Worker)
    monkeypatch.setattr(gpu_training, "Worker", Worker)


@pytest.fixture
def short_training(in_this_process, monkeypatch):
    """Let training be measured on few images, with a small network."""
    x, y = images.synthetic(34)
    monkeypatch.setattr(images, "sixty_thousand", lambda: ("nothing", x, y))
    monkeypatch.setattr(epochs, "UNITS", RECORDED_UNITS)
    monkeypatch.setattr(gpu_training, "LONG_EPOCHS", 2)
    monkeypatch.setattr(gpu_training, "LONG_BATCH_SIZE", 16)


@pytest.fixture
def small_report(short_training, double_with_short_recordings, monkeypatch):
    """Let the report check and time small networks and arrays, once."""
    monkeypatch.setattr(gpu, "QUICK_ROUNDS", 1)
    for name, sizes in {
        "mask_checks": {"shapes": SHAPES, "large": LARGE},
        "training_checks": {"units": UNITS},
        "timings": {"units": UNITS},
    }.items():
        monkeypatch.setattr(gpu, name, functools.partial(getattr(gpu, name), **sizes))
    monkeypatch.setattr(gpu, "QUICK_SIZES", (1024, 2048))
    monkeypatch.setattr(gpu, "QUICK_BATCHES", (1000,))
    right = gpu.recording_checks

    def small_recordings(backend, network):
        return right(backend, functools.partial(network, units=UNITS), RECORDED_UNITS)

    monkeypatch.setattr(gpu, "recording_checks", small_recordings)
    monkeypatch.setattr(gpu, "BURST_SECONDS", 0)
    monkeypatch.setattr(gpu, "REPEATS", 1)


@pytest.fixture
def tiny_report(small_report, double_with_short_training, double_with_small_masks, monkeypatch):
    """Let the report compile few kernels, and check and time them on tiny data."""
    (x, y), test = datasets.mnist_5k.load_data()
    data = (x[:32], y[:32]), test
    monkeypatch.setattr(datasets.mnist_5k, "load_data", lambda: data)
    monkeypatch.setattr(gpu, "QUICK_BATCHES", (16,))
    monkeypatch.setattr(gpu, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu, "OP_LIMITS", {"float32": 1e-5})
    monkeypatch.setattr(gpu, "OPTIMIZERS", {"adam": gpu.OPTIMIZERS["adam"]})
    monkeypatch.setattr(gpu, "OPTIMIZER_LIMITS", {"float32": 1e-3})
    monkeypatch.setattr(gpu, "optimizer_checks", functools.partial(gpu.optimizer_checks, rows=20))


def failures(checks):
    """Return the reasons of the checks that fail, by name."""
    results = [gpu.result_of(name, check) for name, check in checks.items()]
    return {result.name: result.reason for result in results if not result.passed}


# ------------------------------------------------------------------------------ the command


def check_report(lines, batch):
    """Check the lines of a report on which all checks passed."""
    assert lines[0] == f"## minidl {minidl.__version__} on Double of a GPU"
    assert "- device: cuda:0, compute capability 8.9" in lines
    assert "- device memory: 24.0 GiB" in lines
    assert "- CUDA, newest that the driver takes: 13.2" in lines
    assert "- CUDA, runtime: 12.8" in lines
    for module in ("Python", "numpy", "cupy", "numba", "numba_cuda", "cuda", "host"):
        assert sum(line.startswith(f"- {module}: ") for line in lines) == 1
    assert f"- numpy: numpy {np.__version__}" in lines
    passed = [line for line in lines if line.startswith("- PASS ")]
    masks, training = 6 + 2 * len(gpu.DTYPES), 1 + 2 * len(gpu.LOSS_LIMITS)
    recorded = 2 + 2 * len(recordings.DTYPES)
    assert len(passed) == masks + len(gpu.OPS) + len(gpu.OPTIMIZERS) + training + recorded
    assert "The longer check: `pytest --device cuda:0`" in lines
    assert "### Times, measured on this device and its host" in lines
    times = {line.split()[1]: line for line in lines if re.match(r"\| [\d,]+ \|", line)}
    assert list(times) == ["1,024", "2,048", batch]
    assert all(re.fullmatch(r"\| [\d,]+ (\| \d+\.\d+ ){4}\|", line) for line in times.values())
    assert "### Training beside PyTorch and JAX" in lines
    for side in (gpu_training.RECORDED, gpu_training.SINGLE, gpu_training.EAGER):
        assert sum(line.startswith(f"| {side} | ") for line in lines) == 1
    assert "- left out: JAX, one scan an epoch: jax is not installed" in lines
    assert lines[-1] == f"{len(passed)} checks passed, 0 failed"


def test_report_on_tiny_data_has_all_parts(tiny_report, tmp_path, capsys):
    assert gpu.main(["--device", "cuda:0", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    check_report(lines, batch="16")
    before, section = (tmp_path / "RESULTS.md").read_text().split("<!-- begin bench.gpu -->\n\n")
    assert before == "# What was measured\n\n"
    *written, end = section.rstrip().splitlines()
    assert end == "<!-- end bench.gpu -->"
    assert written[0] == f"#{lines[0]}"
    assert written[:-1] == [f"#{line}" if line.startswith("#") else line for line in lines]


@pytest.mark.exhaustive
def test_report_has_all_parts(double, small_report, capsys):
    assert gpu.main(["--device", "cuda:0", "--quick"]) == 0
    check_report(capsys.readouterr().out.splitlines(), batch="1,000")


def test_report_with_failed_check_returns_1(double, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "op_checks", lambda backend: {"op nothing": lambda: 1 / 0})
    monkeypatch.setattr(gpu, "mask_checks", lambda backend: {"mask": lambda: "equal"})
    monkeypatch.setattr(gpu, "optimizer_checks", lambda backend: {})
    monkeypatch.setattr(gpu, "training_checks", lambda backend: {})
    monkeypatch.setattr(gpu, "recording_checks", lambda backend, network: {})
    monkeypatch.setattr(gpu, "timings", lambda *sizes: iter(()))
    monkeypatch.setattr(gpu, "training_lines", lambda *sizes: iter(()))
    assert gpu.main(["--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "- FAIL op nothing: ZeroDivisionError: division by zero" in lines
    assert lines[-1] == "1 checks passed, 1 failed"


def test_report_without_gpu_prints_the_reason_in_one_line(cuda_double, capsys):
    from cuda_double.install import cuda_double as installed

    with installed(device_count=0):
        assert gpu.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert re.match("bench.gpu: cuda: .*cudaErrorNoDevice", printed.err)


@pytest.mark.parametrize("name", ["cpu", "auto", "cuda:", "gpu"])
def test_report_rejects_other_devices(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", name])
    assert f"expected cuda or cuda:N, got {name!r}" in capsys.readouterr().err


def test_report_without_quick_times_large_sizes(double, monkeypatch):
    asked = []
    for name in ("timings", "training_lines"):
        monkeypatch.setattr(gpu, name, lambda who, *sizes: asked.append(sizes) or iter(()))
    for name in ("mask_checks", "op_checks", "optimizer_checks", "training_checks"):
        monkeypatch.setattr(gpu, name, lambda backend: {})
    monkeypatch.setattr(gpu, "recording_checks", lambda backend, network: {})
    assert gpu.main([]) == gpu.main(["--quick"]) == 0
    assert asked == [
        (gpu.SIZES, gpu.BATCHES),
        (gpu.BATCHES, gpu.ROUNDS),
        (gpu.QUICK_SIZES, gpu.QUICK_BATCHES),
        (gpu.QUICK_BATCHES, gpu.QUICK_ROUNDS),
    ]


# ------------------------------------------------------------------------------ masks


def shifted(x, drop, xp, address):
    return xp.roll(drop(x), 1)


def of_another_seed(x, drop, xp, address):
    return drop(x, seed=address.seed ^ 1)


def wrong_if_large(x, drop, xp, address):
    return shifted(x, drop, xp, address) if x.size > 2000 else drop(x)


def blind_to_layout(x, drop, xp, address):
    return drop(x if x.flags.c_contiguous else x[::-1])


def overwriting_views(x, drop, xp, address):
    y = drop(x)
    if not x.flags.c_contiguous:
        x[...] = 0
    return y


def without_nan(x, drop, xp, address):
    return drop(xp.nan_to_num(x))


def blind_to_small_offsets(x, drop, xp, address):
    return drop(x, row_offset=11) if 0 < address.row_offset < 100 else drop(x)


def wrong_on_another_thread(x, drop, xp, address):
    return drop(x, step=9) if threading.current_thread() is not threading.main_thread() else drop(x)


def wrong_on_another_stream(x, drop, xp, address):
    stream = xp.cuda.get_current_stream()
    return shifted(x, drop, xp, address) if stream.ptr else drop(x)


def of_another_dtype(x, drop, xp, address):
    return drop(x).astype("float32")


LARGE_ONES = {"masks, many elements", "dropout, another stream"}
DTYPE_BLIND = {"masks, float16", "masks, float64"}
VIEWS, NOT_FINITE = "dropout, non-contiguous inputs", "dropout, NaN and infinity"
EVERY_MASK = {
    *DTYPE_BLIND,
    "masks, float32",
    *LARGE_ONES,
    VIEWS,
    NOT_FINITE,
    "dropout, a batch in parts",
    "dropout, another thread",
}


@pytest.mark.parametrize(
    ("wrong", "found_by"),
    [
        (shifted, EVERY_MASK),
        (of_another_seed, EVERY_MASK),
        (wrong_if_large, LARGE_ONES),
        (blind_to_layout, {VIEWS}),
        (overwriting_views, {VIEWS}),
        (without_nan, {NOT_FINITE}),
        (blind_to_small_offsets, {"dropout, a batch in parts"}),
        (wrong_on_another_stream, {"dropout, another stream"}),
        (wrong_on_another_thread, {"dropout, another thread"}),
        (of_another_dtype, {*DTYPE_BLIND, VIEWS, NOT_FINITE}),
    ],
)
def test_mask_checks_find_a_wrong_dropout(wrong, found_by, double_with_small_masks, monkeypatch):
    double = double_with_small_masks
    right = double.dropout

    def dropout(x, rate, address, **options):
        def drop(x, **changes):
            return right(x, rate, address._replace(**changes), **options)

        return wrong(x, drop, double.xp, address)

    monkeypatch.setattr(double, "dropout", dropout)
    assert set(failures(gpu.mask_checks(double, SHAPES, LARGE))) == found_by


@pytest.mark.parametrize("name", ["uniform", "normal", "noise"])
def test_mask_checks_find_wrong_numbers(name, double_with_small_masks, monkeypatch):
    double = double_with_small_masks
    right = getattr(double, name)
    monkeypatch.setattr(double, name, lambda *arguments, **form: right(*arguments, **form) * 1.01)
    wrong = {f"numbers, {dtype}" for dtype in gpu.DTYPES}
    assert set(failures(gpu.mask_checks(double, SHAPES, LARGE))) == wrong


def test_require_same_bits_counts_differences_and_names_the_first():
    ones, other = np.ones((2, 3), "float32"), np.ones((2, 3), "float32")
    other[1, 1:] = 0
    with pytest.raises(gpu.Mismatch, match=r"^here: 2 of 6 differ, the first at \(1, 1\)$"):
        gpu.require_same_bits(other, ones, "here")


@pytest.mark.parametrize(("value", "other"), [(0.0, -0.0), (1.0, np.nan), (np.inf, -np.inf)])
def test_require_same_bits_distinguishes_signs_and_nan(value, other):
    with pytest.raises(gpu.Mismatch, match="1 of 1 differ"):
        gpu.require_same_bits(np.array(value), np.array(other), "here")
    gpu.require_same_bits(np.array([other]), np.array([other]), "here")


# ------------------------------------------------------------------------------ ops


def break_on_the_device(monkeypatch, name, change):
    """Let an op go through `change` where it runs on the device."""
    right = ops.OPS[name]

    @functools.wraps(right)
    def wrong(backend, *inputs, **static):
        value, vjps = right(backend, *inputs, **static)
        return (value, vjps) if backend.name == "cpu" else change(value, vjps)

    monkeypatch.setattr(ops, name, wrong)
    monkeypatch.setitem(ops.OPS, name, wrong)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda y, vjps: (y, (lambda g: vjps[0](g) * (1 + 1e-4),)),
            "float32, gradient 0: 1.0e-04 from",
        ),
        (lambda y, vjps: (y, (lambda g: vjps[0](g) * np.nan,)), "float32, gradient 0: nan from"),
        (lambda y, vjps: (y + 1e-4, vjps), r"float32, value: \S+ from the CPU's, at most 1e-05"),
        (lambda y, vjps: (y.astype("float64"), vjps), "float32, value: expected float32 of shape"),
        (lambda y, vjps: (y, (lambda g: g[0],)), "^IndexError: "),
    ],
)
def test_op_checks_find_a_wrong_op(change, reason, double, monkeypatch):
    monkeypatch.setattr(gpu, "OP_LIMITS", {"float32": 1e-5})
    break_on_the_device(monkeypatch, "tanh", change)
    failed = failures(gpu.op_checks(double))
    assert list(failed) == ["op tanh"]
    assert re.search(reason, failed["op tanh"])


# ------------------------------------------------------------------------------ training

GRADIENTS, CURVE = "training, gradients of all weights, float32", "training, ten steps, float32"
AGAIN = "training, two runs with one seed"


def with_seeds(seeds):
    """Return `notes_network` with the next of `seeds` for its dropout on the device."""
    right = gpu.notes_network

    def network(device, *arguments, **options):
        model = right(device, *arguments, **options)
        if model.device != "cpu":
            seed = next(seeds)
            for layer in model.layers:
                if isinstance(layer, layers.Dropout):
                    layer.random_stream.own_seed = seed
        return model

    return network


def test_training_checks_find_another_seed(double_with_short_training, monkeypatch):
    double = double_with_short_training
    monkeypatch.setattr(gpu, "notes_network", with_seeds(itertools.repeat(6)))
    assert set(failures(gpu.training_checks(double, UNITS))) == {GRADIENTS, CURVE}


def test_training_checks_find_a_run_that_does_not_repeat(double_with_short_training, monkeypatch):
    double = double_with_short_training
    monkeypatch.setattr(gpu, "notes_network", with_seeds(itertools.count()))
    result = gpu.result_of(AGAIN, gpu.training_checks(double, UNITS)[AGAIN])
    assert not result.passed
    assert result.reason.startswith("losses: ")


def test_training_checks_find_a_wrong_gradient(double_with_short_training, monkeypatch):
    double = double_with_short_training

    def change(value, vjp):
        def wrong(g, wanted, out):
            *others, bias = vjp(g, wanted, out)
            return (*others, bias * 0)

        return value, wrong

    break_on_the_device(monkeypatch, "dense", change)
    failed = failures(gpu.training_checks(double, UNITS))
    assert set(failed) == {GRADIENTS, CURVE}
    assert "bias" in failed[GRADIENTS]


@pytest.mark.parametrize("name", gpu.OPTIMIZERS)
def test_optimizer_checks_find_a_wrong_optimizer(name, double, monkeypatch):
    monkeypatch.setattr(gpu, "OPTIMIZER_LIMITS", {"float32": 1e-3})
    rule = {"sgd": "sgd", "rms": "rmsprop", "ada": "adam"}[name[:3]]
    right = getattr(double, rule)

    def wrong(*arrays, rate, **numbers):
        right(*arrays, rate=rate * 1.01, **numbers)

    monkeypatch.setattr(double, rule, wrong)
    failed = failures({name: gpu.optimizer_checks(double, rows=20)[f"optimizer {name}"]})
    assert set(failed) == {name}


# ------------------------------------------------------------------------------ recordings

SAME_BITS, LAUNCHES = "recording, same bits, float32", "recording, launches"
TOGETHER = "recording, several steps in a launch"
PRODUCTS = "products at any address, float32"


def small_network(device, dtype):
    return gpu.notes_network(device, dtype, UNITS)


def recording_failures(double, network=small_network):
    return failures(recordings.recording_checks(double, network, RECORDED_UNITS))


def test_recording_checks_count_replays_and_launches(double_with_short_recordings):
    double = double_with_short_recordings
    found = recordings.recording_checks(double, small_network, RECORDED_UNITS)
    seen = {name: gpu.result_of(name, check) for name, check in found.items()}
    assert all(result.passed for result in seen.values())
    assert list(seen) == [SAME_BITS, TOGETHER, LAUNCHES, PRODUCTS]
    assert "batch 4 with 6 replays" in seen[SAME_BITS].reason
    # Of 8 steps in an epoch, 5 are replayed in the first one.
    assert f"batch 4 with {2 + 3 * 4} launches of 2 steps" in seen[TOGETHER].reason
    launches, nodes = map(int, re.findall(r"(\d+) (?:launches|nodes)", seen[LAUNCHES].reason))
    assert nodes == launches + 1 > 10
    assert seen[PRODUCTS].reason.startswith("9 products")


@pytest.mark.exhaustive
def test_recording_checks_find_training_without_replays(double_with_short_recordings):
    class Unknown(layers.Flatten):
        """A layer that does not declare recordable = True."""

    def network(device, dtype):
        model = small_network(device, dtype)
        return recompiled(model, [model.layers[0], Unknown(), *model.layers[2:]])

    failed = recording_failures(double_with_short_recordings, network)
    assert "Unknown does not declare" in failed[SAME_BITS]


def recompiled(model, stack):
    """Return a network of these layers."""
    other = minidl.models.Sequential(stack, device=model.device, seed=5)
    other.compile("adam", "sparse_categorical_crossentropy")
    return other


@pytest.mark.exhaustive
def test_recording_checks_find_other_bits(double_with_short_recordings, monkeypatch):
    seeds = itertools.count()

    def network(device, dtype):
        model = small_network(device, dtype)
        model.layers[3].random_stream.own_seed = next(seeds)
        return model

    failed = recording_failures(double_with_short_recordings, network)
    assert list(failed) == [SAME_BITS, TOGETHER]
    assert failed[SAME_BITS].startswith("batch 4, weight 0: ")
    assert failed[TOGETHER].startswith("batch 4, weight 0: ")


@pytest.mark.exhaustive
def test_recording_checks_find_steps_that_are_launched_singly(
    double_with_short_recordings, monkeypatch
):
    module = recordings.recording_module(double_with_short_recordings)
    monkeypatch.setattr(module, "_chain_of", lambda graph: None)
    failed = recording_failures(double_with_short_recordings)
    assert list(failed) == [TOGETHER]
    assert "expected launches of 2 steps and then none, got 0 and 0" in failed[TOGETHER]


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", ["history", "checkpoint"])
def test_recording_checks_find_another(what, double_with_short_recordings, monkeypatch):
    right, numbers = recordings.trained, itertools.count()

    def trained(*arguments):
        model = right(*arguments)
        if what == "history":
            model.history.logs[-1]["loss"] += next(numbers)
        else:
            model.optimizer.iterations += next(numbers)
        return model

    monkeypatch.setattr(recordings, "trained", trained)
    failed = recording_failures(double_with_short_recordings)
    assert set(failed) - {TOGETHER} == {SAME_BITS}
    assert what[:-1] in failed[SAME_BITS]


@pytest.mark.exhaustive
def test_recording_checks_find_another_number_of_nodes(double_with_short_recordings, monkeypatch):
    right = recordings.eager_launches
    monkeypatch.setattr(recordings, "eager_launches", lambda *arguments: right(*arguments) - 1)
    failed = recording_failures(double_with_short_recordings)
    assert list(failed) == [LAUNCHES]
    assert "expected one node more than the" in failed[LAUNCHES]


@pytest.mark.parametrize("operand", ["b", "out"])
def test_recording_checks_find_products_that_depend_on_addresses(
    operand, double_with_short_recordings, monkeypatch
):
    double = double_with_short_recordings
    right = double.matmul

    def matmul(a, b, *, out, **options):
        right(a, b, out=out, **options)
        address = {"b": b, "out": out}[operand].data.ptr
        if address % 64:
            out += 1

    monkeypatch.setattr(double, "matmul", matmul)
    found = recordings.recording_checks(double, gpu.notes_network, RECORDED_UNITS)
    assert "differ" in failures({PRODUCTS: found[PRODUCTS]})[PRODUCTS]


# ------------------------------------------------------------------------------ beside peers


def test_fit_turns_leave_out_the_first_epoch(cuda_double, short_training, monkeypatch):
    _, x, y = images.sixty_thousand()
    (trained,) = gpu_training.fit_turns(x, y, device="cuda")(3, 16)
    (single,) = gpu_training.fit_turns(x, y, device="cuda", together=sys.maxsize)(3, 16)
    (eager,) = gpu_training.fit_turns(x, y, device="cuda", record=False)(3, 16)
    assert trained.loss == single.loss == eager.loss
    assert 0 < trained.epoch < trained.seconds
    assert gpu_training.warm([1.0, 9.0, 10.0, 12.0, 15.0]) == 2.0
    assert gpu_training.warm([1.0, 9.0]) == 8.0


def test_turns_train_each_batch_size_for_some_epochs():
    calls = []

    def build(size):
        times = itertools.count(1.0)
        return lambda: calls.append(size) or (next(times), 0.5)

    turn = gpu_training.turns(build)
    assert turn(3, 8, 4) == [gpu_training.Trained(6.0, 2.5, 0.5)] * 2
    assert calls == [8] * 3 + [4] * 3
    assert turn(1, 8) == [gpu_training.Trained(4.0, 4.0, 0.5)]  # built once


def test_kernels_of_counts_events_of_the_device():
    def event(device, microseconds):
        time_range = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(device_type=f"DeviceType.{device}", time_range=time_range)

    events = [event("CUDA", 3.0), event("CUDA", 2.0), event("CPU", 90.0)] * 10
    assert gpu_training.kernels_of(events) == gpu_training.Kernels(2, pytest.approx(5e-6))
    with pytest.raises(RuntimeError, match="no kernels"):
        gpu_training.kernels_of(events[2:3])


def test_profiled_steps_are_replays(cuda_double, short_training, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu_training, "PROFILED", range(1, 2))
    x, y = images.synthetic(32)
    profiler = SimpleNamespace(
        start=lambda: seen.append(launches()), stop=lambda: seen.append(launches())
    )

    def launches():
        return cuda_double.graph_launches, cuda_double.launches

    callback = gpu_training.Profiled(profiler)
    model = epochs.minidl_network(x.shape[1:], "cuda")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    (graphs, others), (graphs_after, others_after) = seen
    assert graphs_after == graphs + 1
    assert others_after == others


def test_cells_have_microseconds_and_ratios():
    measured = [{"seconds": {gpu_training.RECORDED: [2.0], "peer": [4.0]}, "load": 0.0}]
    assert gpu_training.cell(measured, "peer", 1_001, 10) == f"{4e6 / 101:.1f} (0.50)"
    alone = {10: gpu_training.Kernels(18, 1 / 101)}
    assert gpu_training.kernel_row({10: measured}, alone, 1_001) == [
        (gpu_training.KERNELS, f"{1e6 / 101:.1f} (2.00), 18 kernels", "", "")
    ]
    assert gpu_training.kernel_row({10: measured}, {}, 1_001) == []


def test_training_lines_without_a_device_have_the_reason(short_training, monkeypatch):
    @contextlib.contextmanager
    def team(*arguments, **options):
        raise workers.Unavailable("no memory")
        yield

    monkeypatch.setattr(gpu_training, "team", team)
    assert list(gpu_training.training_lines("cuda", (16,), 1))[-1] == "not measured: no memory"


# ------------------------------------------------------------------------------ timings


def test_seconds_waits_for_queued_work(monkeypatch):
    """Calls on this device are queued at once, and take 2 ms each at the next synchronisation."""
    now, queued, bursts = 0.0, 0, []

    def call():
        nonlocal queued
        queued += 1

    def synchronize():
        nonlocal now, queued
        now += 0.002 * queued
        bursts.append(queued)
        queued = 0

    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: now))
    taken = gpu.seconds(SimpleNamespace(synchronize=synchronize), call)
    assert taken == pytest.approx(0.002)
    assert bursts == [1, 1, *[10] * gpu.REPEATS]
    assert queued == 0


def test_dropout_rates_count_bytes_read_and_written(double, monkeypatch):
    monkeypatch.setattr(gpu, "seconds", lambda backend, call: 1e-6)
    assert gpu.dropout_rates(double, 2**16) == ["524.3", "524.3"]  # 2 * 4 * 65,536 bytes in 1 us


def test_table_prints_the_reason_of_a_failed_measurement(double):
    def measure(backend, size):
        if size == 2 and backend is double:
            raise MemoryError("out of\nmemory")
        return [str(10 * size)]

    assert list(gpu.table("size", ["speed"], measure, double, [1, 2])) == [
        "| size | speed, cuda:0 | speed, cpu |",
        "|---|---|---|",
        "| 1 | 10 | 10 |",
        "| 2 | not measured: MemoryError: out of memory | 20 |",
    ]
