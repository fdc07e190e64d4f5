"""Recorded training equals eager training, bit for bit: weights, state, history and files.

Each run is done twice, recorded and with ``record=False``. Each comparison also asserts how many
batches were replayed: without a replay it would show nothing.
"""

import copy
import math
import pickle
import signal

import pytest
from minidl_kernels.threads import num_threads
from recorded_runs import (
    EPOCHS,
    FULL,
    LABELS,
    NUMBERS,
    REPLAYS,
    SPENT,
    STEPS,
    X,
    assert_equal,
    assert_outcome,
    check,
    eager_outcome,
    fit,
    network,
    quick,
)
from small_models import bits

from minidl import callbacks, layers, models, optimizers, set_num_threads
from minidl.optimizers import schedules
from minidl.trainer import loop

pytestmark = pytest.mark.needs_recordings

# ------------------------------------------------------------------------------ what is computed


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "excluded": lambda: optimizers.AdamW(0.01, weight_decay=0.1, undecayed=["bias"]),
}


class Warmup(schedules.LearningRateSchedule):
    """A user's schedule, with a Python condition."""

    def __call__(self, step):
        return 0.1 * (step + 1) / 7 if step < 7 else 0.1


SCHEDULES = {
    "exponential": lambda: schedules.ExponentialDecay(0.1, 5, 0.5),
    "staircase": lambda: schedules.ExponentialDecay(0.1, 5, 0.5, staircase=True),
    "inverse": lambda: schedules.InverseTimeDecay(0.1, 5, 0.5),
    "piecewise": lambda: schedules.PiecewiseConstantDecay([3, 9], [0.1, 0.05, 0.01]),
    "cosine": lambda: schedules.CosineDecay(0.1, 15),
    "restarts": lambda: schedules.CosineDecayRestarts(0.1, 5),
    "polynomial": lambda: schedules.PolynomialDecay(0.1, 15, 0.01, power=2),
    "user": Warmup,
}


@pytest.mark.parametrize("dtype", quick(["float32", "float64"], "float32"))
@pytest.mark.parametrize("name", quick(OPTIMIZERS, "nesterov", "adamw"))
def test_recorded_optimizer_gives_eager_bits(name, dtype, device, tmp_path):
    model = check(lambda: network(device, OPTIMIZERS[name](), dtype=dtype), tmp_path)
    assert (model.recording.recordings, model.recording.reason) == (2, "")


@pytest.mark.parametrize("name", quick(SCHEDULES, "user"))
def test_recorded_schedule_gives_eager_bits(name, device, tmp_path):
    used = optimizers.AdamW
    model = check(lambda: network(device, used(SCHEDULES[name](), weight_decay=0.1)), tmp_path)
    rates = {model.optimizer.learning_rate(step) for step in range(model.step)}
    assert len(rates) > 1


def test_schedules_are_tested():
    classes = {type(make()) for make in SCHEDULES.values()}
    base = schedules.LearningRateSchedule
    found = [kind for kind in vars(schedules).values() if isinstance(kind, type)]
    public = {kind for kind in found if issubclass(kind, base) and kind.__name__[0] != "_"}
    assert public - classes == {base}


@pytest.mark.parametrize(
    ("options", "replays"),
    [
        ({"shuffle": False, "epochs": 2}, 2 * FULL - SPENT),
        ({"batch_size": 7}, 2 * EPOCHS - SPENT),  # no partial batch
        ({"batch_size": 14}, EPOCHS - SPENT),
        ({"batch_size": 100, "epochs": 5}, 5 - SPENT),
        ({"batch_size": 1, "epochs": 1}, 14 - SPENT),
        ({"batch_size": 2, "epochs": 1}, 7 - SPENT),
        ({"epochs": 2}, 2 * FULL - SPENT),
        ({"epochs": 1}, 0),
        ({"validation_split": 0.3, "epochs": 2}, 2 * 2 - SPENT),
    ],
    ids=str,
)
@pytest.mark.slow_on("cuda-double")
def test_recorded_batches_of_each_size_give_eager_bits(options, replays, device, tmp_path):
    check(
        lambda: network(device),
        tmp_path,
        replays,
        lambda model, *used, record: fit(model, *used, record=record, **options),
    )


