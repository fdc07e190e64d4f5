"""float16: counts, sums and divisions by counts, which it cannot hold, are formed in float32."""

import numpy as np
import pytest

from minidl import Tensor, losses
from minidl.constraints import MaxNorm
from minidl.engine import ops
from minidl.engine.tensor import apply

RNG = np.random.default_rng(16)


def ones(*shape):
    return np.ones(shape)


def draw(*shape):
    return RNG.standard_normal(shape).astype("float16").astype("float64")


def many_rows(loss, targets):
    return lambda x: loss(targets, x)


FIRST_CLASS = np.zeros(70_000, int)
CASES = {
    "mean": (lambda x: x.mean(), ones(70_000)),
    "mean over axis 0": (lambda x: x.mean(axis=0), ones(70_000, 2)),
    "mean over two axes": (lambda x: x.mean(axis=(0, 2)), ones(300, 2, 300)),
    "max with ties": (lambda x: x.max(), ones(70_000)),
    "max with ties over axis 0": (lambda x: x.max(axis=0), ones(70_000, 2)),
    "max with 3,001 ties": (lambda x: x.max(), ones(3_001)),
    "sum over axis 0": (lambda x: x.sum(axis=0), ones(5_000, 2)),
    "sum of tenths": (lambda x: x.sum(axis=0), np.full((70_000, 2), 0.1).astype("float16")),
    "sum in Fortran order": (lambda x: x.sum(axis=0), np.asfortranarray(ones(5_000, 2))),
    "bias": (lambda x, bias: x + bias, ones(5_000, 3), ones(3)),
    "factor of all": (lambda x, factor: x * factor, ones(5_000, 3), ones(1)),
    "repeated index": (lambda x: x[Tensor(np.zeros(5_000, int), x.device)], ones(3)),
    "softmax over many classes": (lambda x: x.softmax(), np.zeros((2, 70_000))),
    "softmax over axis 0": (lambda x: x.softmax(axis=0), draw(5_000, 2)),
    "log_softmax over many classes": (lambda x: x.log_softmax(), np.zeros((2, 70_000))),
    "log_softmax over axis 0": (lambda x: x.log_softmax(axis=0), draw(5_000, 2)),
    "sparse cross-entropy, rows": (
        many_rows(losses.SparseCategoricalCrossentropy(from_logits=True), FIRST_CLASS),
        draw(70_000, 3),
    ),
    "sparse cross-entropy, classes": (
        many_rows(losses.SparseCategoricalCrossentropy(from_logits=True), np.array([0, 1])),
        np.zeros((2, 70_000)),
    ),
    "cross-entropy, rows": (
        many_rows(losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[FIRST_CLASS]),
        draw(70_000, 3),
    ),
    "squared error, rows": (
        many_rows(losses.MeanSquaredError(), np.zeros((70_000, 1))),
        draw(70_000, 1),
    ),
    "gelu": (lambda x: apply(ops.gelu, x), draw(1_000)),
    "silu": (lambda x: apply(ops.silu, x), draw(1_000)),
    "standardize": (
        lambda x: apply(ops.standardize, x, axis=(0,), epsilon=1e-3),
        (draw(5_000, 2) + np.arange(2)).astype("float16").astype("float64"),
    ),
    "matrix product": (lambda a, b: a @ b, ones(2, 5_000), ones(5_000, 2)),
    "stack times matrix": (lambda a, b: a @ b, ones(3_000, 2, 2), ones(2, 2)),
    "product of vectors": (lambda a, b: a @ b, ones(5_000), ones(5_000)),
    "var over axis 0": (lambda x: x.var(axis=0), draw(5_000, 2)),
    "std of large numbers": (lambda x: x.std(), draw(5_000) * 1_000),
    "logsumexp": (lambda x: x.logsumexp(), np.zeros(70_000)),
}


@pytest.mark.parametrize("case", CASES)
def test_float16_equals_float64_up_to_its_rounding(case, device):
    function, *inputs = CASES[case]
    results = []
    for dtype in ("float16", "float64"):
        leaves = [Tensor(x, device, dtype=dtype, requires_grad=True) for x in inputs]
        y = function(*leaves)
        y.backward(y.backend.xp.ones(y.shape, dtype))
        results.append([y.numpy(), *(leaf.grad.numpy() for leaf in leaves)])
    for narrow, wide in zip(*results, strict=True):
        assert narrow.dtype == np.float16
        # 6e-8 is the spacing of the smallest numbers; sums of gradients cancel in the softmax.
        np.testing.assert_allclose(narrow.astype("float64"), wide, rtol=2e-3, atol=6e-7)


def test_mean_of_float16_has_gradient_above_zero():
    x = Tensor(np.ones(70_000, "f2"), requires_grad=True)
    x.mean().backward()
    np.testing.assert_allclose(x.grad.numpy(), 1 / 70_000, rtol=1e-2)


def test_weighted_loss_of_float16_with_many_rows_equals_float64():
    x, weight = draw(70_000, 2), RNG.uniform(0, 2, 70_000)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    values = [loss(FIRST_CLASS, Tensor(x, dtype=d), weight).item() for d in ("float16", "float64")]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_max_norm_of_many_float16_inputs_is_exact(backend):
    weight = backend.asarray(np.ones((70_000, 1), "float16"))
    MaxNorm(2.0).apply(weight, backend)
    np.testing.assert_allclose(backend.to_numpy(weight), 2 / 70_000**0.5, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_sum_of_other_dtypes_is_that_of_the_library(dtype, backend):
    x = backend.asarray((draw(50, 3) * 100).astype(dtype))
    assert (backend.sum(x, 0) == x.sum(axis=0)).all()
    assert backend.widened(x) is x
