"""Benchmark of several processes: its groups, its report, and the model of its cost."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec

import psutil
import pytest

from bench import __main__ as bench_all
from bench import cost, distributed, epochs, groups, scaling
from bench.cost import Machine, Times, machine_of, predict
from bench.distributed import PLAIN, ddp, shared
from bench.groups import Group, Task
from bench.workers import Unavailable

needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or groups.mpiexec() is None,
    reason="mpi4py or mpiexec is not installed (the extra test)",
)
TINY = Task((64, 32), 128, 2, is_synthetic=True)


# ------------------------------------------------------------------------------ groups


@pytest.mark.needs_recordings
@needs_mpi
def test_group_of_two_sends_its_gradients_once_and_has_the_bits_of_one():
    one = dict(zip(("64", "32"), groups.minidl_training(TINY, 2), strict=True))
    two = Group("minidl", 2, {"shards": 2})(TINY, 120.0)
    assert list(two) == list(one)
    for name, answer in two.items():
        assert answer["loss"] == one[name]["loss"]
        assert one[name]["sent"] == 0
        assert 1 <= answer["sent"] < 1.001  # with the sums of losses
        assert len(answer["seconds"]) == TINY.epochs
        assert min(answer["seconds"]) > 0


@pytest.mark.exhaustive
def test_torch_processes_do_the_same_work():
    if find_spec("torch") is None:
        pytest.skip("torch is not installed (the extra bench)")
    task = Task((64,), 2_000, 1)
    (plain,) = groups.minidl_training(task)
    for size in (1, 2):
        (answer,) = Group("torch", size, {"fused": True})(task, 120.0).values()
        assert abs(answer["loss"] / plain["loss"] - 1) < 0.15


def test_group_that_fails_raises_the_reason():
    with pytest.raises(RuntimeError, match=r"(?s)processes failed.*Traceback.*got 0"):
        Group("minidl", 1, {"shards": 0})(TINY, 120.0)


def test_group_that_lasts_too_long_raises(monkeypatch):
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(Group, "commands", lambda *_: [sleeping])
    with pytest.raises(RuntimeError, match=r"expected to end within 0\.1 s"):
        Group("minidl")(TINY, 0.1)


def test_end_kills_processes_and_those_below_them():
    below = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    command = [sys.executable, "-c", program, below]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        last = psutil.Process(int(process.stdout.readline()))
        groups.end(process)
    attempts = 1_000
    while last.is_running() and last.status() != psutil.STATUS_ZOMBIE:
        attempts -= 1
        assert attempts, "it still runs"
        time.sleep(0.01)


def test_group_whose_modules_are_missing_is_left_out(monkeypatch):
    monkeypatch.setattr(groups, "find_spec", lambda name: None if name == "mpi4py" else name)
    present, left_out = distributed.available(distributed.SIDES)
    assert {group.size for group in present.values() if group.train == "minidl"} == {1}
    assert set(left_out) == {shared(2, 2), shared(8, 2)}
    assert left_out[shared(2, 2)] == "mpi4py is not installed (pip install -e '.[bench]')"
    monkeypatch.setattr(groups, "find_spec", str)
    monkeypatch.setattr(groups, "mpiexec", lambda: None)
    with pytest.raises(Unavailable, match="mpiexec is not installed"):
        Group("minidl", 2).check()


# ------------------------------------------------------------------------------ the report


def answer_of(seconds, checksum=None):
    """Return what a group answers for one batch size."""
    torch = {"seconds": seconds, "loss": 0.55}
    return torch if checksum is None else torch | {"loss": 0.5, "checksum": checksum, "sent": 1.0}


ANSWERS = {
    PLAIN: [{"64": answer_of([1.0, 2.0], 7)}, {"64": answer_of([1.0, 1.0], 7)}],
    shared(8, 1): [{"64": answer_of([4.0, 2.0], 8)}, {"64": answer_of([2.0, 3.0], 8)}],
    shared(8, 2): [{"64": answer_of([1.0, 1.0], 8)}, {"64": answer_of([0.5, 0.5], 8)}],
    ddp("fused", 2): [{"64": answer_of([4.0, 4.0])}, {"64": answer_of([2.0, 2.0])}],
}


def result_of(answers):
    return {
        "made_with": "Made with care.",
        "processor": "a processor",
        "data": "20 images of nothing",
        "epochs": 2,
        "batches": [distributed.batch_of(answers, 64, 10, [0.0, 0.5])],
        "left_out": {"a peer": "it is away"},
    }


def test_section_has_ratios_milliseconds_and_notes():
    lines = list(distributed.section(result_of(ANSWERS)))
    # The medians of 2 / 1 and 2 / 0.5, of 2 / 1 and 2 / 1, and of 1 / 4 and 0.5 / 2.
    assert "| speed-up by the second process, 8 shards | at least 1.7 at 2048 | 3.00 |" in lines
    assert "| 8 shards over plain `fit` | at most 1.35 at 512, 1.15 at 2048 | 2.00 |" in lines
    assert f"| {shared(8, 2)}, over DDP with fused Adam | at most 1 | 0.25 |" in lines
    assert "| speed-up by the second process, 2 shards |  |  |" in lines  # was not measured
    assert f"| {shared(8, 1)} | 250.00 (200.00) | 1.0000 |" in lines
    assert f"| {ddp('fused', 2)} | 300.00 (200.00) |  |" in lines
    assert any("losses of all sides are within 10.0% of plain `fit`'s" in line for line in lines)
    assert "- left out: a peer: it is away" in lines
    # Only what was measured.
    same = f"{shared(8, 2)} as {shared(8, 1)}"
    assert f"- The trained weights had the same bits: {same}." in lines


def test_write_shows_the_summary_on_its_page(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "RESULTS.md").write_text("# Results\n")
    page = tmp_path / "docs" / "more-than-one-machine.md"
    page.write_text(
        "before\n\n<!-- begin bench.distributed -->\n<!-- end bench.distributed -->\nafter\n"
    )
    bench_all.write(tmp_path / "bench", {"distributed": result_of(ANSWERS)})
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert f"| {shared(8, 2)} | 75.00 |" in lines
    assert f"| {ddp('fused', 2)} | 300.00 |" in lines
    assert "| speed-up by the second process, 8 shards | 3.00 |" in lines
    assert "## Training by two processes" in (tmp_path / "bench" / "RESULTS.md").read_text()


def test_section_names_sides_with_other_bits():
    changed = ANSWERS | {shared(8, 2): [{"64": answer_of([1.0], 9)}] * 2}
    lines = list(distributed.section(result_of(changed)))
    other = "The trained weights had OTHER BITS than those of one process"
    assert f"- {other}: {shared(8, 2)} at batch 64" in lines


def test_sides_of_all_ratios_exist():
    for _, above, below, _ in distributed.RATIOS:
        assert {above, below} <= distributed.SIDES.keys()


@pytest.mark.slow
def test_measurement_of_two_sides(monkeypatch):
    sides = {name: distributed.SIDES[name] for name in (PLAIN, shared(1, 1))}
    monkeypatch.setattr(distributed, "SIDES", sides)
    result = distributed.measure((64,), rounds=1, epochs=1, image_count=640)
    result = json.loads(json.dumps(result))
    (batch,) = result["batches"]
    assert list(batch["rounds"][0]["seconds"]) == list(sides)
    assert batch["checksum"][PLAIN] == batch["checksum"][shared(1, 1)]
    assert "## Training by two processes" in list(distributed.section(result))


# ------------------------------------------------------------------------------ the model

MACHINE = Machine(flops=6e11, bandwidth=1e9, latency=1e-5, memory=3e10)


def test_prediction_counts_operations_and_bytes():
    step = predict(MACHINE, weights=1_000_000, batch=1_000, workers=4, shards=8)
    assert step.products == pytest.approx(6 * 1e6 * 250 / 6e11)
    assert step.shards == pytest.approx(28e6 / 3e10)  # the second shard of each worker
    assert step.exchange == pytest.approx(1.5 * 4e6 / 1e9 + 6 * 1e-5)
    assert step.update == pytest.approx(28e6 / 3e10)


def test_one_worker_with_one_shard_exchanges_nothing():
    step = predict(MACHINE, 1_000, 100, workers=1, shards=1)
    assert (step.shards, step.exchange) == (0, 0)


def test_at_the_break_even_exchange_takes_as_long_as_the_products():
    workers = 2**20
    rows = MACHINE.break_even
    step = predict(MACHINE._replace(latency=0.0), 10**6, rows * workers, workers, workers)
    assert step.exchange == pytest.approx(step.products, rel=1e-5)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_machine_is_found_from_the_times_it_predicts(workers):
    weights, small = cost.weights_of(epochs.UNITS), cost.weights_of(cost.SMALL)

    def seconds(count, rows, shards, workers=workers):
        return sum(predict(MACHINE, count, rows * workers, workers, shards * workers))

    times = Times(
        alone=seconds(weights, cost.FEW_ROWS, 1, workers=1),
        together=seconds(weights, cost.FEW_ROWS, 1),
        small_alone=seconds(small, cost.FEW_ROWS, 1, workers=1),
        small_together=seconds(small, cost.FEW_ROWS, 1),
        one_shard=seconds(weights, cost.SOME_ROWS, 1),
        many_shards=seconds(weights, cost.SOME_ROWS, cost.SHARDS),
        many_rows=seconds(weights, cost.MANY_ROWS, 1, workers=1),
    )
    assert machine_of(times, workers) == pytest.approx(MACHINE)


def test_machine_of_impossible_times_is_positive():
    assert min(machine_of(Times(*[1.0] * 7), 2)) > 0


def test_weights_are_those_of_the_network():
    assert cost.weights_of(epochs.UNITS) == scaling.Point.of("batch", 512).weights


def test_predict_prints_a_table_from_given_constants(capsys):
    constants = ["--flops", "6e11", "--bandwidth", "1e9", "--latency", "0", "--memory", "3e10"]
    distributed.main(["--predict", *constants, "--weights", "1000000", "--workers", "1", "16"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "All constants are given."
    assert lines[3].startswith("b* = 800: ")
    rows = [line.split(" | ") for line in lines if line[:3] in ("| 1", "| 16")]
    assert [row[1] for row in rows] == ["2048", "128"]
    plain, many = 20.48 + 28 / 30, 1.28 + 7.5 + 28 / 30  # products, exchange, update
    faster = [row[-1].rstrip(" |") for row in rows]
    assert faster == [f"{plain / (plain + 15 * 28 / 30):.2f}", f"{plain / many:.2f}"]


def test_predict_measures_the_constants_that_are_not_given(monkeypatch, capsys):
    monkeypatch.setattr(cost, "measured_machine", lambda: (MACHINE, "Measured."))
    distributed.main(["--predict", "--bandwidth", "2e9"])
    out = capsys.readouterr().out
    assert out.startswith("Measured.\n")
    assert "6e+11 flop/s, 2e+09 bytes/s sent" in out
