"""Arrays of the user: copied where a gradient depends on them, shared where that is documented."""

import numpy as np
import pytest

from minidl import Tensor, layers, losses, models
from minidl.engine.backward import no_grad
from minidl.engine.dlpack import from_dlpack


def leaf(values):
    return Tensor(values, requires_grad=True)


def squares(array):
    x = leaf(array)
    return x, (x * x).sum()


def by_operand(array):
    x = leaf(np.ones(3, "float32"))
    return x, (x * array).sum()


def by_reflected_operand(array):
    x = leaf(np.ones(3, "float32"))
    return x, (array / x).sum()


def by_base(array):
    x = leaf(np.ones(3, "float32"))
    return x, (array**x).sum()


def by_squared_error(array):
    x = leaf(np.ones(3, "float32"))
    return x, losses.MeanSquaredError()(array, x * x)


def by_distribution(array):
    x = leaf(np.ones((1, 3), "float32"))
    return x, losses.CategoricalCrossentropy(from_logits=True)(array[None], x)


def by_sample_weight(array):
    x = leaf(np.ones(3, "float32"))
    return x, losses.MeanSquaredError()(np.zeros(3), x, sample_weight=array)


def by_model(array):
    model = models.Sequential([layers.Dense(2, use_bias=False, input_shape=(3,))], seed=1)
    return model.parameters()[0], model(array[None]).sum()


USES = [
    squares,
    by_operand,
    by_reflected_operand,
    by_base,
    by_squared_error,
    by_distribution,
    by_sample_weight,
    by_model,
]


@pytest.mark.parametrize("use", USES)
def test_change_of_array_after_forward_leaves_gradients_as_they_were(use):
    expected, loss = use(np.array([1.0, 2.0, 3.0], "float32"))
    loss.backward()
    array = np.array([1.0, 2.0, 3.0], "float32")
    x, loss = use(array)
    array[:] = 7
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected.grad.numpy())


@pytest.mark.parametrize("kind", [np.array, list])
def test_change_of_index_after_forward_leaves_gradients_as_they_were(kind):
    x, index = leaf(np.ones(3, "float32")), kind([0, 0, 2])
    loss = x[index].sum()
    index[0] = 1
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 0, 1])


def test_change_of_labels_after_forward_leaves_gradients_as_they_were():
    labels = np.array([0, 1])
    grads = []
    for change in (False, True):
        x = leaf(np.zeros((2, 3), "float32"))
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)(labels, x)
        if change:
            labels[:] = 2
        loss.backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(*grads)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
def test_new_tensor_shares_no_memory_with_array(dtype, order, backend):
    given = backend.asarray(np.ones((2, 3), dtype, order=order))
    x = Tensor(given, backend.name)
    given[...] = 0
    np.testing.assert_array_equal(x.numpy(), np.ones((2, 3), dtype), strict=True)


def test_model_without_gradient_does_not_copy_batch():
    model = models.Sequential([layers.Flatten()])
    batch = np.ones((2, 3), "float32")
    with no_grad():
        assert np.shares_memory(model(batch).data, batch)
    assert not np.shares_memory(model(batch).data, batch)


def test_weights_share_no_memory_with_arrays_of_the_user():
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1)
    weights = [np.ones((3, 2), "float32"), np.ones(2, "float32")]
    model.set_weights(weights)
    weights[0][:] = 5
    model.parameters()[1].assign(weights[1])
    weights[1][:] = 5
    model.get_weights()[0][:] = 6
    model.parameters()[0].numpy()[:] = 6
    assert all((array == 1).all() for array in model.get_weights())


def test_gradient_shares_no_memory_with_given_gradient():
    x, given = leaf([1.0, 2.0]), np.ones(2, "float32")
    (x + 0).backward(given)
    given[:] = 5
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1])


@pytest.mark.parametrize(
    "share",
    [
        np.asarray,
        np.from_dlpack,
        from_dlpack,
        Tensor.detach,
        lambda x: x.reshape(2, 1),
        lambda x: x[:1],
        lambda x: x.T,
    ],
)
def test_documented_views_share_memory(share):
    x = Tensor([1.0, 2.0])
    view = share(x)
    x.data[0] = 5
    assert np.asarray(view).ravel()[0] == 5
