"""Weights: `backward` rejects results from before a change in place."""

import itertools
import pickle

import numpy as np
import pytest

from minidl import Tensor, layers, models
from minidl.engine import backward as engine
from minidl.optimizers import SGD


def sum_model(device="cpu"):
    """Return a model that returns the sum of two inputs, until it is trained."""
    dense = layers.Dense(
        1, input_shape=(2,), kernel_initializer="ones", use_bias=False, name="plain"
    )
    return models.Sequential([dense], device=device)


def update_once(model):
    model(Tensor([[1.0, 1.0]], device=model.device)).sum().backward()
    SGD(0.5).update(model.parameters())


def set_weights(model):
    model.set_weights([[[3.0], [4.0]]])


@pytest.mark.parametrize("change", [update_once, set_weights])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_backward_rejects_result_of_weight_changed_since(change, is_frozen, device):
    model = sum_model(device)
    update_once(model)  # the weight is a view from now on
    x = Tensor([[1.0, 2.0]], device=device, requires_grad=True)
    factor = Tensor(1.0, device=device, requires_grad=True)
    (weight,) = model.parameters()
    loss = model(x).sum() * factor
    change(model)
    weight.requires_grad = not is_frozen
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"backward: plain/weight .*changed in place.*matmul"
        ):
            loss.backward()
        assert x.grad is weight.grad is factor.grad is None
    model(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), weight.numpy().T)


def test_backward_accepts_result_of_weight_changed_before_or_elsewhere(device):
    first, second = sum_model(device), sum_model(device)
    x = Tensor([[1.0, 2.0]], device=device)
    for step in range(3):
        losses = [model(x).sum() for model in (first, second)]
        again = first(x).sum()
        for loss in (losses[0], again):  # gradients add up
            loss.backward()
        SGD(0.5).update(first.parameters())
        losses[1].backward()
        SGD(0.5).update(second.parameters())
        gradients = (step + 1) * np.array([[1.0], [2.0]])
        np.testing.assert_array_equal(first.get_weights()[0], 1 - 0.5 * 2 * gradients)
        np.testing.assert_array_equal(second.get_weights()[0], 1 - 0.5 * gradients)


def test_pickled_weight_has_gradients_in_new_process(monkeypatch):
    model = sum_model()
    update_once(model)
    model = pickle.loads(pickle.dumps(model))
    monkeypatch.setattr(engine, "next_number", itertools.count().__next__)  # counts from 0 there
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    model(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0.5, 0.5]])
