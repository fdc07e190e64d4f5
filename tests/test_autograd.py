"""The tensor and its tape: operators, gradients, memory, dtypes, and other libraries' arrays."""

import copy
import threading
import tracemalloc
import types
import weakref

import numpy as np
import pytest

from minidl import (
    DeviceError,
    Tensor,
    from_dlpack,
    get_backend,
    layers,
    losses,
    models,
    no_grad,
    ops,
)
from minidl import autograd as engine
from minidl.autograd import apply
from minidl.backend.numpy_backend import NumpyBackend

DEEP = 20_000


class OtherBackend(NumpyBackend):
    """A second device, for what happens between two."""

    name = "other:0"


OTHER = OtherBackend()


def leaf(values, device="cpu"):
    return Tensor(values, device, requires_grad=True)


def elsewhere(values):
    return Tensor.of(np.asarray(values, "float32"), OTHER)


def equal(tensor, expected):
    np.testing.assert_array_equal(tensor.numpy(), expected)


# ------------------------------------------------------------------------------ operators


@pytest.mark.parametrize(
    ("operate", "expected"),
    [
        (lambda x: x + 2, [3, 4, 6]),
        (lambda x: 2 + x, [3, 4, 6]),
        (lambda x: x - 2, [-1, 0, 2]),
        (lambda x: 2 - x, [1, 0, -2]),
        (lambda x: x * 2.5, [2.5, 5, 10]),
        (lambda x: 2.5 * x, [2.5, 5, 10]),
        (lambda x: x / 2, [0.5, 1, 2]),
        (lambda x: 8 / x, [8, 4, 2]),
        (lambda x: x**2, [1, 4, 16]),
        (lambda x: 2**x, [2, 4, 16]),
        (lambda x: -x, [-1, -2, -4]),
        (lambda x: x + True, [2, 3, 5]),
        (lambda x: x @ x, 21),
        (lambda x: x == 2, [False, True, False]),
        (lambda x: x != 2, [True, False, True]),
        (lambda x: x < 2, [True, False, False]),
        (lambda x: x <= 2, [True, True, False]),
        (lambda x: x > 2, [False, False, True]),
        (lambda x: x >= 2, [False, True, True]),
        (lambda x: 2 < x, [False, False, True]),  # noqa: SIM300
        (lambda x: x.mean(), 7 / 3),
        (lambda x: x.reshape(3, 1).T, [[1, 2, 4]]),
        (lambda x: x.reshape((1, -1)), [[1, 2, 4]]),
        (lambda x: x.reshape(3, 1).transpose(1, 0), [[1, 2, 4]]),
        (lambda x: x.reshape(3, 1).transpose((1, 0)), [[1, 2, 4]]),
    ],
)
def test_operators(operate, expected, device):
    result = operate(Tensor([1.0, 2.0, 4.0], device))
    assert isinstance(result, Tensor)
    assert result.device == get_backend(device).name
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("other", [np.float32(2), np.array(2, "float32"), np.full(3, 2, "float32")])
def test_numpy_values_stand_on_either_side(other):
    x = leaf([1.0, 2.0, 4.0])
    results = [x + other, other + x, x - other, other - x, x * other, other * x, x / other]
    results += [other / x, x**other, other**x]
    for result in results:
        assert type(result) is Tensor
        assert result.requires_grad
        assert result.dtype == np.float32
    expected = [3, 4, 6]
    equal(results[0], expected)
    equal(results[1], expected)
    equal(results[3], [1, 0, -2])
    equal(results[7], [2, 1, 0.5])
    equal(results[9], [2, 4, 16])
    for relation in (other < x, other == x, x > other):
        assert type(relation) is Tensor
    equal(other < x, [False, False, True])


def test_an_array_times_a_matrix_asks_the_tensor():
    weights = leaf([[1.0, 2.0], [3.0, 4.0]])
    batch = np.array([[1, 1], [2, 0]], "float32")
    y = batch @ weights
    assert type(y) is Tensor
    equal(y, [[4, 6], [2, 4]])
    y.sum().backward()
    equal(weights.grad, [[3, 3], [1, 1]])
    equal(weights @ batch, [[5, 1], [11, 3]])


