"""Tensors: operators, conversions, dtypes and devices."""

import copy
import types

import numpy as np
import pytest

from minidl import DeviceError, Tensor, get_backend
from minidl.backend.numpy_backend import NumpyBackend
from minidl.engine import ops, tensor
from minidl.engine.tensor import apply


class OtherBackend(NumpyBackend):
    """A second device."""

    name = "other:0"


OTHER = OtherBackend()


def leaf(values, device="cpu"):
    return Tensor(values, device, requires_grad=True)


def on_other(values):
    return Tensor.of(np.asarray(values, "float32"), OTHER)


def on_gpu_like(values):
    """Return a tensor whose array library is not the host's: NumPy under another identity."""
    library = types.ModuleType("library")
    vars(library).update(vars(np))
    backend = type("GpuLike", (NumpyBackend,), {"name": "gpu-like:0", "xp": library})()
    return Tensor.of(np.asarray(values, "float32"), backend)


def assert_equal(tensor, expected):
    np.testing.assert_array_equal(tensor.numpy(), expected)


# ------------------------------------------------------------------------------ operators


OPERATORS = {
    "x + 2": [3, 4, 6],
    "2 + x": [3, 4, 6],
    "x - 2": [-1, 0, 2],
    "2 - x": [1, 0, -2],
    "x * 2.5": [2.5, 5, 10],
    "2.5 * x": [2.5, 5, 10],
    "x / 2": [0.5, 1, 2],
    "8 / x": [8, 4, 2],
    "x**2": [1, 4, 16],
    "2**x": [2, 4, 16],
    "-x": [-1, -2, -4],
    "x + True": [2, 3, 5],
    "x @ x": 21,
    "x == 2": [False, True, False],
    "x != 2": [True, False, True],
    "x < 2": [True, False, False],
    "x <= 2": [True, True, False],
    "x > 2": [False, False, True],
    "x >= 2": [False, True, True],
    "2 < x": [False, False, True],
    "x.mean()": 7 / 3,
    "x.reshape(3, 1).T": [[1, 2, 4]],
    "x.reshape((1, -1))": [[1, 2, 4]],
    "x.reshape(3, 1).transpose(1, 0)": [[1, 2, 4]],
    "x.reshape(3, 1).transpose((1, 0))": [[1, 2, 4]],
}


def test_operators_return_expected_tensors(device):
    x = Tensor([1.0, 2.0, 4.0], device)
    for expression, expected in OPERATORS.items():
        result = eval(expression, {"x": x})
        assert isinstance(result, Tensor), expression
        assert result.device == get_backend(device).name, expression
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-7, err_msg=expression)


@pytest.mark.parametrize("other", [np.float32(2), np.array(2, "float32"), np.full(3, 2, "float32")])
def test_operators_accept_numpy_values_on_either_side(other):
    x = leaf([1.0, 2.0, 4.0])
    results = [x + other, other + x, x - other, other - x, x * other, other * x, x / other]
    results += [other / x, x**other, other**x]
    for result in results:
        assert type(result) is Tensor
        assert result.requires_grad
        assert result.dtype == np.float32
    assert_equal(results[0], [3, 4, 6])
    assert_equal(results[1], [3, 4, 6])
    assert_equal(results[3], [1, 0, -2])
    assert_equal(results[7], [2, 1, 0.5])
    assert_equal(results[9], [2, 4, 16])
    for relation in (other < x, other == x, x > other):
        assert type(relation) is Tensor
    assert_equal(other < x, [False, False, True])


def test_matmul_of_array_and_tensor_returns_tensor():
    weights = leaf([[1.0, 2.0], [3.0, 4.0]])
    batch = np.array([[1, 1], [2, 0]], "float32")
    y = batch @ weights
    assert type(y) is Tensor
    assert_equal(y, [[4, 6], [2, 4]])
    y.sum().backward()
    assert_equal(weights.grad, [[3, 3], [1, 1]])
    assert_equal(weights @ batch, [[5, 1], [11, 3]])


