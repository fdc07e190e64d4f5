"""Laws that every layer obeys, from one table; then each layer."""

import numpy as np
import pytest
from layer_table import LAYERS, ROWS, STEP

import minidl
from minidl import Tensor, layers, models, rng
from minidl.constraints import MaxNorm
from minidl.testing import check_gradient

MERGING = {"Add", "Average", "Concatenate", "Maximum", "Minimum"}
MERGING |= {"Multiply", "Subtract"}  # in test_merging.py
every_case = pytest.mark.parametrize(
    ("make", "shape"), [pytest.param(row.make, row.shape, id=name) for name, row in ROWS.items()]
)


def numbers(shape, dtype="float64", seed=0):
    """Return numbers that are not near a kink of relu."""
    values = np.random.default_rng(seed).uniform(0.1, 1.0, shape)
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], shape)
    return (values * signs).astype(dtype)


def model_of(layer, dtype, device="cpu"):
    return models.Sequential([layer], device=device, dtype=dtype, seed=2)


def test_table_has_rows_of_every_layer_and_a_function_of_torch_for_each():
    assert set(LAYERS) == set(layers.__all__) - {"Layer", "Parameter", "Input"} - MERGING
    assert [name for name, rows in LAYERS.items() if not any(row.in_torch for row in rows)] == []


@every_case
def test_gradients_in_training_equal_central_differences(make, shape, device):
    check_gradients(make, shape, lambda: minidl.training(step=STEP), device)


@every_case
def test_gradients_in_inference_equal_central_differences(make, shape):
    check_gradients(make, shape, rng.inference, "cpu")


def check_gradients(make, shape, mode, device):
    layer = make()
    model = models.Sequential([layer], device=device, dtype="float64", seed=2)
    model(np.zeros(shape))
    names = "weight", "bias", "gamma", "beta"
    weights = [name for name in names if getattr(layer, name, None) is not None]
    shapes = [shape, *(getattr(layer, name).shape for name in weights)]

    def function(x, *values):
        vars(layer).update(zip(weights, values, strict=True))
        with mode():  # anew for each call, so that each draws from one stream
            return model(x)

    inputs = [numbers(shape, seed=2 * place) for place, shape in enumerate(shapes)]
    check_gradient(function, *(Tensor(x, device, requires_grad=True) for x in inputs))


def test_check_gradient_rejects_layer_with_wrong_gradient():
    class HalfGradient(layers.Layer):
        def call(self, x):
            return x * x.detach()

    with pytest.raises(AssertionError, match="check_gradient"):
        check_gradient(HalfGradient(), Tensor(numbers((3, 5)), requires_grad=True))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@every_case
def test_output_and_gradients_have_dtype_of_model(make, shape, dtype, device):
    model = model_of(make(), dtype, device)
    with minidl.training(step=0):
        y = model(numbers(shape, dtype))
    assert y.dtype == model(numbers(shape, dtype)).dtype == dtype
    assert y.device == model.device
    assert {p.dtype for p in model.parameters()} <= {np.dtype(dtype)}
    if dtype != "float16":
        x = Tensor(numbers(shape, dtype), device=device, requires_grad=True)
        (y.sum() if y.requires_grad else model(x).sum()).backward()
        assert all(p.grad.dtype == dtype for p in model.parameters() if p.requires_grad)


@every_case
def test_layer_outside_of_model_keeps_float32(make, shape):
    assert make()(Tensor(numbers(shape, "float32"))).dtype == "float32"


@every_case
def test_inputs_are_not_modified(make, shape, device):
    model = model_of(make(), "float32", device)
    x = Tensor(numbers(shape, "float32"), device=device)
    before = x.numpy()
    with minidl.training(step=0):
        model(x)
    model(x)
    assert np.array_equal(before, x.numpy())


@every_case
def test_strided_input_has_same_bits(make, shape):
    x = numbers((*shape, 2), "float32")[..., 0]
    strided, contiguous = model_of(make(), "float32"), model_of(make(), "float32")
    assert x.size < 2 or not x.flags.c_contiguous
    with minidl.training(step=0):
        first = strided(Tensor(x)).numpy()
    with minidl.training(step=0):
        second = contiguous(Tensor(x.copy())).numpy()
    np.testing.assert_array_equal(first, second)


