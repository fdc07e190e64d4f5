"""Data sets: checks, checksums and splits of samples, and batches on the device."""

import numpy as np
import pytest

from minidl.backend import get_backend
from minidl.batches import CHECKED_BYTES, Feed, Samples

X = np.random.default_rng(0).integers(0, 256, (7, 2, 3)).astype("uint8")
LABELS = np.arange(7)
ORDER = np.array([3, 6, 0, 5, 1, 4, 2])


# ------------------------------------------------------------------------------ Samples


def test_checked_returns_arrays_of_numbers():
    samples = Samples.checked("fit", [[1.0], [2.0]], (0, 1), [[0.5], [2.0]])
    assert samples.x.shape == (2, 1)
    assert samples.y.tolist() == [0, 1]
    assert samples.weight.tolist() == [0.5, 2.0]  # a column becomes a vector
    assert len(samples) == 2


def test_checked_does_not_copy_arrays():
    samples = Samples.checked("fit", X, LABELS)
    assert samples.x is X
    assert samples.y is LABELS
    assert samples.weight is None


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint64", "bool"])
def test_checked_accepts_numbers_of_any_dtype(dtype):
    assert Samples.checked("fit", np.ones((2, 1), dtype)).x.dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([np.array(3.0)], r"at least one sample in x, got shape \(\)"),
        ([np.zeros((0, 3))], r"at least one sample in x, got shape \(0, 3\)"),
        ([X, LABELS[:6]], r"y for 7 samples, got shape \(6,\)"),
        ([X, np.array(3)], r"y for 7 samples, got shape \(\)"),
        ([X, LABELS, np.ones(6)], r"sample_weight .* 7 samples, got shape \(6,\)"),
        ([X, LABELS, np.ones((6, 2))], r"sample_weight .* 7 samples, got shape \(6, 2\)"),
        ([X, LABELS, np.array(1.0)], r"sample_weight .* 7 samples, got shape \(\)"),
        ([[[1.0], [1.0, 2.0]]], "x with one shape, got a list .*differ in shape"),
    ],
)
def test_checked_rejects_samples_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=f"^fit: expected {message}"):
        Samples.checked("fit", *arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", [np.array([["a"], ["b"]])]),
        ("y", [X, np.array([object()] * 7)]),
        ("sample_weight", [X, LABELS, np.ones(7, complex)]),
    ],
)
def test_checked_rejects_arrays_that_hold_no_numbers(name, arguments):
    with pytest.raises(TypeError, match=f"^evaluate: expected {name} to be an array of numbers"):
        Samples.checked("evaluate", *arguments)


@pytest.mark.parametrize("name", ["x", "y", "sample_weight"])
def test_checked_rejects_masked_arrays(name):
    arguments = {"x": X, "y": LABELS, "sample_weight": np.ones(7)}
    arguments[name] = np.ma.masked_array(arguments[name], mask=arguments[name] > 3)
    with pytest.raises(TypeError, match=f"^fit: {name}: .*masked"):
        Samples.checked("fit", *arguments.values())


def test_checked_explains_how_to_number_labels_that_are_text():
    with pytest.raises(TypeError, match=r"return_inverse=True"):
        Samples.checked("fit", X, np.array(list("abcdefg")))
    with pytest.raises(TypeError) as caught:
        Samples.checked("fit", np.array([["a"]]))
    assert "return_inverse" not in str(caught.value)


def test_getitem_selects_rows_of_all_parts():
    part = Samples(X, LABELS, np.ones(7))[2:4]
    assert (len(part), part.y.tolist(), part.weight.tolist()) == (2, [2, 3], [1, 1])
    assert Samples(X)[1:].y is None


# ------------------------------------------------------------------------------ checksum


def test_checksum_of_equal_samples_is_equal():
    samples = Samples(X, LABELS, np.ones(7))
    assert samples.checksum() == Samples(X.copy(), LABELS.copy(), np.ones(7)).checksum()
    assert Samples(np.asfortranarray(X)).checksum() == Samples(X).checksum()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y, weight: (x + 1, y, weight),
        lambda x, y, weight: (x[::-1], y, weight),
        lambda x, y, weight: (x.astype("int8"), y, weight),
        lambda x, y, weight: (x.reshape(7, 6), y, weight),
        lambda x, y, weight: (x, y[::-1], weight),
        lambda x, y, weight: (x, None, weight),
        lambda x, y, weight: (x, y, None),
        lambda x, y, weight: (x, y, weight * 2),
    ],
)
def test_checksum_of_other_samples_differs(change):
    parts = X, LABELS, np.ones(7)
    assert Samples(*parts).checksum() != Samples(*change(*parts)).checksum()


