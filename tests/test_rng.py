"""Random streams, training blocks, and draws on the host."""

import math
import statistics
import threading

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, rng
from minidl.rng import Address, RandomStream


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
    """Return the word at an address, by the mask contract."""
    counter = (16 * (column // 64) + column % 16, row, stream, step)
    return philox4x32_10(counter, (seed % 2**32, seed >> 32))[column // 16 % 4]


def test_reference_meets_known_answer_of_random123():
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
def test_keep_mask_follows_the_contract(seed, stream, step, row_offset):
    mask = rng.keep_mask((3, 67), 0.3, seed=seed, stream=stream, step=step, row_offset=row_offset)
    expected = [
        [word(seed, stream, step, row_offset + row, column) >= int(0.3 * 2**32)]
        for row in range(3)
        for column in range(67)
    ]
    assert mask.dtype == bool
    assert np.array_equal(mask, np.reshape(expected, (3, 67)))


def test_keep_mask_at_rates_zero_and_one_is_constant():
    address = {"seed": 1, "stream": 2, "step": 3}
    assert rng.keep_mask((4, 5), 0.0, **address).all()
    assert not rng.keep_mask((4, 5), 1.0, **address).any()


def test_keep_mask_of_backend_equals_that_of_contract(backend):
    address = Address(seed=2**40 + 3, stream=7, step=11, row_offset=13)
    for shape in ((0, 3), (3,), (1, 1), (4, 5), (5, 3, 7), (3, 257)):
        mask = backend.keep_mask(shape, 0.4, address)
        expected = rng.keep_mask(shape, 0.4, **address._asdict())
        np.testing.assert_array_equal(backend.to_numpy(mask), expected, err_msg=str(shape))


# ------------------------------------------------------------------------------ order of samples


def test_permutation_has_known_answers():
    # Recorded once from this function; they never change. The next test derives them.
    assert rng.permutation(8, seed=0, epoch=0).tolist() == [1, 4, 7, 6, 0, 2, 3, 5]
    assert rng.permutation(8, seed=0, epoch=1).tolist() == [5, 2, 3, 6, 7, 0, 4, 1]
    assert rng.permutation(8, seed=7, epoch=0).tolist() == [5, 7, 0, 3, 4, 6, 2, 1]


def test_permutation_is_the_stable_argsort_of_the_words_of_its_stream():
    words = [word(9, rng.ORDER_STREAM, 4, 0, column) for column in range(300)]
    expected = sorted(range(300), key=lambda place: words[place])
    assert rng.permutation(300, seed=9, epoch=4).tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 255, 256, 257])
def test_permutation_contains_each_sample_once(count):
    assert sorted(rng.permutation(count, seed=3, epoch=2)) == list(range(count))


def test_permutations_differ_between_epochs_and_seeds():
    orders = {
        tuple(rng.permutation(50, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(5)
    }
    assert len(orders) == 15


# ------------------------------------------------------------------------------ initial values


def test_uniform_is_made_of_the_words_of_its_stream():
    stream = rng.WEIGHT_STREAMS + 2
    values = rng.initial_uniform((3, 30), 0.25, seed=5, stream=stream)
    words = np.array([word(5, stream, 0, 0, column) for column in range(90)], dtype=float)
    expected = ((words + 0.5) / 2**32 - 0.5) * 0.5  # exact in float64
    assert values.dtype == np.float64
    assert np.array_equal(values, expected.reshape(3, 30))


def test_initial_truncated_normal_is_the_inverse_of_the_normal_distribution():
    uniform = rng.initial_uniform((2000,), 0.5, seed=5, stream=rng.WEIGHT_STREAMS)
    values = rng.initial_truncated_normal((2000,), 1.0, seed=5, stream=rng.WEIGHT_STREAMS)
    normal = statistics.NormalDist()
    inside = normal.cdf(2) - normal.cdf(-2)
    expected = np.array([normal.inv_cdf(0.5 + inside * u) for u in uniform])
    # The standard deviation of a normal cut at +-2: sqrt(1 - 2 * 2 * pdf(2) / inside).
    sigma = math.sqrt(1 - 4 * normal.pdf(2) / inside)
    assert np.abs(values * sigma - expected).max() < 2.2e-6
    assert np.abs(values * sigma).max() <= 2


def test_ranges_of_streams_do_not_overlap():
    last_layer = (rng.LAYER_STREAMS - 1) + (rng.CALLS_PER_STEP - 1) * rng.LAYER_STREAMS
    assert last_layer < rng.MONTE_CARLO_STREAMS
    assert last_layer + rng.MONTE_CARLO_STREAMS < rng.ORDER_STREAM < rng.WEIGHT_STREAMS < 2**32


# ------------------------------------------------------------------------------ modes


def draw(stream, shape=(2, 3)):
    """Return the address of a draw in a block without arguments."""
    with minidl.training():
        return stream.next_address(shape)


@pytest.mark.parametrize("name", ["step", "row_offset"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_training_rejects_number_out_of_range(name, value):
    message = rf"training: {name}.*\[0, 2\*\*32\).*{value}"
    with pytest.raises(ValueError, match=message), minidl.training(**{name: value}):
        pass
    assert not rng.is_training()


@pytest.mark.parametrize("name", ["sample", "row_offset"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_monte_carlo_rejects_number_out_of_range(name, value):
    arguments = {"sample": 0, "row_offset": 0} | {name: value}
    message = rf"predict: {name}.*\[0, 2\*\*32\).*{value}"
    with pytest.raises(ValueError, match=message), rng.monte_carlo(**arguments):
        pass
    assert not rng.is_training()


def test_training_rejects_number_that_is_not_an_integer():
    with pytest.raises(TypeError, match="float"), minidl.training(step=1.5):
        pass


def test_blocks_nest_and_restore_the_outer_mode():
    stream = RandomStream(seed=1)
    assert not rng.is_training()
    with minidl.training(step=1, row_offset=2):
        assert rng.is_training()
        with minidl.training(step=np.uint32(2**32 - 1)):
            assert stream.next_address((4, 5)) == Address(1, 0, 2**32 - 1, 0)
            with rng.inference():
                assert not rng.is_training()
                with rng.monte_carlo(sample=0, row_offset=0):
                    assert rng.is_training()
                assert not rng.is_training()
            assert rng.is_training()
        assert stream.next_address((4, 5)) == Address(1, 0, 1, 2)
    assert not rng.is_training()


@pytest.mark.parametrize(
    "block", [minidl.training, rng.inference, lambda: rng.monte_carlo(sample=0, row_offset=0)]
)
def test_mode_ends_on_exception(block):
    with pytest.raises(KeyError), block():
        raise KeyError
    assert not rng.is_training()


def test_mode_does_not_reach_other_threads():
    seen = []
    with minidl.training(step=0):
        thread = threading.Thread(target=lambda: seen.append(rng.is_training()))
        thread.start()
        thread.join()
    assert seen == [False]


# ------------------------------------------------------------------------------ RandomStream


def test_stream_without_step_uses_consecutive_steps():
    stream = RandomStream(seed=3, number=4)
    assert [draw(stream) for _ in range(3)] == [Address(3, 4, step) for step in range(3)]
    assert stream.step == 3


def test_stream_uses_given_step_and_goes_on_after_it():
    stream = RandomStream(seed=3)
    with minidl.training(step=41):
        assert stream.next_address((2, 3)) == Address(3, 0, 41)
    assert draw(stream) == Address(3, 0, 42)


def test_each_call_in_a_step_draws_from_its_own_stream():
    stream, other = RandomStream(seed=3, number=6), RandomStream(seed=3, number=7)
    for step in (8, 9):  # each block counts from 0
        with minidl.training(step=step):
            addresses = [stream.next_address((2, 3)) for _ in range(3)]
            assert other.next_address((2, 3)).stream == 7
        assert addresses == [Address(3, 6 + call * rng.LAYER_STREAMS, step) for call in range(3)]
    assert stream.step == 10


def test_inner_block_counts_its_own_calls():
    dropout, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 40), "float32"))
    with minidl.training(step=1):
        first = dropout(x).numpy()
        with minidl.training(step=1):
            again = dropout(x).numpy()
        second = dropout(x).numpy()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_more_calls_in_a_step_than_streams_raise():
    stream = RandomStream(seed=1)
    with minidl.training(step=0):
        last = [stream.next_address((1, 1)) for _ in range(rng.CALLS_PER_STEP)][-1]
        assert last.stream == (rng.CALLS_PER_STEP - 1) * rng.LAYER_STREAMS
        with pytest.raises(ValueError, match=r"RandomStream.*seed=1.*at most 1024 calls"):
            stream.next_address((1, 1))
    with minidl.training():
        for _ in range(rng.CALLS_PER_STEP + 1):
            stream.next_address((1, 1))  # each call has its own step


def test_last_step_is_used_and_the_next_one_raises():
    dropout, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 8)))
    with minidl.training(step=2**32 - 1):
        dropout(x)
    with minidl.training(), pytest.raises(ValueError, match=r"step.*\[0, 2\*\*32\).*4294967296"):
        dropout(x)


def test_first_draw_fixes_seed_and_number():
    stream = RandomStream()
    stream.model_seed, stream.number = 5, 2
    assert (stream.seed, stream.is_fixed) == (5, False)
    assert draw(stream) == Address(5, 2, 0)
    stream.model_seed = 6
    assert (stream.seed, stream.number, stream.is_fixed) == (5, 2, True)
    assert draw(stream) == Address(5, 2, 1)


def test_number_that_was_given_is_fixed():
    assert RandomStream(number=0).is_fixed
    assert not RandomStream(seed=1).is_fixed


def test_own_seed_precedes_seed_of_model():
    stream = RandomStream(seed=1)
    stream.model_seed = 2
    assert stream.seed == 1


def test_row_offset_is_part_of_the_address():
    stream = RandomStream(seed=1)
    with minidl.training(step=0, row_offset=8):
        assert stream.next_address((4, 3)) == Address(1, 0, 0, 8)


def test_last_row_is_used_and_the_next_one_raises():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 8), "float32"))
    with minidl.training(step=0, row_offset=2**32 - 2):
        y = layer(x).numpy()
    mask = rng.keep_mask((2, 8), 0.5, seed=1, stream=0, step=0, row_offset=2**32 - 2)
    assert np.array_equal(y != 0, mask)
    with minidl.training(step=0, row_offset=2**32 - 1), pytest.raises(ValueError, match="row_offs"):
        layer(x)


