"""NumPy's and Python's functions of a tensor."""

import io
import math

import numpy as np
import pytest

from minidl import Tensor, layers, models

VALUES = np.array([[1.0, 4.0], [2.0, 0.5]], "float32")

FUNCTIONS = {
    "mean": np.mean,
    "mean over an axis": lambda x: np.mean(x, axis=0, dtype="float64"),
    "mean by name": lambda x: np.mean(a=x),
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "std": np.std,
    "prod": np.prod,
    "argmax": lambda x: np.argmax(x, axis=1),
    "concatenate": lambda x: np.concatenate([x, x]),
    "stack": lambda x: np.stack((x, x), axis=1),
    "block": lambda x: np.block([[x, x], [x, x]]),
    "array of tensors": lambda x: np.array([x, x]),
    "where": lambda x: np.where(x > 1, x, 0),
    "clip": lambda x: np.clip(x, 1, 2),
    "round": np.round,
    "percentile": lambda x: np.percentile(x, 50),
    "dot": lambda x: np.dot(x, x),
    "einsum": lambda x: np.einsum("ij,ij->i", x, x),
    "norm": np.linalg.norm,
    "reshape": lambda x: np.reshape(x, (4,)),
    "sort": np.sort,
    "zeros_like": np.zeros_like,
    "allclose": lambda x: np.allclose(x, x),
    "shape": np.shape,
    "histogram": lambda x: np.histogram(x, bins=3)[0],
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_function_of_tensor_returns_that_of_its_array(name, requires_grad):
    function = FUNCTIONS[name]
    received = function(Tensor(VALUES, requires_grad=requires_grad))
    expected = function(VALUES)
    assert type(received) is type(expected)
    np.testing.assert_array_equal(received, expected, strict=True)


def test_mean_of_model_outputs_is_that_of_their_array():
    model = models.Sequential([layers.Dense(3, activation="softmax", input_shape=(2,))], seed=1)
    y = model(VALUES)
    assert np.mean(y) == np.mean(y.numpy())
    np.testing.assert_allclose(y, y.numpy())


def test_numpy_saves_tensor():
    file = io.BytesIO()
    np.save(file, Tensor(VALUES))
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), VALUES)


@pytest.mark.parametrize(
    "change",
    [lambda x: np.copyto(x, 0), lambda x: np.put(x, 0, 0), lambda x: np.fill_diagonal(x, 0)],
)
def test_numpy_function_cannot_change_tensor(change):
    x = Tensor(VALUES)
    with pytest.raises(ValueError, match="read-only"):
        change(x)
    np.testing.assert_array_equal(x.numpy(), VALUES)


UFUNCS = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "abs": np.abs,
    "negative": np.negative,
    "maximum": lambda x: np.maximum(x, 2),
    "minimum": lambda x: np.minimum(VALUES[0], x),
    "sum": lambda x: np.add(VALUES, x),
    "difference": lambda x: VALUES - x,
    "quotient": lambda x: np.float32(2) / x,
    "power": lambda x: np.power(x, 2),
    "product of matrices": lambda x: VALUES @ x,
}


@pytest.mark.parametrize("name", UFUNCS)
def test_ufunc_of_tensor_returns_tensor_with_gradient(name):
    function, x = UFUNCS[name], Tensor(VALUES, requires_grad=True)
    y = function(x)
    assert type(y) is Tensor
    np.testing.assert_allclose(y.numpy(), function(VALUES), rtol=1e-6)
    y.sum().backward()
    assert np.all(np.isfinite(x.grad.numpy()))


@pytest.mark.parametrize(
    "relation",
    [np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal],
)
def test_relation_of_array_and_tensor_returns_tensor(relation):
    other = np.array([1.0, 3.0], "float32")
    for a, b in ((Tensor(VALUES), other), (other, Tensor(VALUES))):
        y = relation(a, b)
        assert type(y) is Tensor
        np.testing.assert_array_equal(y.numpy(), relation(np.asarray(a), np.asarray(b)))


@pytest.mark.parametrize(
    ("function", "name"), [(np.isnan, "isnan"), (np.sin, "sin"), (np.add.reduce, "add.reduce")]
)
def test_ufunc_without_operation_names_numpy_method(function, name):
    with pytest.raises(
        TypeError, match=rf"^np\.{name}: .* methods of tensors, or np\.{name}\(x\.numpy\(\)\)"
    ):
        function(Tensor(VALUES, requires_grad=True))


def test_ufunc_rejects_options():
    with pytest.raises(TypeError, match=r"^np\.exp: expected tensors alone, got where="):
        np.exp(Tensor(VALUES), where=VALUES > 1)


@pytest.mark.usefixtures("cuda_double")
def test_ufunc_of_tensor_on_a_gpu_stays_there():
    y = np.sqrt(Tensor(VALUES, "cuda"))
    assert y.device == "cuda:0"
    np.testing.assert_allclose(y.numpy(), np.sqrt(VALUES), rtol=1e-6)


@pytest.mark.usefixtures("cuda_double")
@pytest.mark.parametrize("function", [np.mean, np.argmax, lambda x: np.stack([x, x]), np.asarray])
def test_numpy_function_of_tensor_on_a_gpu_names_numpy_method(function):
    with pytest.raises(TypeError, match=r"Tensor: .*cuda:0.*numpy\(\)"):
        function(Tensor(VALUES, "cuda"))


@pytest.mark.parametrize("scalar", [np.float32(2), np.float64(2), np.int64(2), np.array(2.0)])
def test_numpy_scalar_times_tensor_keeps_gradient(scalar):
    x = Tensor(VALUES, requires_grad=True)
    y = scalar * x
    assert type(y) is Tensor
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 2), 2))


def test_python_functions_of_tensor(device):
    x, one = Tensor([3.0, 1.0, 2.0], device, requires_grad=True), Tensor([4.0], device)
    assert (math.sqrt(one), float(one), int(one), round(float(one)), bool(one)) == (
        2,
        4,
        4,
        4,
        True,
    )
    assert [float(value) for value in sorted(x)] == [1, 2, 3]
    assert (float(max(x)), float(min(x)), len(x), len(list(x))) == (3, 1, 3, 3)
    assert 2 in x
    assert 5 not in x
    total = sum(x)
    total.backward()
    assert total.item() == 6
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1, 1])
