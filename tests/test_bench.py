"""Benchmarks: correct arithmetic, equal work, and a reason for each peer that is left out.

No test depends on how fast anything is.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import timeit
from importlib.util import find_spec
from multiprocessing.connection import Connection
from types import SimpleNamespace
from unittest import mock

import numpy as np
import psutil
import pytest
from llvmlite import binding

import minidl
from bench import __main__ as bench_all
from bench import (
    dropout,
    epochs,
    images,
    memory,
    report,
    rounds,
    scaling,
    startup,
    train,
    workers,
)
from minidl import datasets, layers

ABSENT = "a_module_that_nobody_has"
ABSENT_LINE = f"{ABSENT} is not installed (pip install -e '.[bench]')"

ROUNDS = [
    {"seconds": {"minidl": [2.0, 1.0], "peer": [4.0, 5.0]}, "load": 0.0},
    {"seconds": {"minidl": [3.0, 4.0], "peer": [4.0, 3.0]}, "load": 0.5},
    {"seconds": {"minidl": [1.5, 1.5], "peer": [2.0, 9.0]}, "load": 0.1},
]


# ------------------------------------------------------------------------------ statistics


def test_ratios_compare_the_best_turns_of_each_round():
    assert rounds.best_turns(ROUNDS, "minidl") == [1.0, 3.0, 1.5]
    assert rounds.median_turn(ROUNDS, "minidl") == 1.5
    assert rounds.ratios(ROUNDS, "minidl", "peer") == [0.25, 1.0, 0.75]
    assert rounds.median_ratio(ROUNDS, "minidl", "peer") == 0.75
    # Not the ratio of the medians, which is 1.5 / 3.
    assert rounds.median_turn(ROUNDS, "peer") == 3.0


def test_load_line_shows_the_median_and_the_busiest_round():
    assert rounds.load_line(ROUNDS) == (
        "Other processes used 0.10 cores in the median of 3 rounds, 0.50 in the busiest."
    )


@pytest.mark.parametrize(("everybody", "load"), [(17.0, 0.75), (14.0, 0.0), (13.5, 0.0)])
def test_other_load_excludes_our_own_time(everybody, load):
    before = rounds.ProcessorTime(clock=100.0, everybody=10.0, ours=5.0)
    after = rounds.ProcessorTime(clock=104.0, everybody=everybody, ours=9.0)
    assert rounds.other_load(before, after) == load


def test_processor_time_counts_running_and_ended_children():
    def of_children():
        return rounds.processor_time().ours - time.process_time()

    before, attempts = of_children(), 1_000
    with train.busy_process():
        while of_children() < before + 0.1 and attempts:
            attempts -= 1
            time.sleep(0.01)
        assert attempts, "the work of a running child is not counted"
    assert of_children() > before + 0.05  # less, because the system counts in hundredths


def test_take_turns_alternates_the_sides():
    calls = []

    def side(name, seconds):
        return lambda: calls.append(name) or seconds

    measured = rounds.take_turns({"a": side("a", 1.0), "b": side("b", 2.0)}, rounds=2, repeats=3)
    assert calls == ["a", "b"] * 6
    assert [m["seconds"] for m in measured] == [{"a": [1.0] * 3, "b": [2.0] * 3}] * 2


# ------------------------------------------------------------------------------ workers


class ThreadAsProcess(threading.Thread):
    """Stand-in for the process of a worker."""

    pid = os.getpid()

    def __init__(self, target, args, daemon):
        pipe, *rest = args
        copy = Connection(os.dup(pipe.fileno()))  # the original is closed, as after a spawn
        super().__init__(target=target, args=(copy, *rest), daemon=daemon)

    def kill(self):
        """Do nothing: the thread has ended with its pipe."""


@pytest.fixture
def workers_in_threads(monkeypatch):
    """Let workers run in threads of this process, and answer at once."""
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=ThreadAsProcess)
    stand_in = SimpleNamespace(get_context=lambda kind: context)
    monkeypatch.setattr(workers, "multiprocessing", stand_in)
    monkeypatch.setattr(workers, "_become_idle", lambda: None)


def adding(first):
    """Build a side that adds; its answers name its process."""
    return lambda second: (first + second, os.getpid())


def failing():
    raise ArithmeticError("no such\nnumber")


def ending():
    os._exit(3)


def test_worker_answers_from_its_own_process():
    with workers.Worker(workers.Side(adding), 2) as worker:
        (five, process), (six, same) = worker(3), worker(4)
    assert (five, six) == (5, 6)
    assert process == same != os.getpid()


@pytest.mark.slow
def test_watched_worker_returns_its_peak_memory():
    with workers.Worker(workers.Side(adding), b"x") as worker:
        _, small = worker.watched(b"x")
        (_, _), large = worker.watched(b"x" * 200_000_000)
    assert large - small >= 200_000_000


def reason_of(side):
    """Return the reason why a side is not available."""
    with pytest.raises(workers.Unavailable) as raised, workers.Worker(side) as worker:
        worker()
    return str(raised.value)


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (workers.Side(failing), "ArithmeticError: no such number"),
        (workers.Side(adding, needs=ABSENT), ABSENT_LINE),
    ],
)
def test_worker_that_fails_raises_unavailable(side, reason, workers_in_threads):
    assert reason_of(side) == reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (workers.Side(failing), "ArithmeticError: no such number"),
        (workers.Side(ending), "its process ended with 3"),
    ],
)
def test_worker_process_that_fails_raises_unavailable(side, reason):
    assert reason_of(side) == reason


def check_team():
    """Check that a team leaves out the peers that cannot run, with the reasons."""
    sides = {
        "ours": workers.Side(adding),
        "absent": workers.Side(adding, needs=ABSENT),
        "broken": workers.Side(adding, {"no": "argument"}, needs="numpy"),
    }
    with workers.team(sides, 1, warm_up=(2,)) as (team, first, left_out):
        assert list(team) == list(first) == ["ours"]
        assert first["ours"][0] == 3
        assert team["ours"](4)[0] == 5
    assert list(left_out) == ["absent", "broken"]
    assert left_out["absent"] == ABSENT_LINE
    assert "TypeError" in left_out["broken"]


def test_team_leaves_out_peers_with_the_reason(workers_in_threads):
    check_team()


@pytest.mark.slow
def test_team_of_processes_leaves_out_peers_with_the_reason():
    check_team()


def test_team_without_our_side_raises_unavailable(workers_in_threads):
    with (
        pytest.raises(workers.Unavailable, match="ArithmeticError"),
        workers.team({"ours": workers.Side(failing)}),
    ):
        pass


# ------------------------------------------------------------------------------ training

DATA = ("digits", *images.synthetic(300))

TRAINED = {
    "made_with": "Made with care.",
    "processor": "a processor (AVX2), 2 cores",
    "data": "4 images of nothing",
    "epochs": 2,
    "batches": [
        {
            "batch_size": 32,
            "rounds": [
                {
                    "seconds": {
                        train.MINIDL: [1.0, 2.0],
                        train.EAGER: [1.25, 2.0],
                        train.BUSY: [3.0, 2.5],
                        "peer": [4.0, 4.0],
                        train.PRODUCTS: [0.5, 0.8],
                    },
                    "load": 0.25,
                }
            ],
            "losses": {
                train.MINIDL: [0.5, 0.4],
                train.EAGER: [0.5, 0.4],
                train.BUSY: [0.5, 0.4],
                "peer": [0.5, 0.42],
                train.PRODUCTS: [None, None],
            },
            "left_out": {"JAX": ABSENT_LINE},
        }
    ],
}


def test_section_of_training_has_table_and_notes():
    lines = list(train.section(TRAINED))
    assert "| peer | 4.00 | 4.00 | 0.25 | 0.25 | 0.500 0.420 |" in lines
    assert f"| {train.PRODUCTS} | 0.50 | 0.50 | 2.00 | 2.00 |  |" in lines
    assert any("takes 2.50 times as long" in line for line in lines)
    assert "- In epoch 2, the losses of all sides are within 5.0% of minidl's." in lines
    assert f"- left out: JAX: {ABSENT_LINE}" in lines
    assert not any(line.startswith(f"| {train.BUSY}") for line in lines)


def test_ratio_table_names_the_processor_and_the_batch_sizes():
    other = {"batch_size": 64, "rounds": [{"seconds": {train.MINIDL: [1.0], "late": [4.0]}}]}
    assert list(train.ratio_table(TRAINED | {"batches": [*TRAINED["batches"], other]})) == [
        "| a processor (AVX2), 2 cores | batch 32 | batch 64 |",
        "|---|---|---|",
        f"| {train.EAGER} | 0.80 |  |",
        "| peer | 0.25 |  |",
        f"| {train.PRODUCTS} | 2.00 |  |",
        "| late |  | 0.25 |",
    ]


def check_training(monkeypatch):
    """Check a small measurement of training, in which a peer is missing."""
    absent = ("a peer", workers.Side(epochs.minidl_epoch, needs=ABSENT))
    monkeypatch.setattr(train, "PEERS", {"absent": absent})
    result = train.measure((32,), rounds=1, epochs=2, peers=("absent",), data=DATA)
    (batch,) = json.loads(json.dumps(result))["batches"]
    seconds = batch["rounds"][0]["seconds"]
    assert list(seconds) == [train.MINIDL, train.EAGER, train.BUSY, train.PRODUCTS]
    assert all(len(turns) == 2 and min(turns) > 0 for turns in seconds.values())
    first, *_, last = batch["losses"][train.MINIDL]
    assert last < first
    for name in (train.EAGER, train.BUSY):  # the same seed
        assert batch["losses"][name] == batch["losses"][train.MINIDL]
    assert batch["left_out"] == {"a peer": ABSENT_LINE}
    assert f"- left out: a peer: {ABSENT_LINE}" in list(train.section(result))


@pytest.mark.needs_recordings
def test_minidl_epoch_records_steps_unless_told_not_to(monkeypatch):
    models, network = [], epochs.minidl_network

    def kept(shape, device="cpu"):
        models.append(network(shape, device))
        return models[-1]

    monkeypatch.setattr(epochs, "minidl_network", kept)
    for record in (True, False):
        epochs.minidl_epoch(*DATA[1:], 32, record=record)()
    # Nine whole batches; the first two and the trial are not replays.
    assert [model.recording.replays for model in models] == [6, 0]


def test_minidl_epoch_rejects_steps_that_are_not_recorded(monkeypatch):
    class Unknown(layers.Flatten):
        """A layer that does not declare recordable = True."""

    monkeypatch.setattr(layers, "Flatten", Unknown)
    with pytest.raises(RuntimeError, match="not recorded: Unknown does not declare"):
        epochs.minidl_epoch(*DATA[1:], 32)()
    epochs.minidl_epoch(*DATA[1:], 32, record=False)()


@pytest.mark.needs_recordings
def test_train_measures_all_sides_and_names_a_missing_peer(monkeypatch, workers_in_threads):
    check_training(monkeypatch)


@pytest.mark.slow
def test_train_measures_processes_and_names_a_missing_peer(monkeypatch):
    check_training(monkeypatch)


@pytest.fixture(scope="module")
def digits():
    x, y = datasets.mnist_5k.load_data()[0]
    return x[:2_000], y[:2_000]


def first_loss(epoch):
    """Return the loss of the first epoch."""
    _, loss = epoch()
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["jax", "torch", "torch-fused"])
def test_peer_does_the_same_work(peer, digits):
    _, side = train.PEERS[peer]
    if find_spec(side.needs) is None:
        pytest.skip(f"{side.needs} is not installed (the extra bench)")
    with workers.Worker(side, *digits, 32) as worker:
        loss = first_loss(worker)
    assert abs(loss / first_loss(epochs.minidl_epoch(*digits, 32)) - 1) < 0.1


@pytest.mark.slow
def test_torch_graphs_do_the_work_of_eager_steps(digits, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed (the extra bench)")
    captured = []
    monkeypatch.setattr(epochs, "captured", lambda step: captured.append(step) or step)
    x, y = digits[0][:1_000], digits[1][:1_000]
    losses = []
    for graph in (True, False):
        epoch = epochs.torch_epoch(x, y, 32, fused=True, graph=graph)  # it sets the seed
        losses.append([epoch()[1] for _ in range(2)])
    assert losses[0] == losses[1]
    assert len(captured) == 2  # of 32 and of 8 rows


@pytest.mark.parametrize(("name", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_number_of_device(name, number):
    assert epochs.number_of(name) == number


@pytest.mark.needs_recordings
def test_loss_shows_other_work(digits, monkeypatch):
    expected = first_loss(epochs.minidl_epoch(*digits, 32))
    monkeypatch.setattr(epochs, "RATES", (0.0, 0.0))
    assert abs(first_loss(epochs.minidl_epoch(*digits, 32)) / expected - 1) > 0.15


def test_products_of_step_are_those_of_forward_and_backward():
    # Three layers: forward, gradients of weights; and of inputs for all but the first.
    products = epochs.products_of_step(7)
    shapes = [(a.shape[0], a.shape[1], b.shape[1]) for a, b, _ in products]
    assert shapes == [
        *((7, 784, 512), (7, 512, 256), (7, 256, 10)),
        *((256, 7, 10), (7, 10, 256)),
        *((512, 7, 256), (7, 256, 512)),
        (784, 7, 512),
    ]
    assert all(out.shape == (a.shape[0], b.shape[1]) for a, b, out in products)
    assert {out.dtype for _, _, out in products} == {np.dtype("float32")}
    assert epochs.products_of_step(0) == []


# ------------------------------------------------------------------------------ dropout

DROPPED = {
    "made_with": "Made with care.",
    "sizes": [
        {
            "elements": 2_000,
            "rounds": [
                {"seconds": {dropout.MINIDL: [1e-6], dropout.COPY: [5e-7]}, "load": 0.0},
            ],
        }
    ],
    "left_out": {"torch F.dropout": ABSENT_LINE},
}


def test_section_of_dropout_has_table_and_notes():
    lines = list(dropout.section(DROPPED))
    assert "| side | 2,000 |" in lines
    assert f"| {dropout.MINIDL} | 2.000 |" in lines
    assert f"| {dropout.COPY} | 4.000 (0.50) |" in lines
    assert f"- left out: torch F.dropout: {ABSENT_LINE}" in lines
    assert list(dropout.section(DROPPED | {"noise": DROPPED})).count(lines[4]) == 2


def check_dropout(monkeypatch):
    """Check a small measurement of dropout, in which a peer is missing."""
    absent = ("a peer", workers.Side(dropout.copy, needs=ABSENT))
    monkeypatch.setattr(dropout, "PEERS", {"absent": absent})
    monkeypatch.setattr(dropout, "NOISE_PEERS", {"absent": absent})
    result = dropout.measure((1_500,), rounds=1, peers=("absent",))
    (size,) = result["sizes"]
    assert size["elements"] == 1_024  # whole rows of 512
    assert list(size["rounds"][0]["seconds"]) == list(dropout.OWN)
    assert result["left_out"] == {"a peer": ABSENT_LINE}
    (size,) = result["noise"]["sizes"]
    assert list(size["rounds"][0]["seconds"]) == list(dropout.NOISE)
    assert result["noise"]["left_out"] == {"a peer": ABSENT_LINE}


def test_noise_of_each_side_has_the_mean_and_variance_of_its_name():
    x = np.full((400, 512), 2.0, "float32")
    for build in (dropout.minidl_noise, dropout.numpy_noise):
        made = []

        def keep(call_on, made=made):
            made.append(call_on(x)())

        with mock.patch.object(dropout, "turns_of", keep):
            build()
        assert abs(made[0].mean() - 2) < 0.01
        assert abs(made[0].std() - dropout.SIGMA) < 0.01


def test_dropout_measures_all_sides_and_names_a_missing_peer(monkeypatch, workers_in_threads):
    class Once(timeit.Timer):
        def autorange(self):
            return 1, self.timeit(1)

    monkeypatch.setattr(dropout, "timeit", SimpleNamespace(Timer=Once))
    monkeypatch.delitem(dropout.OWN, dropout.THREADED_COPY)  # it takes seconds to compile
    check_dropout(monkeypatch)


@pytest.mark.exhaustive
def test_dropout_measures_processes_and_names_a_missing_peer(monkeypatch):
    # Threads measure the other sides above. A process for each side takes seconds.
    for name in (dropout.COPY, "minidl, noise_shape (1, None)"):
        monkeypatch.delitem(dropout.OWN, name)
    monkeypatch.delitem(dropout.NOISE, "NumPy standard_normal")
    check_dropout(monkeypatch)


# ------------------------------------------------------------------------------ memory


def test_array_bytes_kept_is_exact():
    assert memory.array_bytes_kept(lambda: np.ones(1_000, "uint8")) == 1_000
    assert memory.array_bytes_kept(lambda: np.ones(1_000, "uint8").sum()) == 0
    assert memory.array_bytes_kept(lambda: [np.ones(3), bytearray(10**6)]) == 24


def test_kept_by_layer_is_zero_for_dropout_and_finds_a_stored_mask():
    def storing(x):
        return x * minidl.Tensor(np.ones(memory.SHAPE, "float32"))

    assert memory.kept_by_layer(layers.Dropout(0.5, seed=0)) == 0
    assert memory.kept_by_layer(storing) == 128 * 512 * 4


def test_peak_bytes_is_that_of_the_command():
    assert memory.peak_bytes(["-c", "pass"]) < 100e6
    assert 300e6 < memory.peak_bytes(["-c", "x = b'x' * 300_000_000; del x"]) < 400e6


def test_peak_bytes_raises_if_the_command_fails(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        memory.peak_bytes(["-c", "raise SystemExit('no')"])
    assert "no" in capfd.readouterr().err


def test_section_of_memory_has_table():
    result = memory.measure(command=["-c", "pass"])
    assert result["layer"] == 0
    assert result["with_dropout"] <= result["without_dropout"]
    lines = list(memory.section(result | {"peak": 1_234_567}))
    assert "| `python -c pass`, peak of resident memory | 1,234,567 |" in lines


# ------------------------------------------------------------------------------ start

# Its first step lasts a second for each file in the cache of kernels, plus one; it adds a file.
FAKE_COMMAND = """
import json, os, pathlib, sys
cache = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])
seconds = 1.0 + len(list(cache.iterdir()))
(cache / f"kernel-{seconds}").touch()
log = pathlib.Path(sys.argv[sys.argv.index("--log-json") + 1])
events = [{"event": "start"}, {"event": "end", "first_step_seconds": seconds}]
log.write_text("".join(json.dumps(event) + chr(10) for event in events))
"""


def test_cold_starts_use_an_empty_cache_and_warm_starts_share_one(monkeypatch):
    right = startup.import_seconds
    monkeypatch.setattr(startup, "import_seconds", lambda module: right("json"))
    result = startup.measure(rounds=2, command=("-c", FAKE_COMMAND))
    assert rounds.best_turns(result["rounds"], startup.COLD) == [1.0, 1.0]
    assert rounds.best_turns(result["rounds"], startup.WARM) == [2.0, 3.0]
    assert min(rounds.best_turns(result["rounds"], startup.NUMPY)) > 0


def test_section_of_startup_has_table():
    times = {
        startup.NUMPY: [0.25, 0.5, 0.25],
        startup.MINIDL: [0.5, 1.0, 0.25],
        startup.COLD: [4.0, 5.0, 6.0],
        startup.WARM: [1.0, 3.0, 2.0],
    }
    measured = [
        {"seconds": {name: [seconds[i]] for name, seconds in times.items()}, "load": 0.0}
        for i in range(3)
    ]
    assert startup.beyond_numpy(measured) == [0.25, 0.5, 0.0]
    lines = list(startup.section({"made_with": "", "command": "-m x", "rounds": measured}))
    assert "| `import minidl` minus `import numpy` | 0.25 | 0.25 0.50 0.00 |" in lines
    assert f"| {startup.COLD} | 5.00 | 4.00 5.00 6.00 |" in lines


# ------------------------------------------------------------------------------ scaling


def test_point_counts_weights_samples_and_operations():
    notes = scaling.Point.of("batch", 512)
    assert notes.weights == 535_818  # as Keras' summary of the notes' network says
    assert notes.samples == 5_120
    assert scaling.Point.of("images", 1_000_000).samples == 1_000_000
    assert scaling.Point.of("depth", 3).units == (784, 256, 256, 256, 10)
    # As many operations as the products that are measured as the floor.
    flops = sum(2 * a.size * b.shape[1] for a, b, _ in epochs.products_of_step(512))
    assert notes.operations == 10 * flops


def test_row_of_scaling_has_rates_and_memory():
    measured = {"value": 512, "seconds": [3.0, 2.0], "memory": 123_400_000}
    operations = scaling.Point.of("batch", 512).operations
    expected = ["512", "535,818", "200.00", "390.6", f"{operations / 2e9:.0f}", "123"]
    assert scaling.row("batch", measured) == expected


def check_scaling():
    """Check a small measurement of scaling."""
    result = scaling.measure({"width": (8,), "images": (300,)}, turns=1)
    assert all(
        min(point["seconds"]) > 0 and point["memory"] > 10e6
        for points in result["sweeps"].values()
        for point in points
    )
    assert "### Against images" in list(scaling.section(result))


def test_scaling_measures_time_and_memory(workers_in_threads):
    check_scaling()


@pytest.mark.slow
def test_scaling_measures_time_and_memory_of_processes():
    check_scaling()


def test_mapped_images_are_those_written(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BLOCK", 4)
    images.write_synthetic(tmp_path, 10)
    x, y = images.mapped(tmp_path, 6)
    assert isinstance(x, np.memmap)
    assert x.shape == (6, 28, 28)
    expected = [images.synthetic(4, seed=0), images.synthetic(4, seed=4)]
    np.testing.assert_array_equal(x, np.concatenate([e[0] for e in expected])[:6])
    np.testing.assert_array_equal(y, np.concatenate([e[1] for e in expected])[:6])


def test_sixty_thousand_without_mnist_is_synthetic(monkeypatch):
    def no_mirror():
        raise OSError("no mirror")

    monkeypatch.setattr(datasets.mnist, "load_data", no_mirror)
    name, x, y = images.sixty_thousand()
    assert name.startswith("synthetic images, ")
    assert "MNIST" in name
    assert (x.shape, x.dtype, y.shape) == ((60_000, 28, 28), np.uint8, (60_000,))


# ------------------------------------------------------------------------------ the report


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [({"avx2": True, "avx512f": True}, "AVX-512"), ({"avx2": True}, "AVX2"), ({}, "no AVX2")],
)
def test_processor_has_name_and_vectors(flags, vectors, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some: Chip\n")
    monkeypatch.setattr(report, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: flags)
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "chip2")
    assert report.processor() == f"Some: Chip (chip2, {vectors}), 3 cores"
    assert f", Some: Chip (chip2, {vectors}), 3 cores, Python" in report.made_with()


def test_processor_without_cpuinfo_has_the_name_of_the_platform(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr(report.platform, "processor", lambda: "")
    monkeypatch.setattr(report.platform, "machine", lambda: "abacus")
    assert report.processor().startswith("abacus (")


def test_with_section_appends_or_replaces():
    one = report.with_section("# Head\n\ntext\n", "one", ["a"])
    assert one == "# Head\n\ntext\n\n<!-- begin one -->\n\na\n\n<!-- end one -->\n"
    both = report.with_section(one, "two", ["b"])
    assert both == one + "\n<!-- begin two -->\n\nb\n\n<!-- end two -->\n"
    assert report.with_section(both, "one", ["c", "d"]) == both.replace("\na\n", "\nc\nd\n")


@pytest.mark.parametrize("text", ["<!-- begin a -->\n", "<!-- end a -->\n<!-- begin a -->\n"])
def test_with_section_rejects_a_missing_marker(text):
    with pytest.raises(ValueError, match="markers of a must be <!-- begin a -->"):
        report.with_section(text, "a", [])


def test_write_adds_results_and_keeps_the_rest(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    before = "# What the kernels cost\n\nas it was\n"
    (tmp_path / "RESULTS.md").write_text(before)
    bench_all.write(tmp_path, {"train": TRAINED})
    bench_all.write(tmp_path, {"dropout": DROPPED})
    bench_all.write(tmp_path, {"dropout": DROPPED})
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith(before)
    assert text.count("## Training") == text.count("## Dropout") == 1
    assert text.count("](results.png)") == 1
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "train": TRAINED,
        "dropout": DROPPED,
    }
    assert 0 < (tmp_path / "results.png").stat().st_size < 150_000


def test_main_rejects_unknown_program(capsys):
    with pytest.raises(SystemExit):
        bench_all.main(["trian"])
    assert "expected train, dropout, memory, startup, scaling, distributed, got trian" in (
        capsys.readouterr().err
    )


def test_busy_process_ends_with_its_killed_parent():
    program = f"""
import subprocess, sys, time
busy = subprocess.Popen([sys.executable, "-c", {train.KEEP_BUSY!r}], stdout=subprocess.PIPE)
busy.stdout.readline()
print(busy.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        busy = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    attempts = 3_000
    while busy.is_running() and busy.status() != psutil.STATUS_ZOMBIE:
        attempts -= 1
        assert attempts, "it still runs"
        time.sleep(0.01)
