"""Moments of evaluate, predict and validation, and callbacks that are made of functions."""

import numpy as np
import pytest
from callback_cases import X, Y, fit, network

from minidl import distributed, models
from minidl.callbacks import Callback, LambdaCallback
from minidl.callbacks.functions import MOMENTS

BATCHES = ["batch_begin", "batch_end"] * 3


class Calls(Callback):
    """Callback that records its moments in evaluate, predict and validation."""

    def __init__(self):
        self.calls, self.logs = [], []
        for name in MOMENTS:
            if not name.startswith("on_train"):
                vars(self)[name] = self._recorder(name)

    def _recorder(self, name):
        def record(*arguments):
            self.calls.append(name.removeprefix("on_"))
            self.logs.append({key: arguments[-1][key] for key in arguments[-1]})

        return record


def names(kind):
    return [f"{kind}_{moment}" for moment in ["begin", *BATCHES, "end"]]


def test_evaluate_calls_its_callbacks_around_each_batch(device):
    model, seen = network(device=device), Calls()
    loss = model.evaluate(X, Y, batch_size=4, verbose=0, callbacks=seen)
    assert seen.calls == names("test")
    assert seen.logs[-1] == seen.logs[-2] == {"loss": loss}
    assert seen.logs[2]["loss"] == model.evaluate(X[:4], Y[:4], verbose=0)
    assert (seen.model, seen.params["steps"]) == (model, 3)


def test_predict_calls_its_callbacks_with_the_outputs():
    seen, model = Calls(), network()
    outputs = model.predict(X, batch_size=4, verbose=0, callbacks=[seen])
    assert seen.calls == names("predict")
    found = [logs["outputs"] for logs in seen.logs if "outputs" in logs]
    np.testing.assert_array_equal(np.concatenate(found), outputs)


def test_predict_of_draws_calls_its_callbacks_for_each_batch():
    seen = Calls()
    drawn = network().predict(X, batch_size=4, verbose=0, samples=3, callbacks=[seen])
    assert seen.calls == names("predict")
    np.testing.assert_array_equal(seen.logs[2]["outputs"].mean, drawn.mean[:4])


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_callbacks_of_another_class_are_rejected(method):
    with pytest.raises(TypeError, match=f"{method}: expected callbacks to be a list of Callbacks"):
        getattr(network(), method)(X, verbose=0, callbacks=[print])


def test_validation_in_fit_calls_the_callbacks_of_fit():
    seen = Calls()
    history = fit(network(), seen, epochs=2, validation_data=(X, Y)).history
    assert seen.calls == ["epoch_begin", *names("test"), "epoch_end"] * 2
    ends = [logs for name, logs in zip(seen.calls, seen.logs, strict=True) if name == "test_end"]
    assert [logs["loss"] for logs in ends] == history["val_loss"]


def test_evaluate_in_a_callback_of_fit_keeps_the_parameters_of_the_run():
    class Evaluates(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.evaluate(X, Y, verbose=0, callbacks=[self])

    used = Evaluates()
    fit(network(), used, epochs=2)
    assert used.params["epochs"] == 2


# ------------------------------------------------------------------------------ LambdaCallback


def test_lambda_callback_calls_its_functions():
    seen = []
    used = LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"),
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])),
        on_train_end=None,
    )
    history = fit(network(), used, epochs=2).history
    assert seen == ["begin", *enumerate(history["loss"])]


def test_lambda_callback_without_batches_lets_steps_be_joined():
    found, model = [], network()

    def look(epoch, logs):
        found.append(model.run.callbacks.act_on_batches)

    fit(model, LambdaCallback(on_epoch_end=look), epochs=1)
    fit(model, LambdaCallback(on_epoch_end=look, on_train_batch_end=look), epochs=1)
    assert found == [False, *[True] * 4]


@pytest.mark.parametrize("functions", [{"on_epoch": print}, {"on_epoch_end": 3}, {"close": print}])
def test_lambda_callback_rejects_other_names_and_values(functions):
    with pytest.raises(TypeError, match="LambdaCallback: expected functions named as one of on_"):
        LambdaCallback(**functions)


def test_model_of_a_subclass_calls_its_callbacks():
    class Mine(models.Sequential):
        pass

    seen = Calls()
    model = Mine(network().layers[-1:])
    model.compile("sgd", "mse")
    model.evaluate(np.ones((4, 4)), np.ones((4, 2)), verbose=0, callbacks=seen)
    assert seen.calls == ["test_begin", "test_batch_begin", "test_batch_end", "test_end"]


def test_validation_of_a_shared_run_has_the_moments_of_one_alone():
    alone, shared = Calls(), Calls()
    fit(network(), alone, epochs=1, validation_data=(X, Y))
    distribution = distributed.DataParallel(2)
    fit(network(), shared, epochs=1, validation_data=(X, Y), distribution=distribution)
    assert shared.calls == alone.calls
    (end,) = [
        logs for name, logs in zip(shared.calls, shared.logs, strict=True) if name == "test_end"
    ]
    assert end["loss"] > 0
