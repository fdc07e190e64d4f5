"""Placed numbers: kernels that read a number from the device compute what they compute by value."""

import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pytest
from backends import assert_same_bits, launches_go_to, special_numbers
from minidl_kernels import mask_contract
from minidl_kernels.checks import checked_integer
from minidl_kernels.mask_contract import Address
from minidl_kernels.placed import MovingRate, PlacedFloat, PlacedInt, place_of

needs_cuda = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))),
    reason="numba-cuda and CuPy are not installed: no CUDA kernel is compiled",
)
SEED = 2**40 + 17


def placed(number, dtype):
    """Return a number with its place on the host, where the PTX interpreter reads it."""
    kind = PlacedInt if isinstance(number, int) else PlacedFloat
    return kind(number, np.array([number], dtype))


def test_placed_number_is_a_number_with_a_place():
    step, rate = placed(7, "uint32"), placed(0.5, "float32")
    assert (step, rate, step + 1, rate / 2) == (7, 0.5, 8, 0.25)
    assert place_of(step).tolist() == [7]
    assert place_of(rate).dtype == "float32"
    assert place_of(7) is place_of(0.5) is None


def test_checked_integer_keeps_a_placed_one():
    step = placed(7, "uint32")
    assert checked_integer("mask: step", step, 2**32) is step
    with pytest.raises(ValueError, match=r"in \[0, 2\*\*32\), got -1"):
        checked_integer("mask: step", PlacedInt(-1, None), 2**32)


def test_address_keeps_placed_numbers():
    step, row_offset = placed(7, "uint32"), placed(9, "uint32")
    address = mask_contract.check_address((3, 4), Address(SEED, 2, step, row_offset))
    packed = mask_contract.pack(address, 0.5)
    assert packed.step is step
    assert packed.row_offset is row_offset


def dropout(backend, x, number):
    address = Address(SEED, 3, number(4, "uint32"), number(9, "uint32"))
    return (backend.dropout(x, 0.3, address),)


def dense(backend, x, number):
    address = Address(SEED, 3, number(4, "uint32"), number(9, "uint32"))
    options = {"activation": "relu", "rate": 0.3, "address": address}
    return (backend.dense(x, np.eye(x.shape[1], dtype=x.dtype), x[0], **options),)


def moving(x, number):
    """Return a rate of 0.3 whose threshold and factor are numbers for kernels."""
    return MovingRate(0.3, (number(int(0.3 * 2**32), "uint32"), number(1 / (1 - 0.3), x.dtype)))


def dropout_at_moving_rate(backend, x, number):
    return (backend.dropout(x, moving(x, number), Address(SEED, 3, 4, 9)),)


def dense_at_moving_rate(backend, x, number):
    options = {"activation": "relu", "rate": moving(x, number), "address": Address(SEED, 3, 4, 9)}
    return (backend.dense(x, np.eye(x.shape[1], dtype=x.dtype), x[0], **options),)


def vjp(backend, x, number):
    factor = mask_contract.scale(moving(x, number), x.dtype)
    return backend.bias_act_dropout_vjp(x[::-1], x, factor)


def noise(is_factor):
    def call(backend, x, number):
        address = Address(SEED, 3, number(4, "uint32"), 9)
        return (backend.noise(x, number(0.3, x.dtype), address, is_factor=is_factor),)

    return call


def update(rule, states, **options):
    def call(backend, x, number):
        state = [abs(x.ravel()) for _ in range(states)]
        numbers = {"rate": number(0.1, x.dtype), "decay": number(0.9, x.dtype)}
        weights = x.ravel().copy()
        arguments = weights, x[::-1].ravel(), *(state or [None])
        getattr(backend, rule)(*arguments, **numbers, **options)
        return weights, *state

    return call


CALLS = {
    "dropout": dropout,
    "dense": dense,
    "dropout at a moving rate": dropout_at_moving_rate,
    "dense at a moving rate": dense_at_moving_rate,
    "gradient at a moving rate": vjp,
    "noise": noise(is_factor=False),
    "noise around 1": noise(is_factor=True),
    "sgd": update("sgd", 0, momentum=0.0, nesterov=False),
    "momentum": update("sgd", 1, momentum=0.9, nesterov=False),
    "nesterov": update("sgd", 1, momentum=0.9, nesterov=True),
    "rmsprop": update("rmsprop", 1, rho=0.9, epsilon=1e-7),
    "adam": update("adam", 2, beta_1=0.9, beta_2=0.99, epsilon=1e-7),
}


