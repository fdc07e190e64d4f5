"""The walk over the graph: gradients, memory, and where gradients are written."""

import copy
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from minidl import Tensor, get_backend, no_grad
from minidl.engine import backward as engine
from minidl.engine.tensor import apply

# Depths of graphs: above Python's recursion limit, and so deep that recursion in C would crash.
ABOVE_RECURSION_LIMIT = 3 * sys.getrecursionlimit()
ABOVE_C_STACK = 20_000


def leaf(values, device="cpu"):
    return Tensor(values, device, requires_grad=True)


def assert_equal(tensor, expected):
    np.testing.assert_array_equal(tensor.numpy(), expected)


# ------------------------------------------------------------------------------ gradients


def test_backward_accumulates_in_leaves_only(device):
    x = leaf([1.0, 2.0], device)
    y = x * 3
    y.sum().backward()
    assert_equal(x.grad, [3, 3])
    (x * x).sum().backward()
    assert_equal(x.grad, [5, 7])
    assert y.grad is None
    assert not x.grad.requires_grad


def test_backward_visits_shared_result_once(device):
    x = leaf([3.0], device)
    cotangents = []

    def counted(backend, x):
        def vjp(g):
            cotangents.append(backend.to_numpy(g))
            return g * 2

        return x * 2, (vjp,)

    shared = apply(counted, x)
    ((shared + 1) * (shared * 5)).backward()
    # The derivative of (2x + 1) 10x is 40x + 10; the one visit of `shared` has 10 shared + 5.
    np.testing.assert_array_equal(cotangents, [[65]])
    assert_equal(x.grad, [130])


def test_backward_through_exponentially_many_paths_finishes(device):
    x = leaf([1.0], device)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y * 0.5 + y * 0.5
    y.backward()
    assert_equal(x.grad, [1])


def test_leaf_used_twice_by_one_op_has_sum_of_gradients(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    (x * x).sum().backward()
    assert_equal(x.grad, [[2, 4], [6, 8]])
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    (x @ x.T).sum().backward()
    assert_equal(x.grad, [[8, 12], [8, 12]])  # twice the sums of the columns
    x = leaf([5.0], device)
    (x - x).backward()
    assert_equal(x.grad, [0])


def test_backward_computes_wanted_gradients_only(device):
    x, constant = leaf([1.0], device), Tensor([2.0], device)

    def fail(g):
        raise AssertionError("this gradient is not wanted")

    apply(lambda backend, a, b: (a * b, (lambda g: g * b, fail)), x, constant).backward()
    assert_equal(x.grad, [2])
    assert constant.grad is None


def test_unused_leaf_has_no_gradient(device):
    x, unused = leaf([1.0], device), leaf([1.0], device)
    (x * 2).backward()
    assert unused.grad is None


def test_backward_of_leaf_is_one(device):
    x = leaf(3.0, device)
    x.backward()
    assert x.grad.item() == 1


def test_backward_of_empty_tensor_has_empty_gradient(device):
    x = leaf(np.zeros((0, 3), "float32"), device)
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)


def test_backward_of_one_element_needs_no_gradient(device):
    x = leaf([[2.0]], device)
    (x * x).backward()
    assert_equal(x.grad, [[4]])


@pytest.mark.parametrize("kind", ["list", "array", "tensor"])
def test_backward_accepts_gradient(kind, device):
    x = leaf([1.0, 2.0], device)
    gradient = {
        "list": [10.0, 1.0],
        "array": get_backend(device).asarray(np.array([10.0, 1.0])),
        "tensor": Tensor([10.0, 1.0], device),
    }[kind]
    (x * x).backward(gradient)
    assert_equal(x.grad, [20, 4])
    assert x.grad.dtype == np.float32


def test_accumulated_gradient_keeps_dtype_of_leaf(device):
    x = leaf([1.0], device)
    (x * np.float32(2)).backward()
    x.astype("float64").backward()
    assert x.grad.dtype == np.float32
    assert_equal(x.grad, [3])


def test_gradient_does_not_share_memory_with_given_gradient():
    x = leaf([1.0, 2.0])
    gradient = np.array([3.0, 4.0], "float32")
    x.backward(gradient)
    gradient[:] = 0
    assert_equal(x.grad, [3, 4])


