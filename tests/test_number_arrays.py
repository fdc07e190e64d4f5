"""Arrays of the user: each place where they come in accepts numbers only."""

import numpy as np
import pytest

from minidl import Tensor, initializers, layers, losses, models


def dense_model():
    model = models.Sequential([layers.Dense(1, use_bias=False, input_shape=(1,))], name="net")
    model.compile("sgd", "mse")
    return model


class Given(initializers.Initializer):
    """An initializer that returns given values."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def draw(self, shape, *, seed, stream):
        return self.values


ONE = np.ones((1, 1))
DOORS = {
    "Tensor: expected values": lambda values: Tensor(values),
    "net: expected x": lambda values: dense_model()(values),
    "predict: expected x": lambda values: dense_model().predict(values, verbose=0),
    "fit: expected x": lambda values: dense_model().fit(values, ONE),
    "fit: expected y": lambda values: dense_model().fit(ONE, values),
    "fit: expected sample_weight": lambda v: dense_model().fit(ONE, ONE, sample_weight=v),
    "fit: validation_data: expected y": lambda values: dense_model().fit(
        ONE, ONE, validation_data=(ONE, values)
    ),
    "evaluate: expected x": lambda values: dense_model().evaluate(values, ONE, verbose=0),
    "net: set_weights: expected array 0": lambda values: dense_model().set_weights([values]),
    "assign: expected dense/weight": lambda v: dense_model().parameters()[0].assign(v),
    "dense: expected initial values of weight": lambda values: layers.Dense(
        1, kernel_initializer=Given(values)
    )(Tensor(ONE)),
    "loss: expected y_true": lambda values: losses.MeanSquaredError()(values, Tensor(ONE)),
    "loss: expected sample_weight": lambda values: losses.MeanSquaredError()(
        ONE, Tensor(ONE), values
    ),
    "backward: expected gradient": lambda values: Tensor(ONE, requires_grad=True).backward(values),
    "multiply: expected an operand": lambda values: Tensor(ONE) * values,
}
WRONG = {
    "complex": ONE + 1j,
    "date": ONE.astype("datetime64[s]"),
    "duration": ONE.astype("timedelta64[s]"),
    "text": ONE.astype("str"),
    "bytes": ONE.astype("bytes"),
    "object": ONE.astype("object"),
    "None": np.array([[None]]),
    "structured": np.zeros((1, 1), [("a", "f4")]),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("door", DOORS)
def test_array_of_other_than_numbers_is_rejected(door, kind):
    with pytest.raises(TypeError, match=f"^{door} to be an array of numbers, got"):
        DOORS[door](WRONG[kind])


@pytest.mark.parametrize("door", [door for door in DOORS if "operand" not in door])
def test_ragged_list_is_rejected(door):
    with pytest.raises(ValueError, match=f"^{door} with one shape, got a list"):
        DOORS[door]([[1.0], [2.0, 3.0]])


@pytest.mark.parametrize("door", DOORS)
def test_masked_array_is_rejected_at_each_door(door):
    who, name = door.rsplit(": expected ", 1)
    with pytest.raises(TypeError, match=f"^{who}: ({name}: )?expected an ordinary array"):
        DOORS[door](np.ma.masked_array(ONE, mask=True))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("door", DOORS)
def test_array_of_numbers_is_accepted_at_each_door(door, dtype):
    if door != "backward: expected gradient" or dtype.startswith("float"):
        DOORS[door](ONE.astype(dtype))


@pytest.mark.parametrize("operand", [1j, np.complex64(1j), "1", b"1", np.datetime64("2020-01-01")])
def test_operand_that_is_no_real_number_is_rejected(operand):
    x = Tensor([1.0], requires_grad=True)
    for use in (lambda: x * operand, lambda: operand * x):
        with pytest.raises(TypeError, match=r"^multiply: expected|can't multiply"):
            use()


def test_rejected_weights_change_nothing():
    model = dense_model()
    weights = model.get_weights()
    before = model.parameters()[0].changed_at
    for wrong in WRONG.values():
        with pytest.raises(TypeError):
            model.set_weights([wrong])
        with pytest.raises(TypeError):
            model.parameters()[0].assign(wrong)
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])
    assert model.parameters()[0].changed_at == before