def test_an_array_cannot_take_a_tensor_into_itself():
    array = np.ones(2, "float32")
    with pytest.raises(TypeError, match="does not support ufuncs"):
        array += leaf([1.0, 2.0])
    np.testing.assert_array_equal(array, [1, 1])


def test_numpy_functions_refuse_a_tensor():
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.exp(leaf([1.0]))


def test_comparisons_record_nothing(device):
    assert not (leaf([1.0, 2.0], device) > 1).requires_grad


def test_iteration_and_length(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device)
    assert len(x) == 3
    rows = list(x)
    assert [row.shape for row in rows] == [(2,)] * 3
    (rows[0].sum() + (rows[2] * 2).sum()).backward()
    equal(x.grad, [[1, 1], [0, 0], [2, 2]])
    assert list(Tensor(np.zeros((0, 3)), device)) == []


def test_a_scalar_has_no_length(device):
    with pytest.raises(TypeError, match="unsized"):
        len(Tensor(1.0, device))
    with pytest.raises(TypeError, match="unsized"):
        iter(Tensor(1.0, device))


def test_python_numbers_from_one_element(device):
    assert float(Tensor([[2.5]], device)) == 2.5
    assert int(Tensor(2.5, device)) == 2
    assert bool(Tensor([0.0], device)) is False
    assert bool(Tensor([3.0], device) > 2) is True
    assert type(Tensor(3, device).item()) is int
    assert type(Tensor(3.0, device).item()) is float


@pytest.mark.parametrize("convert", [float, int, bool, Tensor.item])
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
def test_several_elements_are_not_one_number(convert, shape, device):
    with pytest.raises(ValueError, match=r"item: expected a tensor with one element, received sh"):
        convert(Tensor(np.ones(shape), device))


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Tensor([1.0, 2.0]), "Tensor([1., 2.], dtype=float32)"),
        (leaf(2.0), "Tensor(2., dtype=float32, requires_grad=True)"),
        (Tensor([[1, 2], [3, 4]]), "Tensor([[1, 2],\n        [3, 4]], dtype=int64)"),
        (elsewhere([1]), "Tensor([1.], dtype=float32, device='other:0')"),
    ],
)
def test_repr(tensor, text):
    assert repr(tensor) == text


def test_a_tensor_is_a_key_by_identity(device):
    a, b = Tensor([1.0], device), Tensor([1.0], device)
    assert {a: "a", b: "b"}[a] == "a"
    assert len({a, b, a}) == 2


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"Tensor: expected numbers, received a Tensor; use detach"):
        Tensor(Tensor([1.0]))


def test_a_softmax_of_a_softmax_keeps_one_input_alive(device):
    x = Tensor([[1.0, 2.0]], device)
    p = x.softmax()
    q = p.softmax()
    assert q.logits.logits is None
    assert np.array_equal(q.logits.numpy(), p.numpy())
    x.requires_grad = True  # then the graph keeps them all, and gradients go through them
    assert x.softmax().softmax().logits.logits is x


def test_softmax_knows_its_logits_and_nothing_else_does(device):
    x = Tensor([[1.0, 2.0]], device)
    assert x.softmax().logits is x
    assert x.softmax(axis=1).logits is x
    assert x.softmax(axis=0).logits is None
    assert (x.softmax() * 1).logits is None
    assert x.softmax().detach().logits is None


# ------------------------------------------------------------------------------ backward


def test_leaves_accumulate_and_interior_tensors_keep_nothing(device):
    x = leaf([1.0, 2.0], device)
    y = x * 3
    y.sum().backward()
    equal(x.grad, [3, 3])
    (x * x).sum().backward()
    equal(x.grad, [5, 7])
    assert y.grad is None
    assert not x.grad.requires_grad


def test_a_diamond_is_walked_once(device):
    x = leaf([3.0], device)
    calls = []

    def counted(backend, x):
        def vjp(g):
            calls.append(backend.to_numpy(g))
            return g * 2

        return x * 2, (vjp,)

    shared = apply(counted, x)
    ((shared + 1) * (shared * 5)).backward()
    # d/dx (2x + 1) 10x = 40x + 10, through one visit of `shared` with 10 shared + 5
    np.testing.assert_array_equal(calls, [[65]])
    equal(x.grad, [130])