RELU, SOFTMAX = {"activation": "relu"}, {"activation": "softmax"}
STACKS = {
    "two hidden layers": lambda: [
        layers.Dropout(0.2),
        layers.Dense(8, **RELU),
        layers.Dropout(0.5),
        layers.Dense(5, **RELU),
        layers.Dropout(0.5),
    ],
    "no dropout": lambda: [layers.Dense(5, **RELU), layers.Dense(4, **RELU)],
    "one layer": list,
    "dropout after each": lambda: [
        layers.Dense(5, **RELU),
        layers.Dropout(0.3),
        layers.Dense(4, **RELU),
        layers.Dropout(0.3, seed=5, stream=9),
    ],
    "dropout before the first layer": lambda: [layers.Dropout(0.5), layers.Dense(5, **RELU)],
    "rate 1": lambda: [layers.Dense(5, **RELU), layers.Dropout(1.0)],
    "rate 1 before the first layer": lambda: [layers.Dropout(1.0), layers.Dense(5, **RELU)],
    "rate 0": lambda: [layers.Dense(5, **RELU), layers.Dropout(0.0)],
    "rate 0 before the first layer": lambda: [layers.Dropout(0.0), layers.Dense(5, **RELU)],
    "shared by all features": lambda: [layers.Dropout(0.3, (None, 1)), layers.Dense(5, **RELU)],
    "shared by all samples": lambda: [
        layers.Dense(5, **RELU),
        layers.Dropout(0.3, (1, None), scaling="inference"),
    ],
    "shared at rate 1": lambda: [layers.Dense(5, **RELU), layers.Dropout(1.0, (None, 1))],
    "alpha dropout": lambda: [
        layers.Dense(5, **RELU),
        layers.AlphaDropout(0.3),
        layers.Dense(4, **RELU),
        layers.AlphaDropout(0.5, (None, 1)),
    ],
    "drop path": lambda: [
        layers.Dense(5, **RELU),
        layers.DropPath(0.3),
        layers.Dense(4, **RELU),
        layers.DropPath(0.3, "step"),
    ],
    "drop connect": lambda: [layers.DropConnect(5, 0.3, activation="relu"), layers.Dropout(0.3)],
    "scaling inference": lambda: [
        layers.Dense(5, **RELU),
        layers.Dropout(0.3, scaling="inference"),
    ],
    "scheduled rates": lambda: [
        layers.Dropout(schedules.PolynomialDecay(0.0, 10, 0.5)),
        layers.Dense(5, **RELU),
        layers.Dropout(schedules.PolynomialDecay(0.5, 7, 0.0)),
        layers.Dense(4, **RELU),
        layers.Dropout(schedules.PolynomialDecay(0.5, 10, 0.2), scaling="inference"),
        layers.GaussianDropout(schedules.PolynomialDecay(0.0, 10, 0.5)),
    ],
    "scheduled rates of the family": lambda: [
        layers.Dropout(schedules.PolynomialDecay(0.0, 10, 0.5), (None, 1)),
        layers.AlphaDropout(schedules.PolynomialDecay(0.0, 10, 0.5)),
        layers.DropConnect(5, schedules.PolynomialDecay(0.5, 7, 0.0), activation="relu"),
        layers.DropPath(schedules.PolynomialDecay(0.1, 10, 0.5)),
    ],
}


@pytest.mark.parametrize("name", quick(STACKS, "rate 0", "alpha dropout", "scheduled rates"))
def test_recorded_stack_gives_eager_bits(name, device, tmp_path):
    def make():
        stack = [layers.Input((6,)), *STACKS[name](), layers.Dense(3, **SOFTMAX)]
        return network(device, optimizers.Adam(0.01), stack)

    check(make, tmp_path)