def test_gradients_of_two_leaves_share_no_memory():
    a, b = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    (a + b).sum().backward()
    a.grad.data *= 2
    assert a.grad.numpy().tolist() == [2, 2]
    assert b.grad.numpy().tolist() == [1, 1]


# ------------------------------------------------------------------------------ errors


def test_backward_over_released_graph_raises_and_changes_nothing(device):
    x = leaf([1.0], device)
    shared = x * 2
    first, second = shared * 3, shared * 4
    first.backward()
    for loss in (first, second):
        with pytest.raises(RuntimeError, match=r"backward: .*released"):
            loss.backward()
    assert_equal(x.grad, [6])


def test_backward_of_copied_result_of_released_graph_raises(device):
    loss = leaf([1.0], device) * 2
    loss.backward()
    for copied in (copy.copy(loss), copy.deepcopy(loss)):
        with pytest.raises(RuntimeError, match=r"backward: .*released"):
            copied.backward()


def test_backward_of_several_elements_requires_gradient(device):
    with pytest.raises(ValueError, match=r"backward: expected .*one element.*\(3,\)"):
        (leaf([1.0, 2.0, 3.0], device) * 2).backward()


@pytest.mark.parametrize("gradient", [[1.0, 2.0], [[1.0, 2.0, 3.0]], 1.0])
def test_backward_rejects_gradient_of_another_shape(gradient, device):
    x = leaf([1.0, 2.0, 3.0], device)
    y = x * 2
    with pytest.raises(ValueError, match=r"backward: expected a gradient of shape \(3,\)"):
        y.backward(gradient)
    y.backward([1.0, 1.0, 1.0])  # the graph is still there
    assert_equal(x.grad, [2, 2, 2])


def test_backward_without_leaf_that_requires_gradient_raises(device):
    with pytest.raises(RuntimeError, match="backward: expected a tensor that requires a gradient"):
        Tensor([1.0], device).backward()


# ------------------------------------------------------------------------------ no_grad, detach


def test_no_grad_can_be_nested(device):
    x = leaf([1.0], device)
    with no_grad():
        with no_grad():
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_on_exception(device):
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


def test_no_grad_does_not_reach_other_threads(device):
    x = leaf([1.0], device)
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_values_and_drops_graph(device):
    x = leaf([3.0], device)
    y = x * 2
    detached = y.detach()
    assert not detached.requires_grad
    assert detached.data is y.data
    (y * detached).backward()
    assert_equal(x.grad, [12])


# ------------------------------------------------------------------------------ depth and memory


def test_deep_graph_runs_forward_and_backward(device):
    x = leaf([1.0], device)
    y = x
    for _ in range(ABOVE_RECURSION_LIMIT):
        y = y + 1
    assert_equal(y, [ABOVE_RECURSION_LIMIT + 1])
    y.backward()
    assert_equal(x.grad, [1])


def test_deep_graph_is_freed_without_backward():
    y = leaf([1.0])
    for _ in range(ABOVE_C_STACK):
        y = y + 0
    result = weakref.ref(y)
    del y  # a recursive deallocation would crash the process
    assert result() is None


def test_graph_is_freed_without_garbage_collector(device):
    x = leaf([1.0, 2.0], device)
    hidden = x.sigmoid()
    alive = weakref.ref(hidden)
    loss = (hidden.softmax() * hidden).sum()
    del hidden
    assert alive() is not None
    loss.backward()
    assert alive() is None
    del loss


def test_backward_frees_each_intermediate_array_after_use(device):
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
    # At each operation, the arrays of those after it are freed.
    expected = [[place <= now for place in range(5)] for now in (4, 3, 2, 1, 0)]
    assert alive_at == expected
    assert not any(ref() is not None for ref in refs)


def test_backward_needs_no_more_memory_than_forward():
    size, count = 2**18, 20  # an array is 1 MiB in float32
    x = leaf(np.ones(size, "float32"))
    tracemalloc.start()
    try:
        y = x
        for _ in range(count):
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
    assert forward > count * array
    assert peak < forward + 5 * array  # if no array were freed, it would be 20 more
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