def test_checksum_of_large_array_reads_every_kth_row():
    x = np.zeros((9, CHECKED_BYTES // 4), "uint8")  # 9/4 of the bytes that are read: every 3rd row
    before = Samples(x).checksum()
    x[1] = 1
    assert Samples(x).checksum() == before
    x[3] = 1
    assert Samples(x).checksum() != before


# ------------------------------------------------------------------------------ split


@pytest.mark.parametrize(("share", "first"), [(0.3, 4), (0.5, 3), (0.1, 6), (0.15, 5), (0.85, 1)])
def test_split_takes_the_last_samples_for_validation(share, first):
    training, held_out = Samples(X, LABELS).split(share)
    assert training.y.tolist() == list(range(first))
    assert held_out.y.tolist() == list(range(first, 7))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_split_rejects_share_out_of_range(share):
    with pytest.raises(
        ValueError, match=rf"^fit: expected validation_split in \[0, 1\), got {share}"
    ):
        Samples(X).split(share)


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (7, 0.9)])
def test_split_rejects_share_that_leaves_a_part_empty(count, share):
    message = f"^fit: expected a validation_split .*got {share} of {count} samples"
    with pytest.raises(ValueError, match=message):
        Samples(X[:count]).split(share)


# ------------------------------------------------------------------------------ Feed


def feed_of(device, x=X, y=LABELS, weight=None, dtype="float32", **options):
    samples = Samples(x, y, weight)
    return Feed(samples, get_backend(device), np.dtype(dtype), **options)


def rows_of(batches):
    return [batch.y.numpy().tolist() for batch in batches]


def test_batches_follow_the_order_and_the_last_one_may_be_smaller(device):
    feed = feed_of(device)
    batches = list(feed.batches(3, ORDER))
    assert rows_of(batches) == [[3, 6, 0], [5, 1, 4], [2]]
    x = np.concatenate([batch.x.numpy() for batch in batches])
    np.testing.assert_array_equal(x, X[ORDER].astype("float32"), strict=True)


