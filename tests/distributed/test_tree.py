"""Sums over shards in the order of one fixed tree, against a naive recursive sum."""

import numpy as np
import pytest

from minidl.distributed.tree import TreeSum, owned, rows_of, subtrees

SIZE = 75  # four vector registers of float32, and a rest
SHARDS = range(1, 18)


def shard_arrays(shards, dtype="float32", spread=8):
    """Return arrays whose sum depends on its order."""
    numbers = np.random.default_rng(shards)
    return [
        (numbers.normal(size=SIZE) * 10.0 ** numbers.integers(-spread, spread, SIZE)).astype(dtype)
        for _ in range(shards)
    ]


def naive_sum(arrays):
    """Add neighbours in pairs, then the pairs in pairs; a part without a partner goes up."""
    if len(arrays) == 1:
        return arrays[0]
    pairs = [arrays[n : n + 2] for n in range(0, len(arrays), 2)]
    return naive_sum([pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs])


def partial_sums(arrays, shards, block=None):
    """Return a tree sum over a range of shards, whose gradients come in one buffer."""
    total, buffer = TreeSum(np, block), np.empty_like(arrays[0])
    for shard in shards:
        if shard > shards.start:
            total.store()
        buffer[...] = arrays[shard]
        total.add(shard, 1, buffer)
    return total


def total_of(arrays, size, block=None):
    """Return the sum over all shards of so many workers, as an exchange adds it."""
    whole, out = TreeSum(np, block), np.empty_like(arrays[0])
    for rank in range(size):
        for part in partial_sums(arrays, owned(len(arrays), size, rank), block).parts():
            whole.add(*part)
    whole.write(out)
    return out


@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shards", SHARDS)
def test_sum_has_the_bits_of_the_naive_tree_for_every_number_of_workers(shards, dtype, block):
    arrays = shard_arrays(shards, dtype)
    expected = naive_sum(arrays).tobytes()
    differing = [
        size
        for size in range(1, shards + 1)
        if total_of([array.copy() for array in arrays], size, block).tobytes() != expected
    ]
    assert differing == []


def test_sum_of_test_arrays_depends_on_its_order():
    arrays = shard_arrays(8)
    assert naive_sum(arrays).tobytes() != sum(arrays[1:], arrays[0]).tobytes()


@pytest.mark.parametrize("shards", SHARDS)
def test_sum_of_two_nans_keeps_the_bits_of_the_lower_one(shards):
    payloads = np.arange(shards * 64, dtype="uint32").reshape(shards, 64) + 0x7FC00001
    arrays = [*payloads.view("float32")]
    for size in range(1, shards + 1):
        total = total_of([array.copy() for array in arrays], size)
        assert total.tobytes() == payloads[0].tobytes(), size


@pytest.mark.parametrize("shards", SHARDS)
def test_owned_shards_and_their_subtrees_cover_all_once_and_are_aligned(shards):
    for size in range(1, shards + 1):
        of_ranks = [owned(shards, size, rank) for rank in range(size)]
        assert [shard for each in of_ranks for shard in each] == [*range(shards)]
        assert min(map(len, of_ranks)) >= 1
        for each in of_ranks:
            parts = [*subtrees(each)]
            covered = [shard for first, length in parts for shard in range(first, first + length)]
            assert covered == [*each]
            assert all(length & (length - 1) == 0 for _, length in parts)
            assert all(first % length == 0 for first, length in parts)


@pytest.mark.parametrize("shards", SHARDS)
def test_parts_of_a_worker_are_the_subtrees_that_others_expect(shards):
    arrays = shard_arrays(shards)
    for size in range(1, shards + 1):
        for rank in range(size):
            found = partial_sums(arrays, owned(shards, size, rank)).parts()
            expected = [*subtrees(owned(shards, size, rank))]
            assert [(part.first, part.length) for part in found] == expected, (size, rank)


def test_worker_keeps_an_array_for_each_level_of_the_tree_only():
    total = partial_sums(shard_arrays(1) * 64, range(64))
    assert len(total._buffers) <= 7


@pytest.mark.parametrize("rows", [0, 1, 5, 13, 128])
@pytest.mark.parametrize("shards", SHARDS)
def test_rows_of_shards_cover_the_batch_in_order(rows, shards):
    bounds = [rows_of(shard, shards, rows) for shard in range(shards)]
    assert [row for first, stop in bounds for row in range(first, stop)] == [*range(rows)]
    lengths = [stop - first for first, stop in bounds]
    assert max(lengths) - min(lengths) <= 1


def test_sum_can_be_used_again_after_it_is_written_or_cleared():
    arrays, total, out = shard_arrays(5), TreeSum(np), np.empty(SIZE, "float32")
    for _ in range(2):
        for shard, array in enumerate(arrays):
            total.add(shard, 1, array.copy())
        total.write(out)
        assert out.tobytes() == naive_sum(arrays).tobytes()
        total.add(0, 1, arrays[0])
        total.clear()
        assert total.parts() == []
