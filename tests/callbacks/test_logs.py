"""CSVLogger and TensorBoard."""

import csv
import sys

import numpy as np
import pytest
from callback_cases import SaveAll, fit, network

from minidl import models, optimizers
from minidl.callbacks import (
    Callback,
    CSVLogger,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)

# ------------------------------------------------------------------------------ CSVLogger


def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_has_a_line_for_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("older")
    history = fit(network(), CSVLogger(path), validation_split=0.25)
    head, *lines = rows(path)
    assert head == ["epoch", "loss", "val_loss"]
    assert [int(line[0]) for line in lines] == [0, 1, 2, 3]
    assert [float(line[1]) for line in lines] == history.history["loss"]
    assert [float(line[2]) for line in lines] == history.history["val_loss"]


def test_csv_is_flushed_after_each_epoch(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Reader(Callback):
        comes_last = True

        def on_epoch_end(self, epoch, logs):
            seen.append(len(rows(path)))

    fit(network(), CSVLogger(path), Reader())
    assert seen == [2, 3, 4, 5]


def test_csv_with_append_keeps_older_lines(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        fit(network(), CSVLogger(path, separator=";", append=True), epochs=2)
    assert [row[0] for row in rows(path, ";")] == ["epoch", "0", "1", "0", "1"]


def test_csv_with_other_columns_is_rejected_and_left_as_it_was(tmp_path):
    path = tmp_path / "log.csv"
    fit(network(), CSVLogger(path, append=True), epochs=2)
    before = path.read_bytes()
    model = network()
    message = r"CSVLogger: expected the columns .*'val_loss'\] in .*, got \['epoch', 'loss'\]"
    with pytest.raises(ValueError, match=message):
        fit(model, CSVLogger(path, append=True), validation_split=0.25, epochs=1)
    assert model.step == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("append", [False, True])
def test_csv_is_unchanged_if_another_callback_rejects_the_run(tmp_path, append):
    class Rejects(Callback):
        def on_train_begin(self, logs):
            raise KeyError("mine")

    path = tmp_path / "log.csv"
    for older in (b"", b"epoch,loss\r\n0,0.5"):
        path.write_bytes(older)
        with pytest.raises(KeyError, match="mine"):
            fit(network(), CSVLogger(path, append=append), Rejects())
        assert path.read_bytes() == older


def test_csv_is_unchanged_if_another_callback_rejects_the_resumed_run(tmp_path):
    saver = SaveAll(tmp_path)
    fit(network(), logger(tmp_path), saver, epochs=3)
    before = (tmp_path / "log.csv").read_bytes()
    fit(network(), ModelCheckpoint(tmp_path / "files"), epochs=3)
    again = models.load(tmp_path / "1-0.safetensors")
    used = [logger(tmp_path), ModelCheckpoint(tmp_path / "files")]
    with pytest.raises(FileExistsError, match="expected no checkpoint later"):
        fit(again, *used, epochs=3, resume=True)
    assert (tmp_path / "log.csv").read_bytes() == before


@pytest.mark.parametrize("separator", ["ab", "::", "", "\n", '"', 3, None])
def test_csv_rejects_separator_that_is_not_one_character(tmp_path, separator):
    older = tmp_path / "log.csv"
    older.write_text("epoch,loss\n")
    for append in (True, False):
        with pytest.raises(ValueError, match=r"CSVLogger: expected separator .*got "):
            CSVLogger(older, separator=separator, append=append)
    assert older.read_text() == "epoch,loss\n"


@pytest.mark.parametrize("older", ["epoch,loss", "epoch,loss\r\n0,0.5", "epoch,loss\n0,0.5"])
def test_csv_with_append_begins_a_new_line_after_an_incomplete_one(tmp_path, older):
    path = tmp_path / "log.csv"
    path.write_text(older, newline="")
    saver = SaveAll(tmp_path)
    fit(network(), logger(tmp_path), saver, epochs=2)
    whole = rows(path)
    assert [row[0] for row in whole] == [line.split(",")[0] for line in older.split()] + ["0", "1"]
    for file in saver.files:
        fit(models.load(file), logger(tmp_path), epochs=2, resume=True)
        assert rows(path) == whole


def logger(folder):
    return CSVLogger(folder / "log.csv", append=True)


def test_resumed_run_has_each_epoch_in_the_csv_once(tmp_path):
    fit(network(optimizers.SGD(0.2)), logger(tmp_path), epochs=3)  # another run: its lines stay
    saver = SaveAll(tmp_path)
    fit(network(), logger(tmp_path), saver, epochs=3)
    whole = rows(tmp_path / "log.csv")
    assert [row[0] for row in whole] == ["epoch", *"012012"]
    for file in ("1-0", "1-1", "2-0", "3-0"):
        again = models.load(tmp_path / f"{file}.safetensors")
        fit(again, logger(tmp_path), epochs=3, resume=True)
        assert rows(tmp_path / "log.csv") == whole


def test_resumed_run_leaves_the_lines_of_another_run(tmp_path):
    saver = SaveAll(tmp_path)
    fit(network(), logger(tmp_path), saver, epochs=3)
    whole = rows(tmp_path / "log.csv")
    fit(network(optimizers.SGD(0.2)), logger(tmp_path), epochs=1)
    before = rows(tmp_path / "log.csv")
    again = models.load(tmp_path / "1-0.safetensors")
    fit(again, logger(tmp_path), epochs=2, resume=True)
    assert rows(tmp_path / "log.csv") == [*before, whole[2]]


def test_csv_that_cannot_be_written_is_an_error_before_training(tmp_path):
    model = network()
    with pytest.raises(FileNotFoundError, match="missing"):
        fit(model, CSVLogger(tmp_path / "missing" / "log.csv"))
    assert model.step == 0


class Adds(Callback):
    """Callback that adds values to the logs of each epoch: ``values[name](epoch)``."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs |= {name: value(epoch) for name, value in self.values.items()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda epoch: epoch / 4, "0.25"),
        (lambda epoch: np.float32(0.5), "0.5"),
        (lambda epoch: "note, with comma", "note, with comma"),
        (lambda epoch: np.array([1.5, 2.0]), "[1.5, 2.0]"),
        (lambda epoch: None, "None"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_csv_has_values_that_callbacks_add_wherever_they_are_listed(
    tmp_path, value, text, is_first
):
    used = [CSVLogger(tmp_path / "log.csv"), Adds(mine=value)]
    fit(network(), *(used if is_first else used[::-1]), epochs=2)
    head, _, last = rows(tmp_path / "log.csv")
    assert head == ["epoch", "loss", "mine"]
    assert last[2] == text


def test_csv_has_na_for_a_missing_value_and_warns_of_one_without_column(tmp_path, caplog):
    class Sometimes(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["even" if epoch % 2 == 0 else "odd"] = epoch

    fit(network(), Sometimes(), CSVLogger(tmp_path / "log.csv"))
    assert [row[2] for row in rows(tmp_path / "log.csv")] == ["even", "0.0", "NA", "2.0", "NA"]
    assert [record.getMessage() for record in caplog.records] == [
        f"CSVLogger: {tmp_path / 'log.csv'} has no column for odd"
    ]


def test_csv_with_more_columns_is_continued(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,mine,loss\n0,5,0.5\n")
    history = fit(network(), CSVLogger(path, append=True), epochs=1)
    assert rows(path)[2] == ["0", "NA", str(history.history["loss"][0])]


def test_csv_of_run_resumed_at_any_step_has_added_values_once(tmp_path):
    def used():
        scheduler = LearningRateScheduler(lambda epoch, rate: rate / 2)
        return [logger(tmp_path), Adds(mine=lambda epoch: epoch), scheduler]

    saver = SaveAll(tmp_path)
    fit(network(), *used(), saver, epochs=3)
    whole = rows(tmp_path / "log.csv")
    assert whole[0] == ["epoch", "loss", "mine", "learning_rate"]
    for file in saver.files:
        again = models.load(file)
        fit(again, *used(), epochs=3, resume=True)
        assert rows(tmp_path / "log.csv") == whole


# ------------------------------------------------------------------------------ TensorBoard


def curves(folder):
    """Return the curves in a folder of TensorBoard: steps and values by name."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):  # TFRecord: length, its checksum, content, its checksum
            length = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            place += 16 + length
    return found


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_the_curves_of_keras(tmp_path):
    history = fit(network(), TensorBoard(tmp_path), validation_split=0.25)
    train, validation = curves(tmp_path / "train"), curves(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_learning_rate"}
    assert set(validation) == {"epoch_loss"}
    assert train["epoch_loss"] == list(enumerate(np.float32(history.history["loss"]).tolist()))
    expected = list(enumerate(np.float32(history.history["val_loss"]).tolist()))
    assert validation["epoch_loss"] == expected
    assert train["epoch_learning_rate"] == [(epoch, float(np.float32(0.1))) for epoch in range(4)]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_the_rate_of_a_schedule(tmp_path):
    schedule = optimizers.schedules.ExponentialDecay(0.5, decay_steps=3, decay_rate=0.5)
    fit(network(optimizers.SGD(schedule)), TensorBoard(tmp_path), epochs=2)
    assert curves(tmp_path / "train")["epoch_learning_rate"] == [(0, 0.25), (1, 0.125)]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_numbers_that_callbacks_add_and_no_other_values(tmp_path):
    added = {"f1": lambda epoch: np.float64(epoch), "val_f1": float, "note": str}
    fit(network(), TensorBoard(tmp_path), Adds(**added, rates=lambda epoch: [1.0]), epochs=2)
    train, validation = curves(tmp_path / "train"), curves(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_learning_rate", "epoch_f1"}
    assert train["epoch_f1"] == validation["epoch_f1"] == [(0, 0.0), (1, 1.0)]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_the_rate_that_the_epoch_had(tmp_path):
    reduce = ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100)
    fit(network(optimizers.SGD(0.5)), reduce, TensorBoard(tmp_path), epochs=3)
    rates = curves(tmp_path / "train")["epoch_learning_rate"]
    assert rates == [(0, 0.5), (1, 0.5), (2, 0.25)]


@pytest.mark.usefixtures("tensorboard")
def test_resumed_run_hides_the_epochs_that_tensorboard_gets_again(tmp_path, monkeypatch):
    saver = SaveAll(tmp_path / "files")
    fit(network(), TensorBoard(tmp_path / "first"), saver, epochs=3)
    callback = TensorBoard(tmp_path / "second")  # files of one second would have one name
    made = []
    new = callback._new_writer
    monkeypatch.setattr(
        callback, "_new_writer", lambda *a, **options: made.append(options) or new(*a, **options)
    )
    again = models.load(tmp_path / "files" / "1-2.safetensors")
    fit(again, callback, epochs=3, resume=True)
    assert made == [{"purge_step": 1}]
    first, second = (curves(tmp_path / name / "train") for name in ("first", "second"))
    assert second["epoch_loss"] == first["epoch_loss"][1:]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_the_epoch_that_diverged(tmp_path):
    model = network(optimizers.SGD(1e25))
    used = [TerminateOnNaN(), TensorBoard(tmp_path)]
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="TerminateOnNaN: stopped"):
        fit(model, *used)
    assert model.history.epoch == [0]
    steps = [step for step, value in curves(tmp_path / "train")["epoch_loss"]]
    assert steps == [0]


def test_tensorboard_without_its_library_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"TensorBoard: .*tensorboardX.*'minidl\[tensorboard\]'"):
        TensorBoard(tmp_path)


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize(("freq", "steps"), [("batch", range(1, 7)), (2, [2, 4, 6])])
def test_tensorboard_gets_the_means_after_every_so_many_steps(freq, steps, tmp_path):
    history = fit(network(), TensorBoard(tmp_path, update_freq=freq), epochs=2).history
    found = curves(tmp_path / "batches")["batch_loss"]
    assert [step for step, _ in found] == list(steps)
    assert found[-1][1] == np.float32(history["loss"][-1])
    assert len(curves(tmp_path / "train")["epoch_loss"]) == 2


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_histograms_of_each_weight(tmp_path):
    model = network()
    fit(model, TensorBoard(tmp_path, histogram_freq=2), epochs=5)
    found = curves(tmp_path / "train")
    names = {f"{weight.name}/histogram" for weight in model.parameters()}
    assert names == {name for name in found if name.endswith("histogram")}
    assert [[step for step, _ in found[name]] for name in names] == [[1, 3]] * len(names)


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_does_not_act_on_batches_by_default(tmp_path):
    seen = []

    class Looks(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(self.model.run.callbacks.act_on_batches)

    fit(network(), TensorBoard(tmp_path), Looks(), epochs=1)
    fit(network(), TensorBoard(tmp_path, update_freq=3), Looks(), epochs=1)
    assert seen == [False, True]


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("arguments", [{"histogram_freq": -1}, {"update_freq": "step"}])
def test_tensorboard_rejects_bad_frequency(arguments, tmp_path):
    with pytest.raises(ValueError, match=f"TensorBoard: {next(iter(arguments))}: expected"):
        TensorBoard(tmp_path, **arguments)