def test_batches_without_order_are_in_the_order_of_the_samples(device):
    assert rows_of(feed_of(device).batches(5)) == [[0, 1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize(("size", "count"), [(1, 7), (7, 1), (100, 1)])
def test_number_of_batches_follows_their_size(size, count):
    feed = feed_of("cpu")
    assert len(feed) == 7
    batches = rows_of(feed.batches(size))
    assert [row for rows in batches for row in rows] == list(range(7))
    assert len(batches) == count


def test_batches_of_a_part_of_the_order(device):
    assert rows_of(feed_of(device).batches(2, ORDER[4:])) == [[1, 4], [2]]
    assert rows_of(feed_of(device).batches(2, ORDER[7:])) == []


def test_batch_is_on_the_device_with_dtypes_of_model_and_targets(device):
    for y in (LABELS.astype("uint8"), np.eye(7, dtype="float64"), LABELS[:, None], LABELS > 3):
        batch = next(feed_of(device, y=y, dtype="float64").batches(4, ORDER))
        assert {batch.x.device, batch.y.device} == {get_backend(device).name}
        assert (batch.x.dtype, batch.y.dtype) == (np.float64, y.dtype)
        np.testing.assert_array_equal(batch.y.numpy(), y[ORDER[:4]])


def test_batch_without_targets_and_weights_has_none(device):
    batch = next(feed_of(device, y=None).batches(4))
    assert (batch.y, batch.weight) == (None, None)


def test_batch_contains_weights_of_its_samples(device):
    weight = np.linspace(0, 1, 7)
    batch = next(feed_of(device, weight=weight).batches(4, ORDER))
    np.testing.assert_array_equal(batch.weight.numpy(), weight[ORDER[:4]], strict=True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_batch_is_scaled_and_flattened(dtype, device):
    feed = feed_of(device, dtype=dtype, scale=1 / 255, offset=-0.5, flat=True)
    batch = next(feed.batches(4, ORDER))
    kind = np.dtype(dtype).type
    expected = X[ORDER[:4]].astype(dtype) * kind(1 / 255) + kind(-0.5)
    np.testing.assert_allclose(
        batch.x.numpy(), expected.reshape(4, 6), rtol=1e-3 * (dtype == "float16")
    )
    assert batch.x.dtype == dtype


def test_batches_share_no_memory():
    first, second, _ = feed_of("cpu").batches(3)
    assert not np.shares_memory(first.x.data, second.x.data)
    assert not np.shares_memory(first.x.data, X)


# ------------------------------------------------------------------------------ large data sets


@pytest.fixture
def uploads(cuda_double, monkeypatch):
    """Keep data sets on the host; return the sizes in bytes of arrays copied to the device."""
    backend, sizes = get_backend("cuda"), []
    asarray = type(backend).asarray

    def record(self, values, dtype=None):
        sizes.append(np.asarray(values).nbytes)
        return asarray(self, values, dtype)

    monkeypatch.setattr(type(backend), "asarray", record)
    monkeypatch.setattr(type(backend), "dataset_array", lambda self, values: values)
    return sizes


def test_data_set_too_large_for_the_device_stays_on_the_host(uploads):
    x = np.random.default_rng(1).integers(0, 256, (7, 10, 10)).astype("uint8")
    options = {"x": x, "scale": 0.5, "offset": 1.0, "flat": True}
    expected = list(feed_of("cpu", **options).batches(3, ORDER))
    received = list(feed_of("cuda", **options).batches(3, ORDER))
    for mine, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(mine.x.numpy(), theirs.x.numpy(), strict=True)
        np.testing.assert_array_equal(mine.y.numpy(), theirs.y.numpy(), strict=True)
    assert max(uploads) == 3 * x[0].nbytes


def test_small_data_set_is_copied_to_the_device_once(cuda_double, monkeypatch):
    backend, copies = get_backend("cuda"), []
    dataset_array = type(backend).dataset_array

    def record(self, values):
        copies.append(dataset_array(self, values))
        return copies[-1]

    monkeypatch.setattr(type(backend), "dataset_array", record)
    feed = feed_of("cuda")
    for _ in range(2):
        assert rows_of(feed.batches(3, ORDER)) == [[3, 6, 0], [5, 1, 4], [2]]
    assert [backend.is_array(copy) for copy in copies] == [True]


@pytest.mark.parametrize("order", ["F", "transposed", "reversed", "big-endian"])
def test_samples_in_any_memory_order_have_the_same_batches(order, device):
    x = np.random.default_rng(1).normal(size=(7, 10))
    other = {
        "F": np.asfortranarray(x),
        "transposed": x.T.copy().T,
        "reversed": x[::-1].copy()[::-1],
        "big-endian": x.astype(">f8"),
    }[order]
    received, expected = (feed_of(device, samples).batches(4, ORDER) for samples in (other, x))
    for mine, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(mine.x.numpy(), theirs.x.numpy(), strict=True)


# ------------------------------------------------------------------------------ tables


class Column:
    """Stand-in for a column of pandas, of which NumPy makes objects unless it gives a dtype."""

    class Dtype:
        def __init__(self, name, numpy_dtype=None):
            self.name = name
            if numpy_dtype is not None:
                self.numpy_dtype = np.dtype(numpy_dtype)

        def __repr__(self):
            return self.name

    def __init__(self, values, name, numpy_dtype=None):
        self.values, self.dtype = values, self.Dtype(name, numpy_dtype)

    def __array__(self, dtype=None, copy=None):
        if dtype is None:
            return np.array(self.values, object)
        if None in self.values:
            raise ValueError("cannot convert NA to an array")
        return np.array(self.values, dtype)


class Frame:
    """Stand-in for a table of pandas or polars: columns of different kinds."""

    def __init__(self, **columns):
        self.columns, self._columns = list(columns), columns

    def __getitem__(self, name):
        return self._columns[name]

    def __array__(self, dtype=None, copy=None):
        columns = (getattr(column, "values", column) for column in self._columns.values())
        return np.array(list(zip(*columns, strict=True)), object)


FLOATS = np.array([1.5, 2.5])


@pytest.mark.parametrize(
    "column",
    [
        np.array([True, False]),
        np.array([1, 0], "int8"),
        Column([1, 0], "Int64", "int64"),
        Column([True, False], "boolean", "bool"),
        Column([1.0, 0.0], "Float64", "float64"),
    ],
)
def test_checked_accepts_table_with_columns_of_different_numbers(column):
    samples = Samples.checked("fit", Frame(a=FLOATS, b=column), column)
    assert samples.x.tolist() == [[1.5, 1.0], [2.5, 0.0]]
    assert samples.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column(["u", "v"], "category"), r"x\['b'\] .*got a Column of category\. .*get_dummies"),
        (Column(["u", 1], "object"), r"x\['b'\] .*got a Column of object\. Leave the column out"),
        (np.array(["u", "v"]), r"x\['b'\] .*got a ndarray of <U1\. Leave the column out"),
        (np.array(["2020", "2021"], "M8[Y]"), r"x\['b'\] .*datetime64\[Y\]\. Leave the column out"),
        (np.array([1, None]), r"x\['b'\] .*got a ndarray of object\. Leave the column out"),
    ],
)
def test_checked_names_the_column_that_is_not_numbers(column, message):
    with pytest.raises(TypeError, match=rf"^fit: expected {message}"):
        Samples.checked("fit", Frame(a=FLOATS, b=column))


@pytest.mark.parametrize("name", ["Int64", "boolean", "Float64"])
def test_checked_rejects_columns_with_missing_values(name):
    column = Column([True, None], name, "bool")
    message = rf"without missing values, got some in a Column of {name}\. Fill them with fillna"
    with pytest.raises(ValueError, match=rf"^fit: expected x\['b'\] {message}"):
        Samples.checked("fit", Frame(a=FLOATS, b=column))
    with pytest.raises(ValueError, match=f"^fit: expected y {message}"):
        Samples.checked("fit", FLOATS, column)


def test_checked_rejects_labels_of_a_table_with_remedy():
    with pytest.raises(TypeError, match=r"y\['b'\] .*Number all labels: .*np\.unique"):
        Samples.checked("fit", FLOATS, Frame(b=np.array(["u", "v"])))


def test_checked_accepts_tables_of_pandas():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": FLOATS, "b": pandas.array([1, 0], "Int64"), "c": [True, False]})
    assert Samples.checked("fit", table).x.tolist() == [[1.5, 1, 1], [2.5, 0, 0]]
    table["d"] = pandas.Categorical(["u", "v"])
    with pytest.raises(TypeError, match=r"x\['d'\] .*got a Series of category"):
        Samples.checked("fit", table)