@pytest.mark.parametrize("shape", [(5,), ()])
def test_row_offset_requires_batch_axis_and_features(shape):
    stream = RandomStream(seed=1)
    with (
        minidl.training(step=0, row_offset=0),
        pytest.raises(ValueError, match=r"row_offset: expected .*batch axis.*\((5,)?\)"),
    ):
        stream.next_address(shape)
    assert stream.step == 0


def test_row_offset_requires_declared_batch_on_axis_0():
    stream = RandomStream(seed=1)
    with minidl.training(step=0, row_offset=0), rng.batch_of(3):
        stream.next_address((3, 5))
        with rng.batch_of(5):  # the outermost declaration counts
            stream.next_address((3, 5))
            with pytest.raises(ValueError, match=r"row_offset: .*3 samples.*5 rows"):
                stream.next_address((5, 3))
        with pytest.raises(ValueError, match=r"row_offset: .*3 samples.*5 rows"):
            stream.next_address((5, 3))
    with minidl.training(step=0, row_offset=0):
        stream.next_address((5, 3))  # nothing is declared


def test_batch_axis_is_not_checked_without_row_offset():
    stream = RandomStream(seed=1)
    with minidl.training(step=0), rng.batch_of(3):
        assert stream.next_address((5,)) == Address(1, 0, 0)