# The product of a `Dense` may have other bits for other numbers of rows.
RANDOM_ROWS = [
    name
    for name, row in ROWS.items()
    if row.make().held(rng.RandomStream)
    and not row.make().held(layers.Dense)
    and len(row.shape) > 1
]


@pytest.mark.parametrize("name", RANDOM_ROWS)
def test_random_layer_has_same_bits_in_parts_of_batch_and_other_bits_in_other_step(name, device):
    model = model_of(ROWS[name].make(), "float32", device)
    x = numbers((16, *ROWS[name].shape[1:]), "float32")

    def output(rows, step):
        with minidl.training(step=step, row_offset=rows.start):
            return model(x[rows]).numpy()

    whole = output(slice(0, 16), STEP)
    parts = [output(slice(start, stop), STEP) for start, stop in ((0, 5), (5, 6), (6, 16))]
    if device.startswith("cuda") and isinstance(ROWS[name].make(), layers.DropConnect):
        # cuBLAS may sum the products of another number of rows in another order.
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(output(slice(0, 16), STEP + 1), whole)
    np.testing.assert_array_equal(model(x).numpy(), model(x).numpy())


# ------------------------------------------------------------------------------ Dense


def test_dense_returns_activation_of_product_and_bias(device):
    x, weight, bias = numbers((4, 3)), numbers((3, 2), seed=5), numbers((2,), seed=6)
    model = models.Sequential([layers.Dense(2, "relu")], device=device, dtype="float64")
    model(x)
    model.set_weights([weight, bias])
    np.testing.assert_allclose(model(x).numpy(), np.maximum(x @ weight + bias, 0), rtol=1e-13)


@pytest.mark.parametrize("units", [0, -1, 2.0, "3", None])
def test_dense_rejects_units_that_are_not_a_positive_integer(units):
    with pytest.raises(ValueError, match=rf"Dense: units: expected .*got {units!r}"):
        layers.Dense(units)


def test_dense_accepts_integer_of_numpy_as_units():
    assert layers.Dense(np.uint8(4)).units == 4


def test_dense_rejects_input_with_other_features():
    model = models.Sequential([layers.Dense(2)])
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"^dense: expected 3 features.*\(1, 4\)"):
        model(np.zeros((1, 4)))


def test_dense_without_bias_has_one_weight_with_its_constraint():
    constraint = MaxNorm(1.0)
    layer = layers.Dense(2, use_bias=False, kernel_constraint=constraint)
    model = models.Sequential([layer], seed=0)
    model(np.zeros((1, 3)))
    assert layer.bias is None
    assert layer.weight.constraint is constraint
    assert [p.name for p in model.parameters()] == ["dense/weight"]


@pytest.mark.parametrize("constraint", ["norm", 3.0])
def test_dense_rejects_unknown_constraint(constraint):
    message = f"constraint: expected a Constraint or one of max_norm, .*, got {constraint!r}"
    with pytest.raises(ValueError, match=message):
        layers.Dense(2, kernel_constraint=constraint)


def test_constraint_on_missing_axis_raises_when_layer_is_built():
    layer = layers.Dense(2, kernel_constraint=MaxNorm(1.0, axis=5))
    with pytest.raises(ValueError, match=r"MaxNorm.*axis=5.*: expected .*axis 5, got \(3, 2\)"):
        models.Sequential([layer])(np.zeros((1, 3)))


# ------------------------------------------------------------------------------ activations


@pytest.mark.parametrize(
    ("given", "shown"),
    [("geglu", "'geglu'"), (["relu"], r"\['relu'\]"), (np.tanh, "<ufunc 'tanh'>")],
)
def test_unknown_activation_is_rejected_with_the_names(given, shown):
    message = f"activation: .*elu, gelu, .*linear, relu, .*softmax, .*tanh, got {shown}"
    with pytest.raises(ValueError, match=message):
        layers.Dense(2, activation=given)


