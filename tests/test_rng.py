"""Streams, training blocks, and what is drawn on the host: order and initial values."""

import math
import statistics

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, rng


def philox4x32_10(counter, key):
    """Return a block of Philox4x32-10 (Salmon et al., SC 2011, section 3.3), in plain integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(c0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(c2 * 0xCD9E8D57, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def word(seed, stream, step, row, column):
    """Return the word at an address, as the mask contract in design and docstrings defines it."""
    counter = (16 * (column // 64) + column % 16, row, stream, step)
    return philox4x32_10(counter, (seed % 2**32, seed >> 32))[column // 16 % 4]


def test_the_reference_here_meets_the_known_answer_of_random123():
    # Random123, examples/kat_vectors, the row of "philox4x32 10" with the digits of pi.
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    expected = (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert philox4x32_10(counter, (0xA4093822, 0x299F31D0)) == expected


# ------------------------------------------------------------------------------ keep_mask


@pytest.mark.parametrize(
    ("seed", "stream", "step", "row_offset"),
    [
        (0, 0, 0, 0),
        (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 3),
        (0x0123_4567_89AB_CDEF, 5 + 3 * 2**20, 77, 4096),
    ],
)
def test_keep_mask_is_the_contract(seed, stream, step, row_offset):
    mask = rng.keep_mask((3, 67), 0.3, seed=seed, stream=stream, step=step, row_offset=row_offset)
    expected = [
        [word(seed, stream, step, row_offset + row, column) >= int(0.3 * 2**32)]
        for row in range(3)
        for column in range(67)
    ]
    assert mask.dtype == bool
    assert np.array_equal(mask, np.reshape(expected, (3, 67)))


def test_keep_mask_at_the_ends_of_the_rate():
    address = {"seed": 1, "stream": 2, "step": 3}
    assert rng.keep_mask((4, 5), 0.0, **address).all()
    assert not rng.keep_mask((4, 5), 1.0, **address).any()


def test_backend_and_specification_draw_the_same_mask(backend):
    address = {"seed": 2**40 + 3, "stream": 7, "step": 11, "row_offset": 13}
    for shape in ((0, 3), (3,), (1, 1), (4, 5), (5, 3, 7), (3, 257)):
        mask = backend.keep_mask(shape, 0.4, rng.Address(**address))
        assert np.array_equal(backend.to_numpy(mask), rng.keep_mask(shape, 0.4, **address))


# ------------------------------------------------------------------------------ order of samples


def test_permutation_known_answers():
    # Written down once from this function; they never change. The next test derives them.
    assert rng.permutation(8, seed=0, epoch=0).tolist() == [1, 4, 7, 6, 0, 2, 3, 5]
    assert rng.permutation(8, seed=0, epoch=1).tolist() == [5, 2, 3, 6, 7, 0, 4, 1]
    assert rng.permutation(8, seed=7, epoch=0).tolist() == [5, 7, 0, 3, 4, 6, 2, 1]


def test_permutation_is_the_stable_argsort_of_the_words_of_its_stream():
    words = [word(9, rng.ORDER_STREAM, 4, 0, column) for column in range(300)]
    expected = sorted(range(300), key=lambda place: words[place])
    assert rng.permutation(300, seed=9, epoch=4).tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 255, 256, 257])
def test_permutation_holds_each_sample_once(count):
    assert sorted(rng.permutation(count, seed=3, epoch=2)) == list(range(count))


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = {
        tuple(rng.permutation(50, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(5)
    }
    assert len(orders) == 15


# ------------------------------------------------------------------------------ initial values


def test_uniform_is_made_of_the_words_of_its_stream():
    stream = rng.WEIGHT_STREAMS + 2
    values = rng.uniform((3, 30), 0.25, seed=5, stream=stream)
    words = np.array([word(5, stream, 0, 0, column) for column in range(90)], dtype=float)
    expected = ((words + 0.5) / 2**32 - 0.5) * 0.5  # exact in float64
    assert values.dtype == np.float64
    assert np.array_equal(values, expected.reshape(3, 30))


def test_truncated_normal_is_the_inverse_of_the_normal_distribution():
    uniform = rng.uniform((2000,), 0.5, seed=5, stream=rng.WEIGHT_STREAMS)
    values = rng.truncated_normal((2000,), 1.0, seed=5, stream=rng.WEIGHT_STREAMS)
    normal = statistics.NormalDist()
    inside = normal.cdf(2) - normal.cdf(-2)
    expected = np.array([normal.inv_cdf(0.5 + inside * u) for u in uniform])
    # The standard deviation of a normal cut at +-2: sqrt(1 - 2 * 2 * pdf(2) / inside).
    sigma = math.sqrt(1 - 4 * normal.pdf(2) / inside)
    assert np.abs(values * sigma - expected).max() < 2.2e-6
    assert np.abs(values * sigma).max() <= 2


def test_the_streams_are_divided_so_that_no_draw_repeats_another():
    last_layer = (rng.LAYER_STREAMS - 1) + (rng.CALLS_PER_STEP - 1) * rng.LAYER_STREAMS
    assert last_layer < 2**30
    assert last_layer + 2**30 < rng.ORDER_STREAM < rng.WEIGHT_STREAMS < 2**32


# ------------------------------------------------------------------------------ training blocks


@pytest.mark.parametrize("name", ["step", "row_offset"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_number_out_of_range_is_refused(name, value):
    message = rf"training: {name}: expected an integer .* got {value}"
    with pytest.raises(ValueError, match=message), minidl.training(**{name: value}):
        pass
    assert rng.current_block() is None


def test_a_number_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="float"), minidl.training(step=1.5):
        pass


def test_blocks_nest_and_restore_what_was_outside():
    assert rng.current_block() is None
    with minidl.training(step=1, row_offset=2):
        outer = rng.current_block()
        assert (outer.step, outer.row_offset) == (1, 2)
        with minidl.training(step=np.uint32(2**32 - 1)):
            assert (rng.current_block().step, rng.current_block().row_offset) == (2**32 - 1, None)
            with rng.inference():
                assert rng.current_block() is None
        assert rng.current_block() is outer
    assert rng.current_block() is None


def test_an_error_inside_ends_the_block():
    with pytest.raises(KeyError), minidl.training(step=3):
        raise KeyError
    assert rng.current_block() is None


def test_an_inner_block_counts_its_own_calls():
    dropout, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 40), "float32"))
    with minidl.training(step=1):
        first = dropout(x).numpy()
        with minidl.training(step=1):
            again = dropout(x).numpy()
        second = dropout(x).numpy()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