def test_a_ladder_of_diamonds_takes_linear_time(device):
    x = leaf([1.0], device)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y * 0.5 + y * 0.5
    y.backward()
    equal(x.grad, [1])


def test_the_same_tensor_twice_in_one_op(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    (x * x).sum().backward()
    equal(x.grad, [[2, 4], [6, 8]])
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    (x @ x.T).sum().backward()
    equal(x.grad, [[8, 12], [8, 12]])  # 2 * column sums
    x = leaf([5.0], device)
    (x - x).backward()
    equal(x.grad, [0])


def test_only_what_needs_a_gradient_gets_one(device):
    x, constant = leaf([1.0], device), Tensor([2.0], device)

    def refuse(g):
        raise AssertionError("asked for a gradient that nobody wants")

    apply(lambda backend, a, b: (a * b, (lambda g: g * b, refuse)), x, constant).backward()
    equal(x.grad, [2])
    assert constant.grad is None


def test_an_unused_leaf_has_no_gradient(device):
    x, unused = leaf([1.0], device), leaf([1.0], device)
    (x * 2).backward()
    assert unused.grad is None


def test_a_leaf_is_its_own_loss(device):
    x = leaf(3.0, device)
    x.backward()
    assert x.grad.item() == 1


def test_a_second_backward_over_a_released_graph_raises_and_changes_nothing(device):
    x = leaf([1.0], device)
    shared = x * 2
    first, second = shared * 3, shared * 4
    first.backward()
    message = r"backward: the graph was released by an earlier backward\(\)"
    for loss in (first, second):
        with pytest.raises(RuntimeError, match=message):
            loss.backward()
    equal(x.grad, [6])


def test_a_copy_knows_that_the_graph_was_released(device):
    loss = leaf([1.0], device) * 2
    loss.backward()
    for copied in (copy.copy(loss), copy.deepcopy(loss)):
        with pytest.raises(RuntimeError, match="backward: the graph was released"):
            copied.backward()


def test_several_elements_need_a_gradient(device):
    with pytest.raises(ValueError, match=r"expected a tensor with one element \(a loss\), rece.*3"):
        (leaf([1.0, 2.0, 3.0], device) * 2).backward()


def test_one_element_of_any_rank_is_a_loss(device):
    x = leaf([[2.0]], device)
    (x * x).backward()
    equal(x.grad, [[4]])


@pytest.mark.parametrize("kind", ["list", "array", "tensor"])
def test_backward_takes_a_gradient(kind, device):
    x = leaf([1.0, 2.0], device)
    gradient = {
        "list": [10.0, 1.0],
        "array": get_backend(device).asarray(np.array([10.0, 1.0])),
        "tensor": Tensor([10.0, 1.0], device),
    }[kind]
    (x * x).backward(gradient)
    equal(x.grad, [20, 4])
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("gradient", [[1.0, 2.0], [[1.0, 2.0, 3.0]], 1.0])
def test_a_gradient_of_another_shape_is_refused(gradient, device):
    x = leaf([1.0, 2.0, 3.0], device)
    y = x * 2
    with pytest.raises(
        ValueError, match=r"backward: expected a gradient of shape \(3,\), received"
    ):
        y.backward(gradient)
    y.backward([1.0, 1.0, 1.0])  # nothing was lost
    equal(x.grad, [2, 2, 2])


def test_a_gradient_that_the_caller_changes_later_does_not_change_grad():
    x = leaf([1.0, 2.0])
    gradient = np.array([3.0, 4.0], "float32")
    x.backward(gradient)
    gradient[:] = 0
    equal(x.grad, [3, 4])


def test_nothing_requires_a_gradient(device):
    with pytest.raises(RuntimeError, match="backward: nothing here requires a gradient"):
        Tensor([1.0], device).backward()


def test_an_empty_tensor_has_an_empty_gradient(device):
    x = leaf(np.zeros((0, 3), "float32"), device)
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)