def by_ptx(name, dtype, number, capability=(8, 0)):
    """Return the results of a call on compiled kernels, and the kernel's code."""
    import numba
    from compiled import compiled

    builds = []

    def run(kernel, grid, block, *arguments):
        builds.append(compiled(kernel, tuple(map(numba.typeof, arguments)), capability))
        builds[-1].launch(grid, block, *arguments)

    x = special_numbers((5, 70), dtype)
    if "dense" in name:  # its product is NumPy's
        x = np.nan_to_num(x, posinf=9, neginf=-9)
    with launches_go_to(run) as backend:
        results = CALLS[name](backend, x, number)
    (build,) = builds
    return results, build


def float_instructions(build):
    """Return the instructions on floats in their order: what is computed."""
    operations = r"^\s*(?:@\S+\s+)?((?:fma|mul|add|sub|div|sqrt|neg|selp|setp|rcp|max)\S*\.f\d\d)\s"
    return re.findall(operations, build.ptx, re.MULTILINE)


@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_number_by_pointer_gives_the_bits_of_one_by_value(name, dtype):
    by_value, _ = by_ptx(name, dtype, lambda number, dtype: number)
    by_pointer, _ = by_ptx(name, dtype, placed)
    for received, expected in zip(by_pointer, by_value, strict=True):
        assert_same_bits(received, expected)


@needs_cuda
@pytest.mark.parametrize(
    "capability", [(8, 0), pytest.param((9, 0), marks=pytest.mark.exhaustive)], ids=str
)
@pytest.mark.parametrize("name", CALLS)
def test_number_by_pointer_has_the_arithmetic_of_one_by_value(name, capability):
    _, by_value = by_ptx(name, "float32", lambda number, dtype: number, capability)
    _, by_pointer = by_ptx(name, "float32", placed, capability)
    assert by_value.ptx != by_pointer.ptx
    assert float_instructions(by_pointer) == float_instructions(by_value) != []


@needs_cuda
@pytest.mark.parametrize("name", CALLS)
def test_place_is_read_and_not_the_value(name):
    def changed(number, dtype):
        result = placed(number, dtype)
        result.place[0] /= 2 if isinstance(number, float) else 1
        result.place[0] += isinstance(number, int)
        return result

    by_value, _ = by_ptx(name, "float64", lambda number, dtype: number)
    by_pointer, _ = by_ptx(name, "float64", changed)
    assert not np.array_equal(by_value[0], by_pointer[0], equal_nan=True)


@needs_cuda
@pytest.mark.parametrize("name", CALLS)
def test_places_are_the_parameters_of_the_compiled_kernel(name):
    import numba
    from compiled import compiled
    from minidl_kernels.cuda import launch

    class DeviceArray:
        """A host array that has an address as CuPy's have it."""

        def __init__(self, array):
            self.dtype, self.size, self.itemsize = array.dtype, array.size, array.itemsize
            self.shape, self.strides = array.shape, array.strides
            self.data = SimpleNamespace(ptr=array.ctypes.data)

    def on_device(argument):
        if isinstance(argument, tuple):
            return tuple(map(on_device, argument))
        return DeviceArray(argument) if isinstance(argument, np.ndarray) else argument

    def check(kernel, grid, block, *arguments):
        types = tuple(map(numba.typeof, arguments))
        kinds, words = launch.flatten([on_device(argument) for argument in arguments])
        assert launch.signature(kinds) == types
        parameters = compiled(kernel, types).mod.entry.params
        widths = [word.itemsize if isinstance(word, np.generic) else 8 for word in words]
        assert widths == [size for _, _, size, _ in parameters]
        places.append(sum(isinstance(word, int) for word in words))

    places = []
    with launches_go_to(check) as backend:
        CALLS[name](backend, np.ones((5, 70), "float32"), lambda number, dtype: number)
        CALLS[name](backend, np.ones((5, 70), "float32"), placed)
    count = 1 if name == "gradient at a moving rate" else 2
    assert places[1] - places[0] == count * 7  # each place is an array of seven words
