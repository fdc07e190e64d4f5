"""ONNX files: another runtime computes the same outputs."""

import numpy as np
import pytest
from record_keras_graph import inputs
from record_keras_graph import network as network_of_keras

from minidl import layers, models

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, from the extra test")

X = np.random.default_rng(0).normal(size=(7, 4, 3)).astype("float32")


def run(path, x=X, level="ORT_ENABLE_ALL"):
    """Return the outputs of onnxruntime, with a level of its optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: x})[0]


def network(*stack, dtype="float32", **arguments):
    return models.Sequential([layers.Input((4, 3)), *stack], dtype=dtype, seed=3, **arguments)


@pytest.mark.parametrize(
    "stack",
    [
        (layers.Dense(5),),
        (layers.Flatten(), layers.Dense(5, use_bias=False)),
        (layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(5, "relu")),
        (layers.Rescaling(2.0, -1.0), layers.Dense(5, "sigmoid")),
        (layers.Dense(5, "selu"), layers.Activation("selu")),
        (layers.Dense(5, "tanh"), layers.Activation("sigmoid"), layers.ReLU()),
        (layers.Flatten(), layers.Dropout(0.5), layers.Dense(5), layers.Softmax()),
        (layers.Dense(5, "linear"), layers.Softmax(axis=1)),
        (layers.GaussianNoise(1.5), layers.Dense(5), layers.GaussianDropout(0.5)),
        (layers.Dropout(0.25, scaling="inference"), layers.Dense(5, "softmax")),
        (models.Sequential([layers.Dense(6, "relu"), layers.Dropout(0.5)]), layers.Dense(2)),
        (layers.Dropout(0.25, (None, 1, None), scaling="inference"),),
        (layers.SpatialDropout1D(0.5), layers.DropPath(0.5), layers.AlphaDropout(0.5)),
        (layers.Dense(5, "elu"), layers.ELU(0.5), layers.Activation("leaky_relu")),
        (layers.Dense(5, "gelu"), layers.Activation("gelu_tanh"), layers.LeakyReLU(0.1)),
        (layers.Dense(5, "silu"), layers.Activation("softplus"), layers.ReLU(1.5)),
        (layers.ReLU(negative_slope=0.1, threshold=0.3), layers.ReLU(2, 0.5)),
        (layers.BatchNormalization(), layers.LayerNormalization(), layers.Dense(2)),
        (layers.BatchNormalization(1, center=False), layers.LayerNormalization([1, 2])),
        (layers.BatchNormalization(scale=False), layers.LayerNormalization(scale=False)),
        (layers.Dense(5), layers.LayerNormalization(center=False, scale=False)),
        (layers.DropConnect(5, 0.5), layers.DropConnect(4, 0.5, True, "relu")),
        (
            models.Sequential([layers.Dense(6, "relu", name="a"), layers.ReLU(name="b")]),
            layers.Dense(6, name="a"),
            layers.Dropout(0.5, name="b"),
        ),
    ],
    ids=lambda stack: "-".join(layer.label for layer in stack),
)
def test_export_computes_the_same_in_another_runtime(stack, tmp_path):
    model = network(*stack)
    model.set_weights([w + 0.1 for w in model.get_weights()])  # so that no bias is zero
    model.export(tmp_path / "net.onnx")
    found = run(tmp_path / "net.onnx")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-5, atol=1e-5)


def test_export_computes_other_outputs_for_other_weights(tmp_path):
    model = network(layers.Flatten(), layers.Dense(5))
    model.export(tmp_path / "net.onnx")
    model.set_weights([w + 0.01 for w in model.get_weights()])
    assert np.abs(run(tmp_path / "net.onnx") - model.predict(X)).max() > 1e-3


def test_export_of_float64_computes_float64(tmp_path):
    model = network(layers.Flatten(), layers.Dense(5, "softmax"), dtype="float64")
    model.export(tmp_path / "net.onnx")
    found = run(tmp_path / "net.onnx", X.astype("float64"))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-12)


def test_export_of_float64_normalisation_and_activations_computes_float64(tmp_path):
    stack = layers.BatchNormalization(), layers.LayerNormalization(), layers.Activation("silu")
    model = network(*stack, layers.Activation("sigmoid"), dtype="float64")
    model.set_weights([w + 0.1 for w in model.get_weights()])
    model.export(tmp_path / "net.onnx")
    # onnxruntime 1.30 optimises a silu of float64 into a node that it cannot run.
    found = run(tmp_path / "net.onnx", X.astype("float64"), level="ORT_ENABLE_BASIC")
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-6, atol=1e-7)


def test_export_names_layers_and_keeps_dropout(tmp_path):
    model = network(layers.Flatten(), layers.Dense(5, "relu"), layers.Dropout(0.5), layers.Dense(2))
    model.export(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [(node.op_type, node.name) for node in graph.node] == [
        ("Flatten", "flatten"),
        ("MatMul", "dense/product"),
        ("Add", "dense/sum"),
        ("Relu", "dense/relu"),
        ("Dropout", "dropout"),
        ("MatMul", "dense_1/product"),
        ("Add", "dense_1/sum"),
    ]
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    assert constants["dropout/rate"] == 0.5
    assert constants["dense/weight"].shape == (12, 5)
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 4, 3]


def twice(layer, between=None):
    """Return a stack in which a layer occurs twice."""
    return (layer, between or layers.Dense(3), layer)


SHARED_RELU = layers.ReLU()


@pytest.mark.parametrize(
    "stack",
    [
        twice(layers.ReLU()),
        twice(layers.Dense(3, "relu"), layers.Activation("tanh")),
        twice(layers.Dropout(0.5)),
        twice(layers.Dropout(0.5, scaling="inference")),
        twice(layers.Flatten()),
        twice(layers.Activation("sigmoid")),
        twice(layers.Softmax()),
        twice(layers.Rescaling(2.0, 1.0)),
        twice(models.Sequential([layers.Dense(3, "relu"), layers.Dropout(0.5)])),
        (SHARED_RELU, models.Sequential([layers.Dense(3), SHARED_RELU])),
        (layers.Dense(3, "relu", name="a"), layers.ReLU(name="a/relu")),
        (layers.Dense(3, name="input"), layers.Dense(3, name="dense_1"), layers.Dense(3)),
        (layers.Dense(3, "relu", name="a b:0/模型"), layers.Dense(3, name="x" * 300)),
    ],
    ids=lambda stack: "-".join(layer.label[:9] for layer in stack),
)
def test_export_gives_layers_used_twice_unique_names(stack, tmp_path):
    model = network(*stack)
    model.set_weights([w + 0.1 for w in model.get_weights()])
    model.export(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    values = [c.name for c in graph.initializer] + [o for node in graph.node for o in node.output]
    assert len(set(values)) == len(values)
    assert len({node.name for node in graph.node}) == len(graph.node)
    # A shared weight is one constant.
    assert sum(len(c.dims) > 0 for c in graph.initializer) == len(model.parameters())
    np.testing.assert_allclose(run(tmp_path / "net.onnx"), model.predict(X), rtol=1e-5, atol=1e-5)


class Own(layers.Dense):
    """A custom layer."""


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Own(2), TypeError, "export: .* got own, a Own"),
        (layers.Dense(2, lambda x: x), TypeError, "export: .* got .*lambda.* in dense"),
        (layers.LayerNormalization(1), TypeError, "export: .* of layer_normalization .*got 1"),
        (layers.Dropout(1.0), ValueError, "export: .* got 1 in dropout"),
    ],
)
def test_export_rejects_layers_without_operator(layer, error, message, tmp_path):
    with pytest.raises(error, match=message):
        network(layer).export(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_export_rejects_other_endings(tmp_path):
    with pytest.raises(ValueError, match=r"net\.tflite: expected .* \.onnx, got 'net\.tflite'"):
        network(layers.Dense(2)).export(tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_export_rejects_model_that_is_not_built(tmp_path):
    with pytest.raises(ValueError, match="sequential: expected a built layer"):
        models.Sequential([layers.Dense(2)]).export(tmp_path / "net.onnx")


def test_graph_with_several_inputs_and_outputs_computes_the_same(tmp_path):
    model = network_of_keras(layers, models.Model)
    model.set_weights([w + 0.1 for w in model.get_weights()])
    model.export(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [given.name for given in session.get_inputs()] == ["a", "b"]
    found = session.run(None, dict(zip("ab", inputs(), strict=True)))
    for ours, expected in zip(found, model.predict(inputs()), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_merging_of_three_inputs_computes_the_same(tmp_path):
    kinds = "Add", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"
    for merge in (getattr(layers, kind) for kind in kinds):
        x = layers.Input((4, 3))
        model = models.Model(x, merge()([x, layers.Dense(3)(x), layers.Dense(3, "tanh")(x)]))
        model.export(tmp_path / "net.onnx")
        np.testing.assert_allclose(
            run(tmp_path / "net.onnx"), model.predict(X), rtol=1e-5, atol=1e-5
        )


def test_export_rejects_a_merging_layer_of_the_user_and_a_subclass(tmp_path):
    class Largest(layers.Add):
        pass

    class Net(models.Model):
        def call(self, x):
            return x

    x = layers.Input((4, 3))
    model = models.Model(x, Largest()([x, x]))
    with pytest.raises(TypeError, match=r"operator, got largest, a .*Largest"):
        model.export(tmp_path / "net.onnx")
    net = Net()
    net.build((None, 3))
    with pytest.raises(TypeError, match="expected a Sequential or a functional model, got net"):
        net.export(tmp_path / "net.onnx")