# ------------------------------------------------------------------------------ no_grad, detach


def test_no_grad_nests(device):
    x = leaf([1.0], device)
    with no_grad():
        with no_grad():
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_exception(device):
    x = leaf([1.0], device)
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * 2).requires_grad


def test_no_grad_is_a_decorator(device):
    x = leaf([1.0], device)

    @no_grad()
    def double(x):
        return x * 2

    for _ in range(2):
        assert not double(x).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_at_its_thread(device):
    x = leaf([1.0], device)
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_values_and_forgets_the_graph(device):
    x = leaf([3.0], device)
    y = x * 2
    cut = y.detach()
    assert not cut.requires_grad
    assert cut.data is y.data
    (y * cut).backward()
    equal(x.grad, [12])


# ------------------------------------------------------------------------------ depth and memory


def test_a_deep_graph_runs_forward_and_backward(device):
    x = leaf([1.0], device)
    y = x
    for _ in range(DEEP):
        y = y + 1
    equal(y, [DEEP + 1])
    y.backward()
    equal(x.grad, [1])


def test_a_deep_graph_is_freed_without_backward(device):
    x = leaf([1.0], device)
    y = x
    for _ in range(DEEP):
        y = y * 1
        y = y + 0
    first = weakref.ref(y)
    del y  # deallocation that recursed would end the process
    assert first() is None


def test_the_graph_is_freed_without_the_garbage_collector(device):
    x = leaf([1.0, 2.0], device)
    hidden = x.sigmoid()
    alive = weakref.ref(hidden)
    loss = (hidden.softmax() * hidden).sum()
    del hidden
    assert alive() is not None
    loss.backward()
    assert alive() is None
    del loss


def test_each_intermediate_array_is_freed_as_backward_passes_it(device):
    refs = []
    alive_at = []

    def watched(backend, x):
        y = x * 2
        refs.append(weakref.ref(y))

        def vjp(g):
            alive_at.append([ref() is not None for ref in refs])
            return g * 2 + 0 * y

        return y, (vjp,)

    y = leaf([1.0], device)
    for _ in range(5):
        y = apply(watched, y)
    loss = y.sum()
    del y
    assert all(ref() is not None for ref in refs)
    loss.backward()
    # Where the op with number n from the end runs, those after it have gone.
    expected = [[place <= now for place in range(5)] for now in (4, 3, 2, 1, 0)]
    assert alive_at == expected
    assert not any(ref() is not None for ref in refs)


def test_backward_needs_no_more_memory_than_forward():
    size, ops = 2**18, 20  # 1 MiB in float32
    x = leaf(np.ones(size, "float32"))
    tracemalloc.start()
    try:
        y = x
        for _ in range(ops):
            y = y.tanh()
        loss = y.sum()
        del y
        forward = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        loss.backward()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    array = 4 * size
    assert forward > ops * array
    assert peak < forward + 5 * array  # gradients replace what is freed; a hoard would add 20
    assert after < 3 * array


def test_no_grad_keeps_no_intermediate_array():
    x = leaf(np.ones(2**18, "float32"))
    tracemalloc.start()
    try:
        y = x
        with no_grad():
            for _ in range(20):
                y = y.tanh()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 4 * x.size


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
def test_dtype_of_a_new_tensor(values, dtype, expected, device):
    assert Tensor(values, device, dtype=dtype).dtype == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", [int, float, np.int64, np.uint8, np.float32, np.float64])
def test_numbers_do_not_widen(kind, dtype, device):
    x = Tensor(np.array([0.5, 2.0], dtype), device, requires_grad=True)
    one, two = kind(1), kind(2)
    results = [x * two, two * x, x + one, one - x, x / two, one / x, x**two, two**x, -x, x.mean()]
    results += [x.clip(one, two), x.relu(), x.sigmoid(), x.tanh(), x.exp(), x.log(), x.softmax()]
    assert {str(result.dtype) for result in results} == {dtype}
    for result in results:
        result.sum().backward()
    assert x.grad.dtype == dtype


