"""Types that editors and mypy see, which checks this file: each is that of the value, too."""

import inspect
from typing import Any, assert_type, get_overloads

import numpy as np

from minidl import Tensor, layers, models
from minidl.layers.symbol import Symbol
from minidl.trainer.uncertainty import Uncertainty

X = np.ones((3, 4))


def compiled() -> models.Sequential:
    model = models.Sequential([layers.Dense(2), layers.Dropout(0.5)])
    model.compile("sgd", "mse")
    return model


def test_call_of_a_layer_is_typed_as_tensor_or_symbol() -> None:
    x = layers.Input((4,))
    symbol = assert_type(layers.Dense(4)(x), Symbol)
    merged = assert_type(layers.Add()([x, symbol]), Symbol)
    tensor = assert_type(layers.Softmax()(X), Tensor)
    for value, kind in ((symbol, Symbol), (merged, Symbol), (tensor, Tensor)):
        assert isinstance(value, kind)


def test_call_of_a_model_is_typed_as_tensor() -> None:
    output = assert_type(compiled()(X), Tensor)
    assert isinstance(output, Tensor)
    x = layers.Input((4,))
    several = models.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)])
    first, second = assert_type(several(X), Tensor)  # a list, and both can be unpacked
    assert (assert_type(first, Tensor).shape, second.shape) == ((3, 2), (3, 3))


def test_optimizer_of_a_model_is_typed_as_set() -> None:
    model = compiled()
    model.optimizer.learning_rate = 0.5
    assert model.optimizer.learning_rate == 0.5


def test_input_of_call_may_have_any_name_in_a_subclass() -> None:
    _, x = inspect.signature(layers.Layer.call).parameters.values()
    assert x.kind is x.POSITIONAL_ONLY


def test_entropies_of_a_softmax_are_typed_as_present() -> None:
    model = models.Sequential([layers.Dropout(0.5), layers.Dense(3, "softmax")])
    found = model.predict(X, samples=2)
    assert found.predictive_entropy[0] >= found.mutual_information[0] >= 0


def test_results_are_typed_by_the_arguments() -> None:
    model, y = compiled(), np.ones((3, 2))
    values = assert_type(model.evaluate(X, y, verbose=0, return_dict=True), dict[str, float])
    assert isinstance(values, dict)
    loss: float = assert_type(model.evaluate(X, y, 2, 0, sample_weight=None), Any)
    assert isinstance(loss, float)
    assert isinstance(assert_type(model.predict(X), np.ndarray), np.ndarray)
    assert isinstance(assert_type(model.predict(X, samples=2), Uncertainty), Uncertainty)


def test_overloads_of_evaluate_have_its_parameters() -> None:
    names = set(models.Model.evaluate.__annotations__) - {"return"}
    for each in get_overloads(models.Model.evaluate):
        own = set(each.__annotations__) - {"return", "rest"}
        rest = {*models.model.EvaluateRest.__annotations__, *models.prediction.Rest.__annotations__}
        assert own | rest == names
