"""Layers of several inputs: values, gradients, and inputs that they reject."""

import numpy as np
import pytest

from minidl import Tensor, layers
from minidl.testing import check_gradient

A, B, C = np.random.default_rng(0).normal(size=(3, 2, 3))

CASES = {
    "add": (layers.Add(), [A, B, C], A + B + C),
    "subtract": (layers.Subtract(), [A, B], A - B),
    "multiply": (layers.Multiply(), [A, B, C], A * B * C),
    "maximum": (layers.Maximum(), [A, B, C], np.maximum(np.maximum(A, B), C)),
    "minimum": (layers.Minimum(), [A, B, C], np.minimum(np.minimum(A, B), C)),
    "average": (layers.Average(), [A, B, C], (A + B + C) / 3),
    "concatenate": (layers.Concatenate(), [A, B[:, :2]], np.hstack([A, B[:, :2]])),
    "concatenate axis": (
        layers.Concatenate(axis=1),
        [A[:, None], np.stack([B, C], axis=1)],
        np.stack([A, B, C], axis=1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_merging_computes_value_and_gradients(name, device):
    layer, inputs, expected = CASES[name]
    tensors = [Tensor(x, device, requires_grad=True) for x in inputs]
    np.testing.assert_allclose(layer(tensors).numpy(), expected, rtol=1e-12)
    check_gradient(lambda *x: layer(list(x)), *tensors)


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (layers.Add(), [(2, 3), (2, 1)], r"add: expected two inputs or more of one shape, got"),
        (layers.Average(), [(2, 3)], "average: expected two inputs or more of one shape, got"),
        (layers.Subtract(), [(2, 3)] * 3, "subtract: expected two inputs of one shape, got"),
        (layers.Concatenate(), [(2, 3), (1, 3)], "one shape but in axis -1, got"),
        (layers.Concatenate(axis=2), [(2, 3), (2, 3)], "one shape but in axis 2, got"),
        (layers.Concatenate(axis=-2), [(2, 3), (2, 3)], "one shape but in axis -2, got"),
    ],
)
def test_merging_rejects_shapes_that_do_not_fit(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer([Tensor(np.ones(shape)) for shape in shapes])
    symbols = [layers.Input(shape[1:]) for shape in shapes]
    if len({shape[0] for shape in shapes}) == 1:
        with pytest.raises(ValueError, match=message):
            layer(symbols)


def test_merging_rejects_a_single_tensor():
    with pytest.raises(TypeError, match="add: expected a list, got a Tensor"):
        layers.Add()(Tensor([[1.0]]))


def test_concatenate_rejects_the_batch_axis():
    with pytest.raises(ValueError, match="Concatenate: expected an axis of the samples, got 0"):
        layers.Concatenate(axis=0)