def test_array_rejects_tensor_in_place():
    array = np.ones(2, "float32")
    with pytest.raises(TypeError, match=r"^np\.add: .* got out=\. Write x = x \+ y"):
        array += leaf([1.0, 2.0])
    np.testing.assert_array_equal(array, [1, 1])


def test_comparison_records_no_graph(device):
    assert not (leaf([1.0, 2.0], device) > 1).requires_grad


def test_iteration_yields_rows_with_gradients(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device)
    assert len(x) == 3
    rows = list(x)
    assert [row.shape for row in rows] == [(2,)] * 3
    (rows[0].sum() + (rows[2] * 2).sum()).backward()
    assert_equal(x.grad, [[1, 1], [0, 0], [2, 2]])
    assert list(Tensor(np.zeros((0, 3)), device)) == []


def test_scalar_has_no_length(device):
    with pytest.raises(TypeError, match="unsized"):
        len(Tensor(1.0, device))
    with pytest.raises(TypeError, match="unsized"):
        iter(Tensor(1.0, device))


def test_tensor_is_a_key_by_identity(device):
    a, b = Tensor([1.0], device), Tensor([1.0], device)
    assert {a: "a", b: "b"}[a] == "a"
    assert len({a, b, a}) == 2


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Tensor([1.0, 2.0]), "Tensor([1., 2.], dtype=float32)"),
        (leaf(2.0), "Tensor(2., dtype=float32, requires_grad=True)"),
        (Tensor([[1, 2], [3, 4]]), "Tensor([[1, 2],\n        [3, 4]], dtype=int64)"),
        (on_other([1]), "Tensor([1.], dtype=float32, device='other:0')"),
    ],
)
def test_repr_shows_values_dtype_device_and_gradient(tensor, text):
    assert repr(tensor) == text


@pytest.mark.parametrize("operand", [[1.0, 2.0], (1.0, 2.0)])
def test_operators_reject_lists(operand):
    with pytest.raises(TypeError, match=rf"add: .*{type(operand).__name__}"):
        Tensor([1.0, 2.0]) + operand


def test_apply_rejects_operands_without_tensor():
    with pytest.raises(TypeError, match="relu: expected at least one Tensor"):
        apply(ops.relu, np.ones(3))


# ------------------------------------------------------------------------------ logits


def test_softmax_keeps_its_logits_over_the_last_axis_only(device):
    x = Tensor([[1.0, 2.0]], device)
    assert x.softmax().logits is x
    assert x.softmax(axis=1).logits is x
    assert x.softmax(axis=0).logits is None
    assert (x.softmax() * 1).logits is None
    assert x.softmax().detach().logits is None


def test_softmax_of_softmax_keeps_one_input_alive(device):
    x = Tensor([[1.0, 2.0]], device)
    p = x.softmax()
    q = p.softmax()
    assert q.logits.logits is None
    assert np.array_equal(q.logits.numpy(), p.numpy())
    x.requires_grad = True  # now the graph keeps all of them
    assert x.softmax().softmax().logits.logits is x


# ------------------------------------------------------------------------------ conversions


def test_conversion_of_one_element_returns_python_number(device):
    assert float(Tensor([[2.5]], device)) == 2.5
    assert int(Tensor(2.5, device)) == 2
    assert bool(Tensor([0.0], device)) is False
    assert bool(Tensor([3.0], device) > 2) is True
    assert type(Tensor(3, device).item()) is int
    assert type(Tensor(3.0, device).item()) is float


@pytest.mark.parametrize("convert", [float, int, bool, Tensor.item])
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
def test_conversion_of_several_elements_raises(convert, shape, device):
    with pytest.raises(ValueError, match="size 1 to a Python scalar"):
        convert(Tensor(np.ones(shape), device))


def test_tensor_rejects_tensor():
    with pytest.raises(TypeError, match="Tensor: expected numbers, got a Tensor"):
        Tensor(Tensor([1.0]))


def test_numpy_returns_copy(device):
    x = Tensor([1.0, 2.0], device)
    x.numpy()[:] = 9
    assert_equal(x, [1, 2])


def test_asarray_shares_memory_and_array_copies():
    x = Tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, dtype="float64").dtype == np.float64
    np.testing.assert_array_equal(np.stack([x, x]), [[1, 2], [1, 2]])
    np.testing.assert_allclose(x, [1, 2])


