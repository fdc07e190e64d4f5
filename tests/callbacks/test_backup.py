"""BackupAndRestore: the same call of fit resumes an interrupted run, bit for bit."""

import numpy as np
import pytest
from callback_cases import X, Y, network

from minidl import distributed, layers, optimizers
from minidl.callbacks import BackupAndRestore, Callback, EarlyStopping, ReduceLROnPlateau
from minidl.storage.folders import step_files

ARGUMENTS = {"epochs": 4, "batch_size": 4, "verbose": 0}
STEPS = 3


class Counter(Callback):
    """Callback that counts moments, and remembers the counts."""

    def __init__(self):
        self.counts = {}

    def count(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def on_train_batch_end(self, batch, logs):
        self.count("batches")

    def on_epoch_end(self, epoch, logs):
        self.count("epochs")

    def on_test_end(self, logs):
        self.count("validations")

    def state(self):
        return {"counts": dict(self.counts)}

    def load_state(self, state):
        self.counts = dict(state["counts"])


class Break(Callback):
    """Callback that breaks a run off at a moment of a step, like a lost machine."""

    def __init__(self, step=None, name=None):
        self.step, self.name = step, name

    def _at(self, name):
        if (self.model.step, name) == (self.step, self.name):
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs):
        self._at("batch")

    def on_test_batch_end(self, batch, logs):
        self._at("validation")

    def on_epoch_end(self, epoch, logs):
        self._at("epoch")


def program(folder, breaks=None, model=None, **options):
    """Return the model and the counts of a program that is started again and again."""
    model = model or network(optimizers.Adam(0.05))
    counter = Counter()
    used = [
        ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
        EarlyStopping("val_loss", patience=9),
        counter,
        breaks or Break(),
        BackupAndRestore(folder, **options),
    ]
    model.fit(X, Y, validation_data=(X, Y), callbacks=used, **ARGUMENTS)
    return model, counter.counts


