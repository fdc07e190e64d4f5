"""The report on a GPU: its parts, and the faults that each of its checks must find.

It runs on the double of the CUDA backend's array library, which has no properties of a device.
"""

import functools
import itertools
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import minidl
from bench import gpu
from minidl import datasets, layers
from minidl.engine import ops

SHAPES = ((), (0,), (2, 65))
LARGE = 2**11 + 3
UNITS = (24, 16)

PROPERTIES = {"name": b"Double of a GPU", "major": 8, "minor": 9, "totalGlobalMem": 24 * 2**30}
RUNTIME = {
    "getDeviceProperties": lambda index: PROPERTIES,
    "driverGetVersion": lambda: 13020,
    "runtimeGetVersion": lambda: 12080,
}


@pytest.fixture
def double(cuda_double, monkeypatch):
    """Return the CUDA backend over the double, with a device that has properties."""
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
def small_report(monkeypatch):
    """Let the report check and time small networks and arrays, once."""
    for name, sizes in {
        "mask_checks": {"shapes": SHAPES, "large": LARGE},
        "training_checks": {"units": UNITS},
        "timings": {"units": UNITS},
    }.items():
        monkeypatch.setattr(gpu, name, functools.partial(getattr(gpu, name), **sizes))
    monkeypatch.setattr(gpu, "QUICK_SIZES", (1024, 2048))
    monkeypatch.setattr(gpu, "QUICK_BATCHES", (1000,))
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
    masks, training = 6 + len(gpu.DTYPES), 1 + 2 * len(gpu.LOSS_LIMITS)
    assert len(passed) == masks + len(gpu.OPS) + len(gpu.OPTIMIZERS) + training
    assert "The longer check: `pytest --device cuda:0`" in lines
    assert "### Times, measured on this device and its host" in lines
    times = {line.split()[1]: line for line in lines if re.match(r"\| [\d,]+ \|", line)}
    assert list(times) == ["1,024", "2,048", batch]
    assert all(re.fullmatch(r"\| [\d,]+ (\| \d+\.\d+ ){4}\|", line) for line in times.values())
    assert lines[-1] == f"{len(passed)} checks passed, 0 failed"


def test_report_on_tiny_data_has_all_parts(tiny_report, capsys):
    assert gpu.main(["--device", "cuda:0", "--quick"]) == 0
    check_report(capsys.readouterr().out.splitlines(), batch="16")


@pytest.mark.slow
def test_report_has_all_parts(double, small_report, capsys):
    assert gpu.main(["--device", "cuda:0", "--quick"]) == 0
    check_report(capsys.readouterr().out.splitlines(), batch="1,000")


def test_report_with_failed_check_returns_1(double, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "op_checks", lambda backend: {"op nothing": lambda: 1 / 0})
    monkeypatch.setattr(gpu, "mask_checks", lambda backend: {"mask": lambda: "equal"})
    monkeypatch.setattr(gpu, "optimizer_checks", lambda backend: {})
    monkeypatch.setattr(gpu, "training_checks", lambda backend: {})
    monkeypatch.setattr(gpu, "timings", lambda *sizes: iter(()))
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
    monkeypatch.setattr(gpu, "timings", lambda backend, *sizes: asked.append(sizes) or iter(()))
    for name in ("mask_checks", "op_checks", "optimizer_checks", "training_checks"):
        monkeypatch.setattr(gpu, name, lambda backend: {})
    assert gpu.main([]) == gpu.main(["--quick"]) == 0
    assert asked[0] == (gpu.SIZES, gpu.BATCHES)
    assert asked[1] == (gpu.QUICK_SIZES, gpu.QUICK_BATCHES)


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