# ------------------------------------------------------------------------------ into


def matrix(values, device):
    return Tensor(np.array(values), device, requires_grad=True)


# Losses of x, shape (2, 3), and the leaf w, shape (3, 3).
LOSSES = {
    "product": lambda x, w: (x @ w).sum(),
    "two products": lambda x, w: (x @ w + (2 * x) @ w).sum(),
    "own array": lambda x, w: (w * 3).sum(),
    "broadcast view": lambda x, w: w.sum(),
    "w @ w": lambda x, w: (w @ w).sum(),
    "w * w": lambda x, w: (w * w).sum(),
    "w @ w.T": lambda x, w: (w @ w.T).sum(),
    "w @ w and x @ w": lambda x, w: (w @ w).sum() + (x @ w).sum(),
    "x @ w and w @ w": lambda x, w: (x @ w).sum() + (w @ w).sum(),
    "chain": lambda x, w: ((x @ w).tanh() @ w).sum(),
    "transposed": lambda x, w: (x @ w.T).sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_written_into_arrays_equal_those_without(loss, device, backend):
    x = Tensor(np.arange(6.0).reshape(2, 3) / 7, device)
    values = np.arange(9.0).reshape(3, 3) - 3
    expected, w = matrix(values, device), matrix(values, device)
    LOSSES[loss](x, expected).backward()
    array = backend.asarray(np.full((3, 3), 7.0))
    LOSSES[loss](x, w).backward(into={w: array})
    assert w.grad.data is array
    np.testing.assert_array_equal(w.grad.numpy(), expected.grad.numpy())


def test_gradient_into_one_array_for_two_inputs_of_an_op_would_be_wrong(backend, monkeypatch):
    monkeypatch.setattr(engine, "_has_repeats", lambda inputs: False)
    values = np.arange(9.0).reshape(3, 3) - 3
    w = Tensor.of(backend.asarray(values), backend)
    w.requires_grad = True
    (w @ w).sum().backward(into={w: backend.asarray(np.zeros((3, 3)))})
    right = values.sum(axis=1)[None] + values.sum(axis=0)[:, None]
    assert not np.array_equal(w.grad.numpy(), right)


def test_gradient_of_product_is_computed_in_given_array():
    written = []

    class Spy(type(get_backend("cpu"))):
        def matmul(self, a, b, *, out=None, **options):
            written.append(out)
            return super().matmul(a, b, out=out, **options)

    backend = Spy()
    x, w = (Tensor.of(np.ones((2, 2)), backend) for _ in range(2))
    w.requires_grad = True
    array = np.zeros((2, 2))
    (x @ w).sum().backward(into={w: array})
    assert [out is array for out in written] == [False, True]


def test_gradient_that_exists_is_added_to(device, backend):
    w = matrix(np.ones((3, 2)), device)
    x, array = Tensor(np.ones((2, 3)), device), backend.asarray(np.zeros((3, 2)))
    for factor in (1, 3):
        ((factor * x) @ w).sum().backward(into={w: array})
    np.testing.assert_array_equal(w.grad.numpy(), np.full((3, 2), 2.0 + 6.0))


def test_into_with_leaf_that_loss_does_not_use_leaves_it_alone(device, backend):
    w, unused = matrix(np.ones((3, 2)), device), matrix(np.ones((3, 2)), device)
    array = backend.asarray(np.full((3, 2), 7.0))
    (w * w).sum().backward(into={unused: array})
    assert unused.grad is None
    np.testing.assert_array_equal(backend.to_numpy(array), np.full((3, 2), 7.0))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda xp: xp.zeros((2, 3)), id="shape"),
        pytest.param(lambda xp: xp.zeros((3, 2), dtype="float32"), id="dtype"),
        pytest.param(lambda xp: xp.zeros((2, 3)).T, id="layout"),
    ],
)
def test_into_rejects_array_that_does_not_fit_its_leaf(wrong, device, backend):
    w = matrix(np.ones((3, 2)), device)
    loss = (w * w).sum()
    with pytest.raises(ValueError, match=r"backward: expected a C-contiguous .*\(3, 2\).*float64"):
        loss.backward(into={w: wrong(backend.xp)})
    loss.backward()  # the graph is still there
