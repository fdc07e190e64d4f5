"""Predictions with samples: Monte-Carlo dropout and its entropies."""

import inspect
import tracemalloc
import typing

import numpy as np
import pytest

from minidl import layers, models, rng
from minidl.models.prediction import Rest
from minidl.trainer.uncertainty import Uncertainty


def classifier(rate=0.5, device="cpu", **dropout):
    stack = [layers.Dense(16, "relu"), layers.Dropout(rate, **dropout), layers.Dense(3, "softmax")]
    return models.Sequential([layers.Input((4,)), *stack], seed=7, device=device)


X = np.random.default_rng(0).normal(size=(11, 4)).astype("float32")


def test_predict_draws_the_masks_of_the_contract(device):
    model = models.Sequential([layers.Input((6,)), layers.Dropout(0.3)], seed=5, device=device)
    found = model.predict(np.ones((9, 6)), batch_size=4, samples=3)
    masks = [rng.keep_mask((9, 6), 0.3, seed=5, stream=2**30, step=sample) for sample in range(3)]
    outputs = np.array(masks) * np.float64(np.float32(1 / 0.7))
    np.testing.assert_allclose(found.mean, outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, outputs.std(axis=0), rtol=1e-6, atol=1e-15)
    assert found.predictive_entropy is found.mutual_information is None


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("batch_size", [4, 11])
def test_returned_samples_are_those_of_the_moments(batch_size, record, device):
    model = classifier(device=device)
    options = {"batch_size": batch_size, "samples": 9, "record": record}
    drawn, found = model.predict(X, return_samples=True, **options), model.predict(X, **options)
    assert drawn.shape == (9, 11, 3)
    assert drawn.dtype == np.float32
    wide = drawn.astype("float64")
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, wide.std(axis=0), rtol=1e-5)
    for number in (0, 8):
        with rng.monte_carlo(sample=number, row_offset=0):
            np.testing.assert_allclose(drawn[number], model(X).numpy(), rtol=1e-5)


@pytest.mark.needs_recordings
def test_samples_are_replayed_with_the_bits_of_eager_ones(device):
    model, x = classifier(device=device), np.tile(X, (5, 1))
    options = {"batch_size": 11, "samples": 6, "return_samples": True}
    drawn = model.predict(x, **options)
    assert model.recording.replays > 5
    np.testing.assert_array_equal(drawn, model.predict(x, record=False, **options))


def test_predict_rejects_return_samples_without_samples():
    with pytest.raises(ValueError, match=r"^predict: expected samples with .* Pass samples=50"):
        classifier().predict(X, return_samples=True)


def test_overloads_of_predict_have_its_parameters():
    parameters = inspect.signature(models.Model.predict).parameters
    overloads = typing.get_overloads(models.Model.predict)
    assert len(overloads) == 3
    for each in overloads:
        own = inspect.signature(each).parameters
        names = {*own, *Rest.__annotations__} - {"rest"}
        assert names | {"samples", "return_samples"} == set(parameters)
    results = [typing.get_type_hints(each)["return"] for each in overloads]
    assert results == [np.ndarray, np.ndarray, Uncertainty]


def test_predict_draws_each_layer_from_its_own_stream():
    stack = [layers.Dropout(0.5), layers.Dropout(0.5)]
    model = models.Sequential([layers.Input((6,)), *stack], seed=5)
    found = model.predict(np.ones((9, 6)), samples=1)
    masks = [rng.keep_mask((9, 6), 0.5, seed=5, stream=2**30 + n, step=0) for n in (0, 1)]
    assert np.array_equal(found.mean > 0, masks[0] & masks[1])


def test_predict_returns_the_entropies_of_the_formulas():
    model = classifier()
    single = []
    for sample in range(40):
        with rng.monte_carlo(sample=sample, row_offset=0):
            single.append(model(X).numpy().astype("float64"))
    p = np.array(single)

    def entropy(q):
        return -(q * np.log(q)).sum(axis=-1)

    found = model.predict(X, samples=40)
    np.testing.assert_allclose(found.mean, p.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, p.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.predictive_entropy, entropy(p.mean(axis=0)), rtol=1e-6)
    information = entropy(p.mean(axis=0)) - entropy(p).mean(axis=0)
    np.testing.assert_allclose(found.mutual_information, information, rtol=1e-4, atol=1e-7)
    assert all(part.dtype == np.float32 for part in found)
    assert (found.mutual_information > 0).all()


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_predict_with_another_batch_size_differs_by_rounding(batch_size, device):
    expected = classifier().predict(X, samples=8)
    found = classifier(device=device).predict(X, batch_size=batch_size, samples=8)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_predict_with_another_seed_draws_other_masks():
    model, other = classifier(), classifier(seed=8)
    other.set_weights(model.get_weights())
    assert np.abs(model.predict(X, samples=8).mean - other.predict(X, samples=8).mean).max() > 1e-3


def test_predict_without_dropout_has_no_spread():
    found = classifier(rate=0).predict(X, samples=3)
    assert np.array_equal(found.mean, classifier(rate=0).predict(X))
    assert not found.std.any()
    assert found.mutual_information.max() < 1e-15
    assert (found.predictive_entropy > 0).all()


def test_predict_with_scaling_in_inference_does_not_scale_draws():
    model = models.Sequential([layers.Input((6,)), layers.Dropout(0.5, scaling="inference")])
    assert set(model.predict(np.ones((9, 6)), samples=1).mean.flat) == {0.0, 1.0}
    assert set(model.predict(np.ones((9, 6))).flat) == {0.5}


def test_predict_does_not_change_later_training():
    one, other = classifier(), classifier()
    y = np.arange(11) % 3
    for model in (one, other):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(X, y, epochs=1, batch_size=4, verbose=0)
    before = repr(one.layers[1])
    one.predict(X, samples=5)
    assert repr(one.layers[1]) == before
    for model in (one, other):
        model.fit(X, y, epochs=1, batch_size=4, verbose=0)
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_predict_memory_does_not_grow_with_samples():
    model = classifier()
    x = np.ones((2000, 4), "float32")

    def peak(samples):
        model.predict(x, batch_size=500, samples=samples)
        tracemalloc.start()
        model.predict(x, batch_size=500, samples=samples)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(60) < 1.2 * peak(3)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_predict_rejects_invalid_samples(samples):
    with pytest.raises(ValueError, match=f"predict: .*samples.*{samples}"):
        classifier().predict(X, samples=samples)