@pytest.mark.slow_on("cuda-double")
def test_recorded_images_give_eager_bits(device, tmp_path):
    images = NUMBERS.integers(0, 256, (14, 4, 4)).astype("uint8")

    def train(model, *used, record):
        model.fit(images, LABELS, 4, EPOCHS, verbose=0, record=record)
        return model

    def make():
        stack = [layers.Input((4, 4)), layers.Rescaling(1 / 255, -0.5), layers.Flatten()]
        stack += [layers.Dense(8, **RELU), layers.Dropout(0.5), layers.Dense(3, **SOFTMAX)]
        return network(device, stack=stack)

    check(make, tmp_path, train=train)


# ------------------------------------------------------------------------------ validation


class Reports(callbacks.Callback):
    """The report of the recorded validation."""

    def on_train_end(self, logs):
        self.validation = self.model.run._evaluation.report


def test_recorded_validation_gives_eager_history(device, tmp_path):
    reports = []

    def make():
        reports.append(Reports())
        return network(device), reports[-1]

    def train(model, *used, record):
        # In an epoch, 2 batches of 4 and one of 3 are for validation.
        return fit(model, *used, record=record, validation_data=(X[:11], LABELS[:11]))

    model = check(make, tmp_path, train=train)
    assert {"val_loss", "val_accuracy"} <= model.history.history.keys()
    recorded, eager = (report.validation for report in reports)
    assert recorded[:2] == (2, (2 * EPOCHS - SPENT) + (EPOCHS - SPENT))
    assert eager == (0, 0, 0, "record=False")


def test_evaluate_and_predict_are_recorded_with_eager_results(device):
    model = fit(network(device), epochs=1)
    found = model.evaluate(X, LABELS, 1, verbose=0)
    assert (model.recording.replays, model.recording.reason) == (len(X) - SPENT, "")
    assert repr(found) == repr(model.evaluate(X, LABELS, 1, verbose=0, record=False))
    assert (model.recording.replays, model.recording.reason) == (0, "record=False")
    outputs = model.predict(X, 1, verbose=0)
    assert (model.recording.recordings, model.recording.replays) == (1, len(X) - SPENT)
    assert outputs.tobytes() == model.predict(X, 1, verbose=0, record=False).tobytes()
    assert len({row.tobytes() for row in outputs}) == len(X)


def test_draws_of_predict_are_recorded_with_eager_results(device):
    model = fit(network(device), epochs=1, record=False)
    x, draws = X[:11], 5  # 2 batches of 4 and one of 3
    recorded = model.predict(x, 4, verbose=0, samples=draws)
    assert model.recording[:2] == (2, (2 * draws - SPENT) + (draws - SPENT))
    eager = model.predict(x, 4, verbose=0, samples=draws, record=False)
    assert [part.tobytes() for part in recorded] == [part.tobytes() for part in eager]
    assert model.recording == (0, 0, 0, "record=False")