def test_a_numpy_scalar_is_the_number_that_it_shows(device):
    x = Tensor([0.1, 3.0], device)
    assert (x == np.float64(0.1)).numpy().tolist() == (x == 0.1).numpy().tolist() == [True, False]
    assert x[np.int64(1)].item() == x[np.int64(-1) :].item() == 3
    assert x[np.True_].shape == (1, 2)
    wide = Tensor(np.array([0.5]), device) * np.float32(0.1)
    assert (wide.dtype, wide.item()) == (np.float64, 0.5 * float(np.float32(0.1)))
    whole = Tensor([1, 2], device) * np.float64(0.5)
    assert (whole.dtype, whole.numpy().tolist()) == (np.float64, [0.5, 1])


def test_two_widths_promote_and_each_leaf_has_a_gradient_of_its_own(device):
    narrow = leaf(np.array([1.0, 2.0], "float32"), device)
    wide = leaf(np.array([[3.0], [4.0]], "float64"), device)
    y = narrow * wide
    assert y.dtype == np.float64
    y.sum().backward()
    assert narrow.grad.dtype == np.float32
    assert wide.grad.dtype == np.float64
    equal(narrow.grad, [7, 7])
    equal(wide.grad, [[3], [3]])


def test_accumulation_keeps_the_dtype_of_the_leaf(device):
    x = leaf([1.0], device)
    (x * np.float32(2)).backward()
    x.astype("float64").backward()
    assert x.grad.dtype == np.float32
    equal(x.grad, [3])


def test_astype(device):
    x = leaf([1.5, 2.5], device)
    assert x.astype("float32") is x
    wide = x.astype("float64")
    assert wide.dtype == np.float64
    (wide * 3).sum().backward()
    equal(x.grad, [3, 3])


def test_integers_have_no_gradient(device):
    x = leaf([1.5, 2.5], device)
    whole = x.astype("int64")
    assert not whole.requires_grad
    (x * whole).sum().backward()
    equal(x.grad, [1, 2])


@pytest.mark.parametrize("values", [[1, 2], [True], np.array([1], "uint8")])
def test_requires_grad_needs_a_floating_dtype(values, device):
    with pytest.raises(TypeError, match="requires_grad needs a floating dtype, received") as caught:
        Tensor(values, device, requires_grad=True)
    assert 'give dtype="float32"' in str(caught.value)


# ------------------------------------------------------------------------------ NumPy and DLPack


def test_numpy_is_a_copy(device):
    x = Tensor([1.0, 2.0], device)
    x.numpy()[:] = 9
    equal(x, [1, 2])


def test_asarray_of_a_tensor_shares_and_array_copies():
    x = Tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, dtype="float64").dtype == np.float64
    np.testing.assert_array_equal(np.stack([x, x]), [[1, 2], [1, 2]])
    np.testing.assert_allclose(x, [1, 2])


def test_a_device_is_never_copied_to_the_host_silently():
    backend = type("Backend", (NumpyBackend,), {"name": "gpu-like:0", "xp": library()})()
    x = Tensor.of(np.ones(2, "float32"), backend)
    with pytest.raises(TypeError, match=r"on gpu-like:0, .* use numpy\(\)"):
        np.asarray(x)


def test_a_numpy_array_does_not_meet_a_tensor_of_a_device():
    backend = type("Backend", (NumpyBackend,), {"name": "gpu-like:0", "xp": library()})()
    x = Tensor.of(np.ones(2, "float32"), backend)
    remedy = r'move it with Tensor\(array, device="gpu-like:0"\)'
    for name, operate in {
        "add": lambda: x + np.ones(2),
        "subtract": lambda: np.ones(2) - x,
        "matmul": lambda: np.ones((3, 2)) @ x,
        "getitem": lambda: x[np.array([0, 1])],
    }.items():
        with pytest.raises(
            ValueError, match=rf"{name}: operands are on gpu-like:0 and cpu \(a NumPy.*{remedy}"
        ):
            operate()