def test_asarray_rejects_tensor_of_a_device():
    with pytest.raises(TypeError, match=r"Tensor: .*gpu-like:0.*numpy\(\)"):
        np.asarray(on_gpu_like([1, 1]))


def test_read_only_array_is_used_without_writing():
    array = np.array([1.0, 2.0], "float32")
    array.flags.writeable = False
    x = leaf(array)
    y = (x * x).relu().softmax()
    y.backward([1.0, 2.0])
    assert x.grad.shape == (2,)
    np.testing.assert_array_equal(array, [1, 2])


# ------------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1.0, 2.0], None, "float32"),
        (1.5, None, "float32"),
        ([[1, 2.5]], None, "float32"),
        ([1, 2], None, "int64"),
        ([True, False], None, "bool"),
        ([1, 2], "float32", "float32"),
        ([1.0], "float64", "float64"),
        (np.array([1.0]), None, "float64"),
        (np.float64(1), None, "float64"),
        (np.array([1.0], "float16"), None, "float16"),
        (np.array([1], "uint8"), None, "uint8"),
        (np.array([1.0]), "float32", "float32"),
    ],
)
def test_new_tensor_has_expected_dtype(values, dtype, expected, device):
    assert Tensor(values, device, dtype=dtype).dtype == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_do_not_widen_dtype(dtype, device):
    for kind in (int, float, np.int64, np.uint8, np.float32, np.float64):
        x = Tensor(np.array([0.5, 2.0], dtype), device, requires_grad=True)
        one, two = kind(1), kind(2)
        results = [x * two, two * x, x + one, one - x, x / two, one / x, x**two, two**x, -x]
        results += [x.clip(one, two), x.relu(), x.selu(), x.sigmoid(), x.tanh(), x.exp(), x.log()]
        results += [x.softmax(), x.mean()]
        assert {str(result.dtype) for result in results} == {dtype}, kind
        for result in results:
            result.sum().backward()
        assert x.grad.dtype == dtype, kind


def test_numpy_scalar_equals_its_python_number(device):
    x = Tensor([0.1, 3.0], device)
    assert (x == np.float64(0.1)).numpy().tolist() == (x == 0.1).numpy().tolist() == [True, False]
    assert x[np.int64(1)].item() == x[np.int64(-1) :].item() == 3
    assert x[np.True_].shape == (1, 2)
    wide = Tensor(np.array([0.5]), device) * np.float32(0.1)
    assert (wide.dtype, wide.item()) == (np.float64, 0.5 * float(np.float32(0.1)))
    whole = Tensor([1, 2], device) * np.float64(0.5)
    assert (whole.dtype, whole.numpy().tolist()) == (np.float64, [0.5, 1])


def test_two_dtypes_promote_and_each_leaf_keeps_its_own(device):
    narrow = leaf(np.array([1.0, 2.0], "float32"), device)
    wide = leaf(np.array([[3.0], [4.0]], "float64"), device)
    y = narrow * wide
    assert y.dtype == np.float64
    y.sum().backward()
    assert narrow.grad.dtype == np.float32
    assert wide.grad.dtype == np.float64
    assert_equal(narrow.grad, [7, 7])
    assert_equal(wide.grad, [[3], [3]])


def test_astype_converts_value_and_returns_gradient(device):
    x = leaf([1.5, 2.5], device)
    assert x.astype("float32") is x
    wide = x.astype("float64")
    assert wide.dtype == np.float64
    (wide * 3).sum().backward()
    assert_equal(x.grad, [3, 3])


def test_integers_require_no_gradient(device):
    x = leaf([1.5, 2.5], device)
    whole = x.astype("int64")
    assert not whole.requires_grad
    (x * whole).sum().backward()
    assert_equal(x.grad, [1, 2])


@pytest.mark.parametrize("values", [[1, 2], [True], np.array([1], "uint8")])
def test_requires_grad_rejects_integers(values, device):
    dtype = np.asarray(values).dtype
    with pytest.raises(TypeError, match=rf"Tensor: .*floating dtype.*requires_grad.*{dtype}"):
        Tensor(values, device, requires_grad=True)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64"])