def result(model):
    weights = [weight.tobytes() for weight in model.get_weights()]
    return weights, model.history.history, model.step, model.optimizer.learning_rate


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the result of a run that nothing interrupts."""
    model, counts = program(tmp_path_factory.mktemp("whole"))
    assert counts == {"batches": 12, "epochs": 4, "validations": 4}
    return result(model)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("save_freq", ["epoch", 2])
@pytest.mark.parametrize(
    ("step", "name"), [(2, "batch"), (6, "batch"), (7, "batch"), (6, "validation"), (9, "epoch")]
)
def test_same_program_resumes_with_the_bits_and_moments_of_a_whole_run(
    step, name, save_freq, is_killed, tmp_path, whole, monkeypatch
):
    with monkeypatch.context() as patch:
        if is_killed:
            patch.setattr(BackupAndRestore, "save_broken_run", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            program(tmp_path, Break(step, name), save_freq=save_freq)
    model, counts = program(tmp_path, save_freq=save_freq)
    assert result(model) == whole
    assert counts == {"batches": 12, "epochs": 4, "validations": 4}
    assert step_files(tmp_path) == []


def test_backup_stays_if_asked_and_the_run_is_complete_then(tmp_path, whole):
    model, _ = program(tmp_path, delete_checkpoint=False, double_checkpoint=True)
    assert [path.stem for path in step_files(tmp_path)] == ["step-0000000009", "step-0000000012"]
    again, _ = program(tmp_path, delete_checkpoint=False)
    assert result(again) == result(model) == whole
    assert again.step == 12


def test_deleted_backup_lets_the_next_run_begin_anew(tmp_path):
    first, _ = program(tmp_path)
    again, _ = program(tmp_path)
    assert result(again) == result(first)
    assert again.history.epoch == [0, 1, 2, 3]


def broken(folder):
    with pytest.raises(KeyboardInterrupt):
        program(folder, Break(7, "batch"))


def test_explicit_resume_has_precedence_over_the_backup(tmp_path, whole):
    model = network(optimizers.Adam(0.05))
    with pytest.raises(KeyboardInterrupt):
        program(tmp_path, Break(7, "batch"), model)
    others = [ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0)]
    others += [EarlyStopping("val_loss", patience=9), Counter(), Break()]
    used = [*others, BackupAndRestore(tmp_path)]
    model.fit(X, Y, validation_data=(X, Y), callbacks=used, resume=True, **ARGUMENTS)
    assert result(model) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.add(layers.Dense(2)), r"step-0000000007\.safetensors: expected a run with"),
        (lambda m: m.compile("sgd", "mse"), "expected a run with training optimizer class SGD"),
    ],
)
def test_backup_of_another_program_is_rejected_and_the_model_stays(change, message, tmp_path):
    broken(tmp_path)
    model = network(optimizers.Adam(0.05))
    model.build((None, 3))
    change(model)
    before = [weight.tobytes() for weight in model.get_weights()]
    with pytest.raises(ValueError, match=message):
        program(tmp_path, model=model)
    assert ([w.tobytes() for w in model.get_weights()][: len(before)], model.step) == (before, 0)


def test_backup_of_other_data_is_rejected_and_the_model_stays(tmp_path):
    broken(tmp_path)
    model = network(optimizers.Adam(0.05))
    with pytest.raises(ValueError, match="fit: expected data_checksum"):
        model.fit(X + 1, Y, callbacks=BackupAndRestore(tmp_path), **ARGUMENTS)
    assert (model.step, model.position.batch_size) == (0, 0)


def test_damaged_backup_is_rejected(tmp_path):
    (tmp_path / "step-0000000001.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="step-0000000001"):
        program(tmp_path)


def test_backup_of_a_run_on_batches_is_of_the_end_of_an_epoch(tmp_path):
    pairs = [(X[n : n + 4], Y[n : n + 4]) for n in range(0, 12, 4)]
    run = {"epochs": 3, "verbose": 0}
    plain, model = network(), network()
    plain.fit(pairs, **run)
    used = [Break(7, "batch"), BackupAndRestore(tmp_path, save_freq=1)]
    with pytest.raises(KeyboardInterrupt):
        model.fit(pairs, callbacks=used, **run)
    assert [path.stem for path in step_files(tmp_path)] == ["step-0000000006"]
    again = network()
    again.fit(pairs, callbacks=[Break(), BackupAndRestore(tmp_path)], **run)
    assert result(again) == result(plain)


def test_shared_run_resumes_from_the_backup(tmp_path):
    shared = {"distribution": distributed.DataParallel(2)}
    plain, again = network(), network()
    plain.fit(X, Y, **shared, **ARGUMENTS)
    used = [Break(7, "batch"), BackupAndRestore(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, Y, callbacks=used, **shared, **ARGUMENTS)
    again.fit(X, Y, callbacks=[Break(), BackupAndRestore(tmp_path)], **shared, **ARGUMENTS)
    assert result(again) == result(plain)


def test_weights_of_a_user_class_are_restored(tmp_path, device):
    class Twice(layers.Layer):
        def call(self, x):
            return x * 2

    def mine():
        model = network(device=device)
        model.add(Twice())
        return model

    plain = mine()
    plain.fit(X, Y, **ARGUMENTS)
    used = [Break(5, "batch"), BackupAndRestore(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        mine().fit(X, Y, callbacks=used, **ARGUMENTS)
    again = mine()
    again.fit(X, Y, callbacks=[Break(), BackupAndRestore(tmp_path)], **ARGUMENTS)
    np.testing.assert_array_equal(again.get_weights()[0], plain.get_weights()[0])


def test_backup_of_a_run_that_was_stopped_within_an_epoch_is_deleted(tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.stop_training = self.model.step == 4

    network().fit(X, Y, callbacks=[Stop(), BackupAndRestore(tmp_path)], **ARGUMENTS)
    assert step_files(tmp_path) == []