def library():
    """NumPy under another identity, as a device's array library has."""
    other = types.ModuleType("library")
    other.__dict__.update(np.__dict__)
    return other


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_dlpack_to_and_from_numpy_shares_memory(dtype):
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype)[:, ::2]
    tensor = from_dlpack(array)
    assert tensor.dtype == dtype
    assert np.shares_memory(tensor.data, array)
    assert tensor.data.strides == array.strides
    back = np.from_dlpack(tensor)
    assert np.shares_memory(back, array)
    array[0, 0] = 0
    assert tensor.numpy()[0, 0] == 0


def test_dlpack_to_and_from_torch_shares_memory():
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `oracle`)")
    theirs = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    mine = from_dlpack(theirs)
    equal(mine, [[0, 3], [1, 4], [2, 5]])
    theirs[0, 0] = 7
    assert mine.numpy()[0, 0] == 7
    back = torch.from_dlpack(Tensor.of(mine.data, mine.backend))
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()
    x = torch.ones(2, requires_grad=True)
    with pytest.raises((RuntimeError, BufferError), match="require"):
        from_dlpack(x)  # it would lose torch's graph


def test_dlpack_says_the_device():
    assert Tensor([1.0]).__dlpack_device__() == np.ones(1).__dlpack_device__()


def test_a_read_only_array_is_read_and_never_written():
    array = np.array([1.0, 2.0], "float32")
    array.flags.writeable = False
    x = leaf(array)
    y = (x * x).relu().softmax()
    y.backward([1.0, 2.0])
    assert x.grad.shape == (2,)
    equal(from_dlpack(array) * 2, [2, 4])
    np.testing.assert_array_equal(array, [1, 2])


@pytest.mark.parametrize("kind", [4, 7, 8, 10])
def test_from_dlpack_refuses_other_devices(kind):
    source = types.SimpleNamespace(__dlpack_device__=lambda: (kind, 0))
    with pytest.raises(
        ValueError, match=rf"expected an array on the CPU or a CUDA device, .* type {kind}; move it"
    ):
        from_dlpack(source)


# ------------------------------------------------------------------------------ two devices


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
def test_devices_do_not_mix(name, operate):
    remedy = r'move one with \.to\("cpu"\)'
    with pytest.raises(ValueError, match=rf"^{name}: operands are on cpu and other:0; {remedy}$"):
        operate(leaf([1.0, 0.0]), elsewhere([1, 0]))


def test_the_remedy_names_the_first_operand_of_the_two():
    with pytest.raises(ValueError, match=r'on other:0 and cpu; move one with \.to\("other:0"\)'):
        elsewhere([1]) + leaf([1.0])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (losses.SparseCategoricalCrossentropy(from_logits=True), Tensor([0, 1])),
        (losses.CategoricalCrossentropy(from_logits=True), Tensor([[0, 1], [1, 0]])),
        (losses.MeanSquaredError(), Tensor([[0.0, 1.0], [1.0, 0.0]])),
    ],
)
@pytest.mark.parametrize("misplaced", ["targets", "weights"])
def test_a_loss_names_both_devices(loss, targets, misplaced):
    outputs, weights = leaf([[1.0, 2.0], [3.0, 4.0]]), Tensor([1.0, 1.0])
    assert np.isfinite(loss(targets, outputs, weights).item())
    if misplaced == "targets":
        targets = Tensor.of(targets.data, OTHER)
    else:
        weights = Tensor.of(weights.data, OTHER)
    where = r'outputs are on cpu and targets or weights on other:0; .* \.to\("cpu"\)'
    with pytest.raises(ValueError, match=where):
        loss(targets, outputs, weights)


def test_to_the_same_device_is_the_same_tensor(device):
    x = leaf([1.0], device)
    assert x.to(device) is x
    assert x.to(x.device) is x


def test_to_another_device_and_back_with_the_gradient(monkeypatch):
    monkeypatch.setattr(engine, "get_backend", {"cpu": get_backend("cpu"), "other:0": OTHER}.get)
    x = leaf([1.0, 2.0])
    y = x.to("other:0")
    assert y.device == "other:0"
    assert y.requires_grad
    assert not np.shares_memory(y.data, x.data)
    (y * y).to("cpu").sum().backward()
    assert x.grad.device == "cpu"
    equal(x.grad, [2, 4])


