"""The CUDA kernels of the optimizers against their rules, executed as they are compiled."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from minidl_kernels.cuda import launch, optimizers

SIZES = [1, 255, 256, 257, 1000]
RATE, DECAY, EPSILON = 0.05, 0.98, 1e-7


def adam(w, g, mean, square):
    """Kingma & Ba, ICLR 2015, algorithm 1, after the weights have shrunk."""
    mean = 0.9 * mean + 0.1 * g
    square = 0.99 * square + 0.01 * g * g
    return w * DECAY - RATE * mean / (np.sqrt(square) + EPSILON), g, mean, square


def sgd(w, g):
    """Go down the gradient."""
    return w * DECAY - RATE * g, g


def momentum(w, g, v):
    """Polyak's momentum."""
    v = 0.9 * v - RATE * g
    return w * DECAY + v, g, v


def nesterov(w, g, v):
    """Sutskever et al., ICML 2013."""
    v = 0.9 * v - RATE * g
    return w * DECAY + 0.9 * v - RATE * g, g, v


def rmsprop(w, g, square):
    """Hinton, lecture 6e, 2012."""
    square = 0.9 * square + 0.1 * g * g
    return w * DECAY - RATE * g / np.sqrt(square + EPSILON), g, square


SGD = {"momentum": 0.0, "nesterov": False}
RULES = {
    adam: (optimizers.adam, {"beta_1": 0.9, "beta_2": 0.99, "epsilon": EPSILON}),
    sgd: (lambda w, g, **numbers: optimizers.sgd(w, g, None, **numbers), SGD),
    momentum: (optimizers.sgd, SGD | {"momentum": 0.9}),
    nesterov: (optimizers.sgd, {"momentum": 0.9, "nesterov": True}),
    rmsprop: (optimizers.rmsprop, {"rho": 0.9, "epsilon": EPSILON}),
}


def arrays_for(rule, size, dtype):
    """Return weights, gradients of all sizes, and a state that is above 0."""
    rng = np.random.default_rng(size)
    count = rule.__code__.co_argcount
    w, g = rng.normal(size=(2, size))
    g *= 10.0 ** rng.integers(-6, 3, size)
    g[::7] = 0
    return [array.astype(dtype) for array in (w, g, *abs(rng.normal(size=(count - 2, size))))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_against_the_rule(rule, size, dtype, executed):
    update, numbers = RULES[rule]
    arrays = arrays_for(rule, size, dtype)
    copies = [array.copy() for array in arrays]
    wanted = rule(*(array.astype("f8") for array in arrays))
    update(*arrays, rate=RATE, decay=DECAY, **numbers)
    for array, value in zip(arrays, wanted, strict=True):
        scale = abs(value).max()
        np.testing.assert_allclose(array, value, rtol=8 * np.finfo(dtype).eps, atol=scale * 1e-7)
    assert arrays[1].tobytes() == copies[1].tobytes(), "the gradients are only read"

    update(*copies, rate=RATE, decay=DECAY, **numbers)
    assert [array.tobytes() for array in copies] == [array.tobytes() for array in arrays]
    assert len(executed) == 2


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_default_decay_changes_nothing(rule, executed):
    update, numbers = RULES[rule]
    arrays = arrays_for(rule, 64, "f4")
    update(*arrays, rate=0.0, **numbers)
    untouched = arrays_for(rule, 64, "f4")
    if rule in (momentum, nesterov):
        return  # there weights follow the velocity at any rate
    assert arrays[0].tobytes() == untouched[0].tobytes()


def test_a_gradient_of_nan_or_infinity_stays_where_it_is(executed):
    w, mean, square = np.ones(4, "f4"), np.zeros(4, "f4"), np.zeros(4, "f4")
    g = np.array([1, np.nan, np.inf, 1], "f4")
    optimizers.adam(w, g, mean, square, rate=0.1, beta_1=0.0, beta_2=0.0, epsilon=0.0)
    np.testing.assert_allclose(w, [0.9, np.nan, np.nan, 0.9], rtol=1e-6)


def test_threads_loop_over_what_the_grid_does_not_cover(executed, monkeypatch):
    monkeypatch.setattr(launch, "MAX_BLOCKS", 2)
    w, g = np.ones(1300, "f4"), np.ones(1300, "f4")
    optimizers.sgd(w, g, None, rate=0.25, cuda_stream=99, **SGD)
    assert executed == [(optimizers.descend, (2,), (256,), 99)]
    assert (w == 0.75).all()


def test_nothing_is_launched_for_no_weights(executed):
    optimizers.sgd(np.ones(0, "f4"), np.ones(0, "f4"), None, rate=1, **SGD)
    assert executed == []


@pytest.mark.parametrize(
    ("w", "g", "error", "message"),
    [
        (np.ones(3, "f2"), np.ones(3, "f2"), TypeError, "weights must be float32 or float64"),
        (np.ones(3, "f4"), np.ones(3, "f8"), TypeError, "gradients must have dtype float32"),
        (np.ones(3, "f4"), np.ones(4, "f4"), ValueError, r"gradients must have shape \(3,\)"),
        (np.ones((3, 1), "f4"), np.ones(3, "f4"), ValueError, r"weights must have shape \(3,\)"),
        (np.ones(6, "f4")[::2], np.ones(3, "f4"), ValueError, "weights must be C-contiguous"),
    ],
)
def test_bad_arrays(w, g, error, message, executed):
    state = np.zeros(w.size, w.dtype)
    with pytest.raises(error, match=f"adam: {message}"):
        optimizers.adam(w, g, state, state, rate=1, beta_1=0, beta_2=0, epsilon=0)
    with pytest.raises(error, match=f"sgd: {message}"):
        optimizers.sgd(w, g, None, rate=1, **SGD)
    with pytest.raises(error, match=f"rmsprop: {message}"):
        optimizers.rmsprop(w, g, state, rate=1, rho=0, epsilon=0)
    assert executed == []