def test_monte_carlo_draws_from_separate_streams_and_advances_nothing():
    stream = RandomStream(seed=1)
    stream.number = 4
    before = vars(stream).copy()
    with rng.monte_carlo(sample=6, row_offset=32):
        addresses = [stream.next_address((2, 3)) for _ in range(2)]
    first = rng.MONTE_CARLO_STREAMS + 4
    assert addresses == [Address(1, first, 6, 32), Address(1, first + rng.LAYER_STREAMS, 6, 32)]
    assert vars(stream) == before


def test_restore_sets_seed_number_and_whether_they_are_fixed():
    stream = RandomStream()
    stream.restore(seed=7, number=3, is_fixed=True)
    assert draw(stream) == Address(7, 3, 0)
    stream.restore(seed=None, number=None, is_fixed=False)
    assert (stream.seed, stream.number, stream.is_fixed) == (None, None, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 2**64, "number": 0}, r"seed.*2\*\*64.*18446744073709551616"),
        ({"seed": 0, "number": 2**20}, r"number.*2\*\*20.*1048576"),
        ({"seed": 0, "number": -1}, r"number.*2\*\*20.*-1"),
    ],
)
def test_restore_rejects_number_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomStream().restore(**arguments, is_fixed=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"RandomStream: seed.*\[0, 2\*\*64\).*-1"),
        ({"seed": 2**64}, r"RandomStream: seed.*\[0, 2\*\*64\).*18446744073709551616"),
        ({"number": -1}, r"RandomStream: number.*\[0, 2\*\*20\).*-1"),
        ({"number": 2**20}, r"RandomStream: number.*\[0, 2\*\*20\).*1048576"),
    ],
)
def test_stream_rejects_number_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomStream(**arguments)
    with pytest.raises(ValueError, match=message):
        layers.Dropout(0.5, **{"stream" if k == "number" else k: v for k, v in arguments.items()})


@pytest.mark.parametrize("name", ["seed", "number"])
def test_stream_rejects_number_that_is_not_an_integer(name):
    with pytest.raises(TypeError, match=rf"RandomStream: {name}.*float"):
        RandomStream(**{name: 1.5})


def test_draw_in_inference_raises():
    with pytest.raises(RuntimeError, match=r"RandomStream: .*inference.*minidl\.training"):
        RandomStream(seed=1).next_address((2, 3))


def test_draw_without_seed_raises_and_changes_nothing():
    layer = layers.Dropout(0.5)
    before = vars(layer.random_stream).copy()
    with (
        minidl.training(step=0),
        pytest.raises(
            RuntimeError, match=r"RandomStream: expected a seed.*Dropout\(rate, seed=0\)"
        ),
    ):
        layer(Tensor(np.ones((2, 3))))
    assert vars(layer.random_stream) == before


def test_repr_shows_integers():
    assert repr(RandomStream(seed=3)) == "RandomStream(seed=3, number=None, step=0)"
