"""Calls of CPU kernels by address: their arguments arrive as in a call from Python."""

import numpy as np
import pytest
from backends import assert_same_bits
from minidl_kernels.cpu import calls, jit, pool

FILLED = -7


@jit.kernel
def _copy_number(number, out):
    out[0] = number


@jit.kernel
def _describe(array, sizes, elements):
    sizes[0], sizes[1], sizes[2] = array.size, array.itemsize, array.ndim
    for axis in range(array.ndim):
        sizes[3 + axis], sizes[6 + axis] = array.shape[axis], array.strides[axis]
    for i in range(array.size):
        elements[i] = array.flat[i]


@jit.kernel
def _describe_number(array, sizes, elements):
    sizes[0], sizes[1], sizes[2] = array.size, array.itemsize, array.ndim
    elements[0] = array[()]


@jit.kernel
def _count_piece(piece, pieces, first, runs, last):
    runs[piece] += first * pieces + last


def run(kernel, *arguments, pieces=None, times=1):
    """Run a kernel by its address."""
    arguments = arguments if pieces is None else (pieces, *arguments)
    call = calls.of(kernel, arguments, is_shared=pieces is not None)
    words = calls.words(arguments)
    calls.run(np.array([[call.address, words.buffer_info()[0], pieces or 1]]), times)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (5,), (0,), (2, 3), (0, 3), (3, 0), (2, 3, 4), (2, 0, 4), (1, 1, 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", "uint32"])
def test_array_arrives_with_its_layout_and_elements(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    elements = np.full(max(array.size, 1), FILLED, "float64")
    sizes = np.full(9, FILLED)
    run(_describe if shape else _describe_number, array, sizes, elements)
    assert sizes[:3].tolist() == [array.size, array.itemsize, array.ndim]
    assert sizes[3 : 3 + array.ndim].tolist() == list(shape)
    assert sizes[6 : 6 + array.ndim].tolist() == list(array.strides)
    assert elements[: array.size].tolist() == array.ravel().tolist()


def test_part_of_an_array_arrives_from_its_first_element():
    array, sizes, elements = np.arange(12.0).reshape(4, 3), np.empty(9, int), np.empty(6)
    run(_describe, array[1:3], sizes, elements)
    assert elements.tolist() == [3, 4, 5, 6, 7, 8]


def test_read_only_array_arrives():
    array, sizes, elements = np.arange(6.0), np.empty(9, int), np.empty(6)
    array.flags.writeable = False
    run(_describe, array, sizes, elements)
    assert elements.tolist() == array.tolist()


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:, ::2], lambda x: x[::-1]])
def test_array_in_another_order_is_an_error(view):
    with pytest.raises(ValueError, match=r"^launch: expected arrays in C order, got strides \("):
        calls.words((view(np.ones((3, 4))),))


@pytest.mark.parametrize("number", [0, 1, -1, 2**31, -(2**63), 2**63 - 1])
def test_integer_arrives(number):
    out = np.zeros(1, np.int64)
    run(_copy_number, number, out)
    assert out.tolist() == [number]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, -1e-30, 3e38, np.inf, -np.inf, np.nan])
def test_float_arrives_with_its_bits(number, dtype):
    number, out = np.dtype(dtype).type(number), np.zeros(1, dtype)
    run(_copy_number, number, out)
    assert_same_bits(out, np.array([number]))


@pytest.mark.parametrize("number", [1.5, np.uint32(3), np.float16(1), None, "text"], ids=repr)
def test_other_arguments_are_errors(number):
    with pytest.raises((AttributeError, KeyError)):
        calls.words((number,))


def test_arguments_between_numbers_keep_their_places():
    runs = np.zeros(1, np.int64)
    run(_count_piece, 5, runs, 100, pieces=1)
    assert runs.tolist() == [105]


@pytest.mark.parametrize("pieces", [2, 3, 16])
def test_each_piece_runs_once_and_as_often_as_asked(pieces):
    if not pool.has_tbb():
        pytest.skip("Numba's threads are not those of TBB")
    runs = np.zeros(16, np.int64)
    run(_count_piece, 5, runs, 100, pieces=pieces, times=4)
    assert runs.tolist() == [4 * (5 * pieces + 100)] * pieces + [0] * (16 - pieces)


def test_calls_run_in_their_order():
    first, second = np.zeros(1), np.ones(1)
    arguments = (2, first), (3.0 * second[0], first)
    packed = [calls.words(given) for given in arguments]
    addresses = [calls.of(_copy_number, given, is_shared=False).address for given in arguments]
    program = [(a, w.buffer_info()[0], 1) for a, w in zip(addresses, packed, strict=True)]
    calls.run(np.array(program))
    assert first.tolist() == [3]
    calls.run(np.array(program[::-1]))
    assert first.tolist() == [2]


def test_no_calls_run_nothing():
    calls.run(np.empty((0, 3), np.int64))


def test_kernel_is_compiled_once_for_each_combination_of_types():
    arrays = [np.zeros(shape, dtype) for shape in (2, (2, 2)) for dtype in ("f4", "f8")]
    found = [calls.of(_count_piece, (1, 2, array, 3), is_shared=True) for array in arrays[:2]]
    again = [calls.of(_count_piece, (4, 5, array, 6), is_shared=True) for array in arrays[:2]]
    assert [a is b for a, b in zip(found, again, strict=True)] == [True, True]
    assert found[0].address != found[1].address
    whole = [
        calls.of(_copy_number, (array.dtype.type(1), array), is_shared=False)
        for array in arrays[:2]
    ]
    assert whole[0].address != whole[1].address