def test_activation_need_not_be_hashable():
    class Swish:
        __hash__ = None

        def __call__(self, x):
            return x * x.sigmoid()

    model = models.Sequential([layers.Dense(2, activation=Swish()), layers.Dropout(0.5)])
    model(np.ones((1, 3)))
    with minidl.training(step=0):
        model(np.ones((1, 3)))


def test_softmax_of_large_logits_is_finite_and_sums_to_one():
    y = layers.Softmax()(Tensor(np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], "float32"))).numpy()
    np.testing.assert_allclose(y, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_softmax_sums_over_its_axis():
    y = layers.Softmax(axis=1)(Tensor(numbers((2, 3, 4)))).numpy()
    np.testing.assert_allclose(y.sum(axis=1), np.ones((2, 4)), rtol=1e-12)


# ------------------------------------------------------------------------------ shapes and scales


def test_rescaling_maps_bytes_to_unit_interval():
    model = models.Sequential([layers.Rescaling(1 / 255)])
    y = model(np.array([[0, 51, 255]], "uint8"))
    assert y.dtype == "float32"
    np.testing.assert_allclose(y.numpy(), [[0, 0.2, 1]], rtol=1e-6)


def test_flatten_keeps_batch_and_c_order():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(layers.Flatten()(Tensor(x)).numpy(), x.reshape(2, 12))


# ------------------------------------------------------------------------------ rectifiers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.ReLU(), [0, 0, 0, 0.5, 2, 8]),
        (layers.ReLU(6), [0, 0, 0, 0.5, 2, 6]),
        (layers.ReLU(0), [0, 0, 0, 0, 0, 0]),
        (layers.ReLU(negative_slope=0.5), [-2, -0.5, 0, 0.5, 2, 8]),
        (layers.ReLU(threshold=1.0), [0, 0, 0, 0, 2, 8]),
        (layers.ReLU(6, 0.5, 1.0), [-2.5, -1, -0.5, -0.25, 2, 6]),
        (layers.LeakyReLU(), [-1.2, -0.3, 0, 0.5, 2, 8]),
        (layers.LeakyReLU(0.0), [0, 0, 0, 0.5, 2, 8]),
        (layers.Activation("leaky_relu"), [-0.8, -0.2, 0, 0.5, 2, 8]),
    ],
)
def test_rectifier_follows_the_formula_of_keras(layer, expected):
    x = Tensor(np.array([-4, -1, 0, 0.5, 2, 8], "float32"))
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.ReLU(-1), "ReLU: expected max_value"),
        (lambda: layers.ReLU(negative_slope=-0.1), "ReLU: expected negative_slope"),
        (lambda: layers.ReLU(threshold=-0.1), "ReLU: expected threshold"),
        (lambda: layers.LeakyReLU(-0.1), "LeakyReLU: expected negative_slope"),
        (lambda: layers.ELU(np.inf), "ELU: expected alpha"),
    ],
)
def test_rectifier_rejects_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_methods_of_tensors_are_the_activations_of_their_names():
    x = Tensor(numbers((5, 4), "float32"))
    for name in (
        "elu",
        "gelu",
        "leaky_relu",
        "relu",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
    ):
        assert (getattr(x, name)().numpy() == layers.Activation(name)(x).numpy()).all()
    assert (x.elu(0.5).numpy() == layers.ELU(0.5)(x).numpy()).all()
    assert (x.leaky_relu(0.5).numpy() == layers.LeakyReLU(0.5)(x).numpy()).all()
    tanh = layers.Activation("gelu_tanh")(x).numpy()
    assert (x.gelu(approximate=True).numpy() == tanh).all()


@pytest.mark.parametrize("name", ["elu", "gelu", "gelu_tanh", "leaky_relu", "silu", "softplus"])
def test_activation_is_saved_by_its_name(name, tmp_path):
    model = models.Sequential([layers.Dense(3, name, input_shape=(4,)), layers.ReLU(2, 0.5, 0.1)])
    model.save(tmp_path / "x.safetensors")
    again = models.load(tmp_path / "x.safetensors")
    x = numbers((5, 4), "float32")
    assert (again.predict(x) == model.predict(x)).all()
    assert again.layers[0].activation is model.layers[0].activation