def test_requires_grad_cannot_be_set_for_other_than_floats(dtype, backend):
    x = Tensor.of(backend.asarray(np.ones(3, dtype)), backend)
    with pytest.raises(TypeError, match=rf"Tensor: .*floating dtype.*requires_grad.*{dtype}"):
        x.requires_grad = True
    assert x.requires_grad is False
    x.requires_grad = False  # of which each is capable


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_requires_grad_of_floats_can_be_set_and_copied(dtype, device):
    x = Tensor(np.ones(3, dtype), device)
    assert not (x * 2).requires_grad
    x.requires_grad = True
    assert copy.copy(x).requires_grad
    (x * 2).sum().backward()
    assert_equal(x.grad, [2, 2, 2])
    x.requires_grad = False
    assert not (x * 2).requires_grad


def test_comparison_and_integer_views_cannot_require_a_gradient(device):
    x = leaf([1.5, 2.5], device)
    for whole in (x > 2, x.astype("int32"), Tensor([1, 2], device)[:1], Tensor(3, device)):
        with pytest.raises(TypeError, match="floating dtype"):
            whole.requires_grad = True


# ------------------------------------------------------------------------------ devices


@pytest.mark.parametrize(
    ("name", "operate"),
    [
        ("add", lambda a, b: a + b),
        ("multiply", lambda a, b: a * b),
        ("matmul", lambda a, b: a @ b),
        ("lt", lambda a, b: a < b),
        ("getitem", lambda a, b: a[b.astype("int64")]),
        ("getitem", lambda a, b: a[None, b > 0]),
        ("backward", lambda a, b: (a * 2).backward(b)),
    ],
)
def test_operators_reject_operands_on_two_devices(name, operate):
    with pytest.raises(ValueError, match=rf'^{name}: .*cpu and other:0.*\.to\("cpu"\)'):
        operate(leaf([1.0, 0.0]), on_other([1, 0]))


def test_operators_name_device_of_first_operand_as_remedy():
    with pytest.raises(ValueError, match=r'other:0 and cpu.*\.to\("other:0"\)'):
        on_other([1]) + leaf([1.0])


def test_operators_reject_array_beside_tensor_of_a_device():
    x = on_gpu_like([1, 1])
    for name, operate in {
        "add": lambda: x + np.ones(2),
        "subtract": lambda: np.ones(2) - x,
        "matmul": lambda: np.ones((3, 2)) @ x,
        "getitem": lambda: x[np.array([0, 1])],
    }.items():
        with pytest.raises(ValueError, match=rf'^{name}: .*gpu-like:0.*cpu.*device="gpu-like:0"'):
            operate()


def test_to_same_device_returns_same_tensor(device):
    x = leaf([1.0], device)
    assert x.to(device) is x
    assert x.to(x.device) is x


def test_to_another_device_and_back_returns_gradient(monkeypatch):
    monkeypatch.setattr(tensor, "get_backend", {"cpu": get_backend("cpu"), "other:0": OTHER}.get)
    x = leaf([1.0, 2.0])
    y = x.to("other:0")
    assert y.device == "other:0"
    assert y.requires_grad
    assert not np.shares_memory(y.data, x.data)
    (y * y).to("cpu").sum().backward()
    assert x.grad.device == "cpu"
    assert_equal(x.grad, [2, 4])


def test_unknown_device_raises():
    with pytest.raises(ValueError, match=r"device: .*'gpu'"):
        Tensor([1.0]).to("gpu")
    with pytest.raises(ValueError, match=r"device: .*'gpu'"):
        Tensor([1.0], "gpu")
    assert issubclass(DeviceError, RuntimeError)


def test_format_of_one_element_is_that_of_its_number(device):
    assert f"{Tensor(2.5, device):.2f}, {Tensor([3], device):4d}" == "2.50,    3"
    several = Tensor([1.0, 2.0])
    assert f"{several}" == repr(several)
    with pytest.raises(ValueError, match="size 1"):
        f"{several:.2f}"