@pytest.mark.parametrize("draws", [None, 3])
def test_few_batches_are_not_recorded(draws, device, caplog):
    model = network(device)
    model.predict(X, len(X) // 2, verbose=0, samples=draws)
    assert model.recording.reason == "there are too few batches"
    assert caplog.messages == []


# ------------------------------------------------------------------------------ resumed runs


class Fault(Exception):
    """The exception that breaks a run off."""


class At(callbacks.Callback):
    """Call ``action(model)`` after some steps."""

    def __init__(self, action, *steps):
        self.action, self.steps = action, steps

    def on_train_batch_end(self, batch, logs):
        if self.model.step in self.steps:
            self.action(self.model)


def fail(model):
    raise Fault


def interrupt(model):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("action", "error"), [(fail, Fault), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("how", quick(["in the process", "from a file"], "from a file"))
@pytest.mark.parametrize("step", quick([2, 3, 7, 10], 7))
def test_recorded_run_that_breaks_off_resumes_to_eager_bits(
    step, how, action, error, device, tmp_path
):
    model, full_done, partial_done = network(device), step - step // STEPS, step // STEPS
    with pytest.raises(error):
        fit(model, At(action, step))
    assert model.recording.replays == max(0, full_done - SPENT)
    assert model.step == step
    if how == "from a file":
        model.save(tmp_path / "broken.safetensors")
        model = models.load(tmp_path / "broken.safetensors", device=device)
    fit(model, resume=True)
    left = FULL * EPOCHS - full_done, EPOCHS - partial_done
    assert model.recording.replays == sum(max(0, number - SPENT) for number in left)
    assert_outcome(model, eager_outcome(device), tmp_path)


@pytest.mark.parametrize("point", quick([1, 2, 3], 2))
def test_interrupt_within_a_recorded_step_waits_for_its_end(point, device, tmp_path, monkeypatch):
    """The signal comes while a step is recorded or tried, or while the last three are replayed."""
    monkeypatch.setattr(loop, "LONGEST_WAIT", math.inf)  # the machine may be slow
    model, step = network(device), {1: 2, 2: 3, 3: 7}[point]
    kind = type(model.optimizer)
    if point < 3:  # recorded and tried by `run`
        update = kind.update

        def interrupted(self, *arguments):
            if self.iterations == point:
                interrupt(model)
            return update(self, *arguments)

        monkeypatch.setattr(kind, "update", interrupted)
    else:
        count = kind.count_updates

        def counted(self, *arguments):
            interrupt(model)
            return count(self, *arguments)

        monkeypatch.setattr(kind, "count_updates", counted)
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    monkeypatch.undo()
    assert (model.step, model.train_state.is_torn) == (step, False)
    fit(model, resume=True)
    assert model.recording.replays > 0
    assert_outcome(model, eager_outcome(device), tmp_path)


# ------------------------------------------------------------------------------ callbacks


def set_rate(model):
    model.optimizer.learning_rate = 0.03


def set_dropout_rate(model):
    model.layers[0].rate = 0.6


def set_hidden_dropout_rate(model):
    model.layers[2].rate = 0.0


def set_scaling(model):
    model.layers[2].scaling = "inference"


def set_seed(model):
    model.layers[2].random_stream.own_seed = 99


def set_momentum(model):
    model.optimizer.momentum = 0.5


def set_weight_decay(model):
    model.optimizer.weight_decay = 0.1


def set_weights(model):
    model.set_weights([weight * 0.5 for weight in model.get_weights()])


def set_weight_in_place(model):
    model.layers[1].weight.data[...] *= 0.5


def replace_weight(model):
    weight = model.layers[1].weight
    weight.data = weight.data * 0.5


def load_weights(model):
    model.train_state.load_state(model.train_state.snapshot("weights", "optimizer"))


def evaluate(model):
    loss, _ = model.evaluate(X, LABELS, 4, verbose=0)
    assert model.predict(X, 4, verbose=0).shape == (14, 3)
    model.optimizer.learning_rate = loss / 10


def copy_and_train(model):
    other = copy.deepcopy(model)
    fit(other, epochs=1, record=model.run.record)
    model.optimizer.learning_rate = abs(float(other.get_weights()[0][0, 0]))


def pickle_and_load(model):
    other = pickle.loads(pickle.dumps(model))
    assert bits(other) == bits(model)


def stop(model):
    model.stop_training = True


# The changes after which recordings are made anew: at step 10, in the middle of an epoch. Then the
# batches of 4 are replayed 5 times before, and once after it; those of 2 never.
NEW = {
    set_dropout_rate,
    set_hidden_dropout_rate,
    set_scaling,
    set_seed,
    set_momentum,
    set_weight_decay,
    replace_weight,
    load_weights,
}
SAME = {set_rate, set_weights, set_weight_in_place, evaluate, pickle_and_load, copy_and_train}
CHANGED = 5 + 1


@pytest.mark.parametrize(
    "action",
    quick(sorted(NEW | SAME, key=lambda action: action.__name__), set_seed, evaluate),
)
def test_change_by_a_callback_gives_eager_bits(action, device, tmp_path):
    model = check(
        lambda: (network(device), At(action, 10)), tmp_path, CHANGED if action in NEW else REPLAYS
    )
    unchanged = eager_outcome(device)["weights"]
    assert (bits(model) == unchanged) == (action in {load_weights, pickle_and_load})
    assert model.recording.recordings == (4 if action in NEW else 2)


@pytest.mark.parametrize("action", [set_rate, set_dropout_rate, set_weights, evaluate])
@pytest.mark.parametrize("step", range(1, 8))
def test_change_after_each_of_the_first_steps_gives_eager_bits(action, step, tmp_path):
    models_of_both = [fit(network(), At(action, step), record=record) for record in (True, False)]
    assert models_of_both[0].recording.replays > 0
    assert_equal(*models_of_both, tmp_path)


class RateOfEachBatch(callbacks.Callback):
    """Set the rate before each batch."""

    def on_train_batch_begin(self, batch, logs):
        self.model.optimizer.learning_rate = 0.1 / (1 + self.model.step)


class RateByLoss(callbacks.Callback):
    """Set the rate by the mean loss so far, which each batch waits for."""

    def on_train_batch_end(self, batch, logs):
        self.model.optimizer.learning_rate = logs["loss"] / 10


@pytest.mark.parametrize(
    "make",
    [
        RateOfEachBatch,
        RateByLoss,
        lambda: callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7),
        lambda: callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
    ],
    ids=["each batch", "by loss", "scheduler", "plateau"],
)
@pytest.mark.parametrize("optimizer", quick(["momentum", "adamw"]))
def test_rate_that_a_callback_sets_gives_eager_bits(make, optimizer, device, tmp_path):
    check(lambda: (network(device, OPTIMIZERS[optimizer]()), make()), tmp_path)


def test_run_that_a_callback_stops_gives_eager_bits(device, tmp_path):
    model = check(lambda: (network(device), At(stop, 7)), tmp_path, 6 - SPENT)
    assert model.step == 7


class RollBack(callbacks.Callback):
    """Keep a snapshot after one step, and load it after a later one, once."""

    def __init__(self, kept, loaded):
        self.kept, self.loaded, self.state_kept = kept, loaded, None

    def on_train_batch_end(self, batch, logs):
        state = self.model.train_state
        if self.model.step == self.kept and self.state_kept is None:
            self.state_kept = state.snapshot("weights", "optimizer", "random")
        if self.model.step == self.loaded:
            state.load_state(self.state_kept)
            self.loaded = None


@pytest.mark.parametrize(
    ("kept", "loaded", "replays"), [(1, 10, 6), (2, 3, 7), (5, 7, 6), (9, 10, 6)]
)
@pytest.mark.slow_on("cuda-double")
def test_state_that_a_callback_rolls_back_gives_eager_bits(kept, loaded, replays, device, tmp_path):
    """Loading replaces the arrays of the state, so that the recordings are made anew."""
    model = check(lambda: (network(device), RollBack(kept, loaded)), tmp_path, replays)
    assert bits(model) != eager_outcome(device)["weights"]


class AtEpoch(callbacks.Callback):
    """Call ``action(model)`` at the end of the second epoch."""

    def __init__(self, action):
        self.action = action

    def on_epoch_end(self, epoch, logs):
        if epoch == 1:
            self.action(self.model)


def freeze(model):
    model.layers[1].weight.requires_grad = False
    model.layers[1].bias.requires_grad = False
    compile_optimizer(model)


def compile_optimizer(model):
    model.compile(optimizers.RMSprop(0.01), model.loss, metrics=model.metrics)


def compile_metrics(model):
    model.compile(model.optimizer, model.loss, metrics=[])


def compile_loss(model):
    loss = type(model.loss)()
    model.compile(model.optimizer, loss, metrics=model.metrics)


@pytest.mark.parametrize(
    "action", quick([freeze, compile_optimizer, compile_metrics, compile_loss], freeze)
)
def test_compile_between_epochs_gives_eager_bits(action, device, tmp_path):
    # Batches of 4 are replayed 6 - 3 times before, and as often after it.
    model = check(lambda: (network(device), AtEpoch(action)), tmp_path, 2 * (2 * FULL - SPENT))
    assert model.recording.recordings == 4


def test_number_of_threads_that_a_callback_sets_gives_eager_bits(tmp_path):
    usual = num_threads()

    def make():
        set_num_threads(usual)
        other = 1 if usual > 1 else 2
        return network(), At(lambda model: set_num_threads(other), 10)

    try:
        check(make, tmp_path, CHANGED)
    finally:
        set_num_threads(usual)