def test_a_device_that_does_not_exist():
    with pytest.raises(ValueError, match=r"device: expected \"cpu\", .* got 'gpu'"):
        Tensor([1.0]).to("gpu")
    with pytest.raises(ValueError, match="device: expected"):
        Tensor([1.0], "gpu")
    assert issubclass(DeviceError, RuntimeError)


def test_the_gradients_of_leaves_share_no_memory_and_can_be_written():
    a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    (a + b).sum().backward()
    a.grad.data *= 2
    assert a.grad.numpy().tolist() == [2, 2]
    assert b.grad.numpy().tolist() == [1, 1]


def test_a_mean_of_many_float16_does_not_overflow():
    assert Tensor(np.ones(70_000, "float16")).mean().item() == 1


@pytest.mark.parametrize("operand", [[1.0, 2.0], (1.0, 2.0)])
def test_lists_are_not_operands(operand):
    with pytest.raises(TypeError, match="add: expected tensors or numbers, received a list"):
        Tensor([1.0, 2.0]) + operand


@pytest.mark.parametrize(
    ("use", "who"),
    [
        (Tensor, "Tensor"),
        (lambda masked: leaf([1.0, 2.0]) * masked, "multiply"),
        (lambda masked: masked - leaf([1.0, 2.0]), "subtract"),
        (lambda masked: leaf([1.0, 2.0]) < masked, "lt"),
        (lambda masked: leaf([1.0, 2.0])[masked], "getitem"),
        (models.Sequential([layers.Dense(1)], name="net"), "net"),
        (lambda masked: losses.MeanSquaredError()(masked, leaf([1.0, 2.0])), "loss: y_true"),
        (
            lambda masked: losses.MeanSquaredError()([1, 2], leaf([1.0, 2.0]), masked),
            "loss: sample_weight",
        ),
    ],
)
def test_a_masked_array_is_refused_and_does_not_lose_its_mask(use, who):
    with pytest.raises(TypeError, match=f"^{who}: received a masked array, whose mask would be lo"):
        use(np.ma.masked_array([1.0, 2.0], mask=[True, False]))


def test_an_op_without_a_tensor_is_refused():
    with pytest.raises(TypeError, match="relu: expected at least one Tensor"):
        apply(ops.relu, np.ones(3))


# ------------------------------------------------------------------------------ where gradients go


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, w: (x @ w).sum(),  # a product that is written there
        lambda x, w: (x @ w + (2 * x) @ w).sum(),  # two, of which the second must not overwrite
        lambda x, w: (w * 3).sum(),  # an op that returns an array of its own
        lambda x, w: w.sum(),  # a view that is no memory of its own
    ],
)
def test_gradients_are_written_into_given_arrays(loss, device, backend):
    x = Tensor(np.arange(6.0).reshape(2, 3), device)
    expected, w = (Tensor(np.ones((3, 2)), device, requires_grad=True) for _ in range(2))
    loss(x, expected).backward()
    place = backend.asarray(np.full((3, 2), 7.0))
    loss(x, w).backward(into={w: place})
    assert w.grad.data is place
    np.testing.assert_array_equal(w.grad.numpy(), expected.grad.numpy())


def test_a_gradient_that_is_there_is_added_to_and_not_overwritten(device, backend):
    w = Tensor(np.ones((3, 2)), device, requires_grad=True)
    x, place = Tensor(np.ones((2, 3)), device), backend.asarray(np.zeros((3, 2)))
    for _ in range(2):
        (x @ w).sum().backward(into={w: place})
    np.testing.assert_array_equal(w.grad.numpy(), np.full((3, 2), 4.0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda xp: xp.zeros((2, 3)),
        lambda xp: xp.zeros((3, 2), dtype="float32"),
        lambda xp: xp.zeros((2, 3)).T,
    ],
)
def test_an_array_that_does_not_fit_its_leaf_is_refused(wrong, device, backend):
    w = Tensor(np.ones((3, 2)), device, requires_grad=True)
    loss = (w * w).sum()
    with pytest.raises(ValueError, match="into must hold C-contiguous arrays like their leaves"):
        loss.backward(into={w: wrong(backend.xp)})
    loss.backward()  # nothing was lost
