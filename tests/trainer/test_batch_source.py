"""BatchSource: which iterables are batches, where epochs end, and what batches must share."""

import numpy as np
import pytest

from minidl import Tensor
from minidl.batches import Samples
from minidl.trainer.batch_source import BatchSource, yields_batches

PAIRS = [(np.full((2, 3), float(n)), np.full(2, n)) for n in range(5)]


def source_of(iterable, steps=None):
    return BatchSource("fit", iterable, lambda *parts: Samples.checked("fit", *parts), steps)


def numbers(source):
    """Return the numbers of the batches of an epoch."""
    return [int(batch.x[0, 0]) for batch in source]


class Indexed:
    """Batches with a length and indices, and without an iterator, as Keras' PyDataset."""

    def __init__(self):
        self.ends = 0

    def __len__(self):
        return len(PAIRS)

    def __getitem__(self, index):
        return PAIRS[index]

    def on_epoch_end(self):
        self.ends += 1


class Dataset:
    """Batches as a dataset of TensorFlow yields them."""

    def as_numpy_iterator(self):
        return iter(PAIRS)


class Unsized:
    """An iterable whose ``__len__`` raises, as a loader of an endless data set."""

    def __len__(self):
        raise TypeError

    def __iter__(self):
        return iter(PAIRS)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (iter([]), True),
        ((pair for pair in PAIRS), True),
        (PAIRS, True),
        ([list(pair) for pair in PAIRS], True),
        (Indexed(), True),
        (Dataset(), True),
        (Unsized(), True),
        (np.ones((2, 3)), False),
        (Tensor([1.0]), False),
        ([[1.0, 2.0]], False),
        ([(1.0, 2.0)], False),
        ([np.ones(3), np.ones(3)], False),
        ([(np.float64(1.0), np.float64(2.0))], False),
        ([], False),
        ("text", False),
        ({"x": PAIRS}, False),
        (range(3), False),
        (3, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_yields_batches_tells_iterables_of_batches_from_arrays(x, expected):
    assert yields_batches(x) is expected


def test_lists_of_lists_are_arrays_if_only_tuples_are_batches():
    assert not yields_batches([[np.ones(3), np.ones(3)]], tuple)
    assert yields_batches(PAIRS, tuple)


@pytest.mark.parametrize("make", [lambda: PAIRS, Indexed, Dataset, Unsized])
def test_source_without_steps_has_all_batches_in_each_epoch(make):
    source = source_of(make())
    for _ in range(3):
        assert source.begin_epoch()
        assert numbers(source) == [0, 1, 2, 3, 4]
    assert source.shortage == ""


@pytest.mark.parametrize("make", [lambda: PAIRS, lambda: (pair for pair in PAIRS)])
def test_source_with_steps_goes_on_in_the_next_epoch(make):
    source = source_of(make(), 2)
    found = [numbers(source)]
    for _ in range(2):
        assert source.begin_epoch()
        found.append(numbers(source))
    assert found == [[0, 1], [2, 3], [4]]
    assert "expected 2 batches in an epoch, got 1" in source.shortage


def test_list_with_steps_begins_again_after_its_end_and_a_generator_does_not():
    again, once = source_of(PAIRS, 5), source_of(iter(PAIRS), 5)
    assert numbers(again) == numbers(once) == [0, 1, 2, 3, 4]
    assert (again.begin_epoch(), once.begin_epoch()) == (True, False)
    assert numbers(again) == [0, 1, 2, 3, 4]
    assert (again.shortage, "got none after the first" in once.shortage) == ("", True)


def test_source_reads_no_batch_beyond_the_steps_of_an_epoch():
    given = iter(PAIRS)
    assert numbers(source_of(given, 2)) == [0, 1]
    assert next(given) is PAIRS[2]


def test_number_of_steps_is_known_from_the_last_batch_on():
    sized, unsized = source_of(PAIRS), source_of(Unsized())
    assert [sized.steps() for _ in sized] == [5] * 5
    assert [unsized.steps() for _ in unsized] == [np.inf] * 4 + [5]


def test_batches_are_copies_of_arrays_that_a_generator_fills_again():
    x = np.zeros((2, 3))

    def fills():
        for n in range(3):
            x[...] = n
            yield x, x[:, 0]

    assert numbers(source_of(fills())) == [0, 1, 2]


def test_end_of_an_epoch_is_told_to_the_iterable_once():
    indexed = Indexed()
    source = source_of(indexed)
    assert numbers(source)
    assert indexed.ends == 0
    source.begin_epoch()
    assert indexed.ends == 1


def test_numbers_in_a_list_are_one_batch_and_tensors_in_a_list_its_parts():
    assert source_of([1.0, 2.0] for _ in range(1)).x.tolist() == [1.0, 2.0]
    parts = source_of([np.ones((2, 1)), np.zeros(2)] for _ in range(1))
    assert (parts.x.shape, parts.y.shape) == ((2, 1), (2,))


def test_source_without_batches_is_rejected():
    with pytest.raises(ValueError, match="fit: expected an iterable of batches, got none"):
        source_of(iter([]))


@pytest.mark.parametrize(
    "second",
    [
        (np.ones((2, 4)), np.ones(2)),
        (np.ones((2, 3)), np.ones((2, 1))),
        (np.ones((2, 3)), np.ones(2), np.ones(2)),
        (np.ones((2, 3)),),
    ],
)
def test_batches_of_different_parts_are_rejected(second):
    source = source_of([PAIRS[0], second])
    with pytest.raises(ValueError, match="fit: expected x, y and weights of shapes"):
        list(source)


def test_batch_of_four_parts_is_rejected():
    with pytest.raises(ValueError, match=r"fit: expected batches \(x, y\).*, got 4 parts"):
        source_of([(*PAIRS[0], *PAIRS[0])])
