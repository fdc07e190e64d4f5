"""Metrics that are not means: training, validation, rollback and resuming."""

import copy
import json

import numpy as np
import pytest
from recorded_runs import RARE
from small_models import LABELS, X, bits, classifier

from minidl import Tensor, models
from minidl.callbacks import Callback, ModelCheckpoint, TerminateOnNaN
from minidl.metrics import Accuracy, Metric
from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile

Y = (LABELS > 0).astype(int)


def area(labels, scores):
    """Return the area under the ROC curve: the share of pairs in the right order."""
    positive, negative = scores[labels > 0], scores[labels == 0]
    order = positive[:, None] - negative[None]
    return (np.sum(order > 0) + np.sum(order == 0) / 2) / order.size


class AUC(Metric):
    """Area under the ROC curve, from lists of arrays of the host."""

    name = "auc"

    def reset_state(self):
        self.labels, self.scores = [], []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.labels.append(y_true.numpy())
        self.scores.append(y_pred.numpy()[:, -1])

    def result(self):
        return area(np.concatenate(self.labels), np.concatenate(self.scores))


class TensorAUC(AUC):
    """The same with lists of tensors that are not copied."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.labels.append(y_true)
        self.scores.append(y_pred)

    def result(self):
        labels = np.concatenate([labels.numpy() for labels in self.labels])
        return area(labels, np.concatenate([scores.numpy()[:, -1] for scores in self.scores]))


class NestedAUC(AUC):
    """The same with a dictionary of tuples and of numbers."""

    def reset_state(self):
        self.by_batch = {}

    def update_state(self, y_true, y_pred, sample_weight=None):
        batch = (y_true.numpy().tolist(), y_pred.numpy()[:, -1])
        self.by_batch[len(self.by_batch)] = batch

    def result(self):
        labels, scores = zip(*self.by_batch.values(), strict=True)
        return area(np.concatenate(labels), np.concatenate(scores))


class OwnStateAUC(AUC):
    """The same with attributes that only its own `state` describes."""

    def reset_state(self):
        self.labels, self.scores = [], []
        self.kinds = set()

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred)
        self.kinds.add(y_true.ndim)

    def state(self):
        return {"labels": self.labels, "scores": self.scores, "kinds": sorted(self.kinds)}

    def load_state(self, state):
        self.labels, self.scores = list(state["labels"]), list(state["scores"])
        self.kinds = set(state["kinds"])


class Spread(Metric):
    """Standard deviation of the largest outputs, from numbers and an array of the device."""

    name = "auc"

    def reset_state(self):
        self.count, self.total, self.squares = 0, np.float64(0), None

    def update_state(self, y_true, y_pred, sample_weight=None):
        largest = y_pred.max(axis=-1).astype("float64")
        squares = (largest * largest).sum().data
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += len(y_pred)
        self.total += np.float64(float(largest.sum()))

    def result(self):
        return (float(self.squares) / self.count - (self.total / self.count) ** 2) ** 0.5


class Root(Metric):
    """A root of the mean, which the base class adds up."""

    name = "auc"

    def per_sample(self, y_true, y_pred):
        return y_pred.max(axis=-1)

    def result(self):
        return super().result() ** 0.5


KINDS = [AUC, TensorAUC, NestedAUC, OwnStateAUC, Spread, Root]
own_metrics = pytest.mark.parametrize("kind", KINDS)
# The double repeats only those whose state is on the device; the others are alike on all devices.
own_metrics_on_devices = pytest.mark.parametrize(
    "kind",
    [
        kind if kind in (TensorAUC, Spread, Root) else pytest.param(kind, marks=RARE)
        for kind in KINDS
    ],
)


def network(kind, **arguments):
    return classifier(metrics=[kind(), Accuracy()], **arguments)


def fit(model, *used, **arguments):
    options = {"batch_size": 8, "epochs": 3, "verbose": 0, "callbacks": list(used)}
    return model.fit(X, Y, **options | arguments)


class Outputs(Callback):
    """Collect labels and outputs of the validation as the model is after each epoch."""

    def __init__(self, kind):
        self.kind, self.expected = kind, []

    def on_epoch_end(self, epoch, logs):
        metric = self.kind()
        outputs = self.model.predict(X[40:], verbose=0)
        metric.update_state(Tensor(Y[40:]), Tensor(outputs))
        self.expected.append(metric.result())


@own_metrics_on_devices
def test_fit_and_evaluate_return_values_over_all_samples(kind, device):
    model, outputs = network(kind, device=device), Outputs(kind)
    history = fit(model, outputs, validation_data=(X[40:], Y[40:])).history
    assert list(history) == [f"{v}{n}" for v in ("", "val_") for n in ("loss", "auc", "accuracy")]
    np.testing.assert_allclose(history["val_auc"], outputs.expected, rtol=1e-6)
    whole = [model.evaluate(X, Y, size, verbose=0)[1] for size in (3, 50)]
    expected = kind()
    expected.update_state(Tensor(Y), Tensor(model.predict(X, verbose=0)))
    np.testing.assert_allclose(whole, expected.result(), rtol=1e-6)


def test_training_value_is_that_of_the_outputs_in_training(device):
    model, seen = network(TensorAUC, device=device), []

    class Collects(AUC):
        name = "collects"

        def update_state(self, y_true, y_pred, sample_weight=None):
            seen.append((y_true.numpy(), y_pred.numpy().copy()))

        def result(self):
            return 0.0

    model.compile(model.optimizer, model.loss, metrics=[Collects(), TensorAUC()])
    history = fit(model, epochs=1).history
    labels, outputs = map(np.concatenate, zip(*seen, strict=True))
    assert history["auc"] == [area(labels, outputs[:, -1])]


class Evaluates(Callback):
    """Evaluate the model, and read the value in training, after each batch."""

    def on_train_batch_end(self, batch, logs):
        value = logs["auc"]
        assert self.model.evaluate(X[:20], Y[:20], verbose=0)[1] != value
        assert logs["auc"] == value


@own_metrics
def test_evaluate_in_a_callback_and_other_passes_share_nothing(kind):
    plain, model = network(kind), network(kind)
    expected = fit(plain).history
    assert fit(model, Evaluates()).history == expected
    assert bits(model) == bits(plain)


class Breaks(Callback):
    """Interrupt a run at a step, once."""

    comes_last = True

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.step = None
            raise KeyboardInterrupt


@own_metrics_on_devices
@pytest.mark.parametrize(
    "way",
    ["from a file", *(pytest.param(way, marks=RARE) for way in ("in the process", "in a copy"))],
)
@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=RARE) for step in (3, 9))])
def test_resumed_run_has_the_values_of_an_uninterrupted_run(kind, way, step, device, tmp_path):
    whole, model = network(kind, device=device), network(kind, device=device)
    expected = fit(whole).history
    with pytest.raises(KeyboardInterrupt):
        fit(model, ModelCheckpoint(tmp_path, every_steps=1), Breaks(step))
    if way == "from a file":
        path = tmp_path / f"step-{step:010}.safetensors"
        model = models.load(path, device, custom_objects=[kind])
        assert type(model.metrics[0]) is kind
    elif way == "in a copy":
        model = copy.deepcopy(model)
    assert fit(model, resume=True).history == expected
    assert bits(model) == bits(whole)


@own_metrics_on_devices
def test_rollback_restores_the_values(kind, device):
    class Spoils(Callback):
        step = 9

        def on_train_batch_end(self, batch, logs):
            if self.model.step == self.step:
                self.step = None
                self.model.layers[-1].bias.data[...] = np.nan

    whole, model = network(kind, device=device), network(kind, device=device)
    expected = fit(whole).history
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="unknown cause"):
        fit(model, Spoils(), TerminateOnNaN(2))
    assert fit(model, resume=True).history == expected


def test_state_that_files_cannot_hold_is_rejected_before_training(tmp_path):
    class Names(AUC):
        def reset_state(self):
            self.names = set()

    model = network(Names)
    with pytest.raises(
        TypeError, match=r"^save: .*got a set\. Define state\(\) and load_state\(\)"
    ):
        fit(model, ModelCheckpoint(tmp_path))
    assert model.step == 0


@pytest.mark.parametrize("result", [None, "text", {"a": 1.0}, np.ones(2)])
def test_result_that_is_no_number_is_rejected(result):
    class Wrong(AUC):
        def result(self):
            return result

    with pytest.raises(TypeError, match=r"^Wrong: expected result\(\) to return a number, got "):
        network(Wrong).evaluate(X, Y, verbose=0)


@pytest.mark.parametrize("result", [3, np.float32(3), np.array(3.0), Tensor(3.0)])
def test_result_may_be_any_number(result):
    class Right(AUC):
        def result(self):
            return result

    assert network(Right).evaluate(X, Y, verbose=0)[1] == 3.0


def test_metric_that_raises_leaves_a_model_that_can_be_saved(tmp_path):
    class Raises(AUC):
        def update_state(self, y_true, y_pred, sample_weight=None):
            raise KeyError("mine")

    model = network(Raises)
    with pytest.raises(KeyError, match="mine"):
        fit(model)
    model.save(tmp_path / "model.safetensors")
    assert model.step == 1


@pytest.mark.parametrize(
    "packed",
    [
        {"array": "no such array"},
        {"set": [1]},
        {"list": 3},
        {"dict": [[1]]},
        {"list": [], "tuple": []},
        {"tensor": None},
    ],
)
def test_damaged_state_in_a_file_is_rejected(packed, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(model := network(AUC), Breaks(3))
    model.save(path)
    with TensorFile(path) as file:
        arrays = {name: file.read(name) for name in file.shapes}
        header = json.loads(file.metadata["minidl"])
    header["state"]["position/metrics"] = {"dict": [["auc", packed]]}
    tensor_file.write(path, arrays, {"minidl": json.dumps(header)})
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a checkpoint of minidl"):
        models.load(path, custom_objects=[AUC])
