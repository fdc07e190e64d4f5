"""Functional models: graphs of layers, as users of Keras write them."""

import copy

import numpy as np
import pytest
from record_keras_graph import inputs, network
from small_models import LABELS, TARGETS, X, bits

from minidl import Tensor, layers, models
from minidl.callbacks import Callback
from minidl.distributed import DataParallel
from minidl.models import Model, clone_model
from minidl.models.graph import Branches


def residual(depth=2, **arguments):
    """Return a compiled residual network with stochastic depth for X and LABELS."""
    x = layers.Input((6,))
    h = layers.Dense(8, activation="relu")(x)
    for _ in range(depth):
        branch = layers.Dense(8, activation="relu")(h)
        branch = layers.Dropout(0.25)(branch)
        branch = layers.DropPath(0.2)(layers.Dense(8)(branch))
        h = layers.Add()([h, branch])
    y = layers.Dense(3, activation="softmax")(h)
    model = Model(inputs=x, outputs=y, **arguments)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Residual(Model):
    """The same network as a subclass."""

    def __init__(self, depth=2, **arguments):
        super().__init__(**arguments)
        self.first = layers.Dense(8, activation="relu")
        self.blocks = [
            [layers.Dense(8, activation="relu"), layers.Dropout(0.25)] for _ in range(depth)
        ]
        for block in self.blocks:
            block += [layers.Dense(8), layers.DropPath(0.2), layers.Add()]
        self.last = layers.Dense(3, activation="softmax")

    def call(self, x):
        h = self.first(x)
        for *branch, add in self.blocks:
            y = h
            for layer in branch:
                y = layer(y)
            h = add([h, y])
        return self.last(h)


def small(make_branch=lambda x: layers.Dense(6)(x), **arguments):
    """Return a network with one skip connection and a regression for TARGETS."""
    x = layers.Input((6,))
    model = Model(x, layers.Dense(2)(x + make_branch(x)), **arguments)
    model.compile("sgd", "mse")
    return model


# ------------------------------------------------------------------------------ training


@pytest.mark.slow_on("cuda-double")
def test_residual_network_trains_as_a_subclass_does(device):
    ours, theirs = residual(seed=3, device=device), Residual(seed=3, device=device)
    theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    theirs.build((None, 6))
    assert bits(ours) == bits(theirs)
    histories = [m.fit(X, LABELS, 16, epochs=3, verbose=0).history for m in (ours, theirs)]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    np.testing.assert_allclose(
        ours.predict(X, samples=3).std, theirs.predict(X, samples=3).std, atol=1e-5
    )


def test_shards_of_batches_train_the_same_network():
    plain, shared = residual(seed=3), residual(seed=3)
    plain.fit(X, LABELS, 16, epochs=2, verbose=0)
    shared.fit(X, LABELS, 16, epochs=2, verbose=0, distribution=DataParallel(shards=4))
    for weight, expected in zip(shared.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


def test_residual_network_learns():
    model = residual(seed=1)
    y = (X[:, 0] > 0) + 2 * (X[:, 1] > 0.5)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, np.minimum(y, 2), 8, epochs=60, verbose=0)
    assert model.evaluate(X, np.minimum(y, 2), verbose=0)[1] > 0.9


@pytest.mark.slow_on("cuda-double")
def test_steps_of_a_graph_are_recorded_on_cuda_only(device):
    recorded, eager = (residual(1, seed=2, device=device) for _ in range(2))
    recorded.fit(X, LABELS, 5, epochs=2, verbose=0)
    eager.fit(X, LABELS, 5, epochs=2, verbose=0, record=False)
    assert bits(recorded) == bits(eager)
    report = recorded.recording
    assert report.replays > 0 if device != "cpu" else "add has no kernel" in report.reason


def test_chain_within_a_graph_is_fused():
    (first, *blocks, last) = residual(seed=3).graph.chain
    assert (first.label, last.label) == ("dense", "dense_5")
    assert [type(block) for block in blocks] == [Branches] * 2
    assert [[len(node.layers) for node in block.nodes] for block in blocks] == [[4, 1]] * 2


def test_feed_computes_leading_layers_of_a_graph():
    image = layers.Input((2, 3))
    h = layers.Flatten()(layers.Rescaling(0.5)(image))
    model = Model(image, layers.Dense(2)(h + layers.Dense(6)(h)))
    plan = model._planned_layers()
    assert [type(part) for part in plan[:2]] == [layers.Rescaling, layers.Flatten]
    x = X.reshape(-1, 2, 3)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x).numpy(), rtol=1e-5)


class Break(Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if self.model.step == self.batch:
            raise KeyboardInterrupt


def test_interrupted_run_is_resumed_from_a_file_bit_for_bit(tmp_path):
    whole, broken = residual(seed=4), residual(seed=4)
    whole.fit(X, LABELS, 16, epochs=3, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(X, LABELS, 16, epochs=3, verbose=0, callbacks=[Break(6)])
    broken.save(tmp_path / "broken.safetensors")
    resumed = models.load(tmp_path / "broken.safetensors")
    resumed.fit(X, LABELS, 16, epochs=3, verbose=0, resume=True)
    assert bits(resumed) == bits(whole)
    assert resumed.history.history == whole.history.history


def test_dtype_and_seed_are_those_of_the_model(device):
    model = small(dtype="float64", seed=5, device=device)
    model.fit(X, TARGETS, verbose=0)
    assert model.predict(X, verbose=0).dtype == "float64"
    assert model.parameters()[0].device == model.device


# ------------------------------------------------------------------------------ several inputs


def test_keras_network_is_saved_and_loaded(tmp_path):
    model = network(layers, Model)
    model.save(tmp_path / "model.safetensors")
    again = models.load(tmp_path / "model.safetensors")
    assert [layer.label for layer in again.layers] == [layer.label for layer in model.layers]
    for ours, theirs in zip(again.predict(inputs()), model.predict(inputs()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again.save(tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("model", "again"))
    assert first.read_bytes() == second.read_bytes()


def pair(**arguments):
    """Return a compiled model that compares two inputs by a shared encoder."""
    a, b = layers.Input((6,), name="left"), layers.Input((6,))
    encoder = layers.Dense(4, activation="tanh")
    model = Model([a, b], layers.Dense(2)(encoder(a) - encoder(b)), **arguments)
    model.compile("sgd", "mse")
    return model


def test_several_inputs_are_a_list_or_a_dictionary():
    one, other = pair(seed=1), pair(seed=1)
    assert one.graph.names == ["left", "input_layer"]
    right = X[::-1]
    named = {"input_layer": right, "left": X}
    one.fit([X, right], TARGETS, validation_data=(named, TARGETS), epochs=2, verbose=0)
    other.fit(named, TARGETS, validation_split=0.0, epochs=2, verbose=0)
    assert bits(one) == bits(other)
    assert one.evaluate([X, right], TARGETS, verbose=0) == other.evaluate(named, TARGETS, verbose=0)
    expected = one([X, right]).numpy()
    np.testing.assert_allclose(one.predict(named, verbose=0), expected, rtol=1e-5)
    encoder, last = one.layers[0], one.layers[2]
    codes = [np.tanh(x.astype("float32") @ encoder.kernel.numpy()) for x in (X, right)]
    np.testing.assert_allclose(
        expected, (codes[0] - codes[1]) @ last.kernel.numpy() + last.bias.numpy(), atol=1e-2
    )


def test_several_inputs_in_lists_are_validation_data_and_batches():
    one, other = pair(seed=1), pair(seed=1)
    options = {"batch_size": 10, "shuffle": False, "verbose": 0}
    history = one.fit([X, X], TARGETS, validation_data=([X, X], TARGETS), **options).history
    rows = [slice(n, n + 10) for n in range(0, len(X), 10)]
    lists = [([X[part], X[part]], TARGETS[part]) for part in rows]
    named = [({"left": X[part], "input_layer": X[part]}, TARGETS[part]) for part in rows]
    assert other.fit(lists, validation_data=named, verbose=0).history == history
    assert bits(one) == bits(other)


def test_shared_layer_has_one_weight_and_the_sum_of_its_gradients():
    model = pair(seed=2)
    assert [layer.label for layer in model.layers] == ["dense", "subtract", "dense_1"]
    assert len(model.parameters()) == 4
    encoder, last = model.layers[0], model.layers[2]
    loss = model([X, -X]).sum()
    loss.backward()
    shared = encoder.weight.grad.numpy()
    parts = []
    for kept in (0, 1):  # the gradient of one of the two calls
        codes = [encoder(Tensor(x, dtype="float32")) for x in (X, -X)]
        codes[1 - kept] = codes[1 - kept].detach()
        encoder.weight.grad = None
        last(codes[0] - codes[1]).sum().backward()
        parts.append(encoder.weight.grad.numpy())
    np.testing.assert_allclose(shared, parts[0] + parts[1], rtol=1e-4, atol=1e-4)
    assert np.abs(parts[0] - shared).max() > 1e-3


def test_models_are_layers_of_a_graph(tmp_path):
    encoder = models.Sequential([layers.Dense(5, "relu"), layers.Dropout(0.5)], name="encoder")
    a, b = layers.Input((6,)), layers.Input((6,))
    model = Model([a, b], layers.Dense(2)(layers.Concatenate()([encoder(a), encoder(b)])))
    model.compile("sgd", "mse")
    model.fit([X, X], TARGETS, verbose=0)
    model.save(tmp_path / "nested.safetensors")
    again = models.load(tmp_path / "nested.safetensors")
    np.testing.assert_array_equal(again.predict([X, X]), model.predict([X, X]))
    assert len(model.parameters()) == 4


def test_model_of_several_inputs_is_a_layer_of_another(device):
    inner = pair(seed=1, device=device)
    a, b = layers.Input((6,)), layers.Input((6,))
    outer = Model([a, b], layers.Dense(1)(inner([a, b])), device=device)
    assert outer([X, X]).shape == (50, 1)
    np.testing.assert_allclose(
        inner([X, -X]).numpy(), inner.predict([X, -X], verbose=0), rtol=1e-4, atol=1e-5
    )
    assert len(outer.parameters()) == 6


def test_part_of_a_graph_is_a_model_with_the_same_weights():
    x = layers.Input((6,))
    h = layers.Dense(4, "relu")(x)
    whole = Model(x, layers.Dense(2)(h), seed=1)
    features = Model(x, h)
    assert features.parameters() == whole.parameters()[:2]
    assert features.predict(X, verbose=0).shape == (50, 4)


def test_output_within_a_chain_is_returned():
    x = layers.Input((6,))
    h = layers.Dense(4, "relu")(x)
    y = layers.Dense(2)(h)
    whole = Model(x, [h, y], seed=1)
    found = whole.predict(X, verbose=0)
    for output, ours in zip((h, y), found, strict=True):
        np.testing.assert_allclose(Model(x, output).predict(X, verbose=0), ours, rtol=1e-6)


def test_several_outputs_are_predicted_but_not_drawn():
    model = network(layers, Model)
    first, second = model.predict(inputs(), batch_size=2, verbose=0)
    assert (first.shape, second.shape) == ((5, 3), (5, 4))
    assert model.output_shape == [(None, 3), (None, 4)]
    with pytest.raises(ValueError, match="predict: expected a model with one output to draw"):
        model.predict(inputs(), samples=2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([X], r"an array for each of the inputs \['left', 'input_layer'\], got a list of 1"),
        ({"left": X, "right": X}, r"got keys \['left', 'right'\]"),
        ([X, X[:, :5]], r"samples of shape \(6,\) for input_layer, got shape \(50, 5\)"),
        ([X, X[:49]], r"expected \(50,\) samples .* for input_layer, got shape \(49, 6\)"),
    ],
)
def test_inputs_that_do_not_fit_are_rejected(x, message):
    model = pair()
    before = bits(model)
    for use in (lambda: model.fit(x, TARGETS), lambda: model.predict(x), lambda: model(x)):
        with pytest.raises(ValueError, match=message):
            use()
    assert bits(model) == before


# ------------------------------------------------------------------------------ errors


def test_graph_that_depends_on_another_input_is_rejected():
    a, b = layers.Input((3,)), layers.Input((3,), name="other")
    y = layers.Add()([layers.Dense(3, name="dense_a")(a), b])
    with pytest.raises(ValueError, match="functional: expected a connected graph, but add depends"):
        Model(a, y)
    with pytest.raises(ValueError, match="expected inputs that the outputs depend on, got other"):
        Model([a, b], layers.Dense(2)(a))


def test_wrong_arguments_of_a_graph_are_rejected():
    x = layers.Input((3,))
    y = layers.Dense(2)(x)
    with pytest.raises(TypeError, match="functional: expected inputs of Input, got <Symbol"):
        Model(y, layers.Dense(2)(y))
    with pytest.raises(TypeError, match="expected outputs that layers return for symbols, got <In"):
        Model(x, x)
    with pytest.raises(ValueError, match="expected inputs and outputs, each input once"):
        Model([x, x], y)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'outputs'"):
        Model(inputs=x)
    with pytest.raises(TypeError, match="dense: expected one symbol, got a list"):
        layers.Dense(2, name="dense")([x, y])
    with pytest.raises(TypeError, match="add: expected symbols, got a ndarray among them"):
        layers.Add()([x, np.ones((1, 3))])
    with pytest.raises(TypeError, match="dropout: expected a call on symbols without training"):
        layers.Dropout(0.5)(x, training=True)


def test_layer_that_is_called_on_other_shapes_is_rejected_and_stays_unbuilt():
    a, b = layers.Input((3,)), layers.Input((4,))
    shared = layers.Dense(2)
    outputs = layers.Add()([shared(a), shared(b)])
    with pytest.raises(ValueError, match="dense: expected 3 features in the last axis, got"):
        Model([a, b], outputs)
    assert not shared.built
    assert shared.placement is None


def test_symbolic_call_leaves_the_layer_unbuilt():
    layer = layers.Dense(2)
    symbol = layer(layers.Input((3,)))
    assert (symbol.shape, repr(symbol)) == ((None, 2), "<Symbol (None, 2) of dense>")
    assert not layer.built
    assert layer.parameters() == []


def test_long_chain_is_a_model():
    x = y = layers.Input((2,))
    for _ in range(400):
        y = layers.ReLU()(y)
    model = Model(x, y)
    assert len(model.layers) == 400
    assert copy.deepcopy(model)(np.ones((1, 2))).shape == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["outputs"].__setitem__(0, 99),
        lambda d: d["outputs"].__setitem__(0, 0),
        lambda d: d["calls"][0].__setitem__(0, -1),
        lambda d: d["calls"][0].__setitem__(1, [7]),
        lambda d: d["calls"][0].__setitem__(1, ["a"]),
        lambda d: d["calls"][0].__setitem__(3, 2**40),
        lambda d: d["inputs"][0].__setitem__(1, [2**30]),
        lambda d: d.pop("calls"),
    ],
)
def test_description_of_no_graph_is_rejected(change):
    from minidl.formats.description import Builder, describe

    described = describe(small())
    assert isinstance(Builder().build(copy.deepcopy(described), object), models.Functional)
    change(described)
    with pytest.raises((ValueError, LookupError, TypeError)):
        Builder().build(described, object)


# ------------------------------------------------------------------------------ weights and files


def test_summary_shows_inputs_connections_and_rates():
    printed = []
    residual(1).summary(print_fn=printed.append, show_trainable=True, show_rates=True)
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in printed[0].splitlines()]
    assert [row for row in rows if row] == [
        ["input_layer (Input)", "(None, 6)", "0", "-", "-", "-"],
        ["dense (Dense)", "(None, 8)", "56", "Y", "-", "input_layer"],
        ["dense_1 (Dense)", "(None, 8)", "72", "Y", "-", "dense"],
        ["dropout (Dropout)", "(None, 8)", "0", "-", "0.25", "dense_1"],
        ["dense_2 (Dense)", "(None, 8)", "72", "Y", "-", "dropout"],
        ["drop_path (DropPath)", "(None, 8)", "0", "-", "0.2", "dense_2"],
        ["add (Add)", "(None, 8)", "0", "-", "-", "dense, drop_path"],
        ["dense_3 (Dense)", "(None, 3)", "27", "Y", "-", "add"],
    ]


def test_get_layer_finds_by_name_and_by_index():
    model = residual(1)
    assert model.get_layer("add") is model.get_layer(index=5) is model.layers[5]
    assert model.get_layer(index=-1).label == "dense_3"
    for arguments in ({}, {"name": "add", "index": 5}, {"name": "conv"}, {"index": 7}):
        with pytest.raises(ValueError, match=r"^functional: get_layer: expected a name of dense, "):
            model.get_layer(**arguments)


def test_frozen_layers_keep_their_weights(tmp_path):
    model = small(seed=1)
    model.layers[0].trainable = False
    assert (model.layers[0].trainable, model.trainable) == (False, True)
    before = model.layers[0].get_weights()
    model.fit(X, TARGETS, verbose=0)
    assert all((a == b).all() for a, b in zip(model.layers[0].get_weights(), before, strict=True))
    model.save(tmp_path / "frozen.safetensors")
    again = models.load(tmp_path / "frozen.safetensors")
    assert not again.layers[0].trainable
    again.trainable = True
    assert again.layers[0].trainable


def test_layer_is_frozen_before_it_is_built():
    frozen = layers.Dense(3)
    frozen.trainable = False
    model = models.Sequential([frozen, layers.Dense(2)])
    model.build((None, 4))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_statistics_of_a_layer_are_never_trained():
    class Centred(layers.Layer):
        not_trained = ("mean",)

        def build(self, input_shape):
            self.scale = self.add_weight("scale", (1,), "ones")
            self.mean = self.add_weight("mean", (1,), "zeros")

        def call(self, x):
            return (x - self.mean) * self.scale

    layer = Centred()
    layer(np.ones((1, 1)))
    for trainable in (True, False, True):
        layer.trainable = trainable
        assert [p.requires_grad for p in layer.parameters()] == [trainable, False]


def test_layer_weights_are_set_and_got():
    model = small(seed=1)
    layer = model.layers[0]
    assert layer.kernel is layer.weight
    new = [np.full((6, 6), 2.0), np.ones(6)]
    layer.set_weights(new)
    assert all((a == b).all() for a, b in zip(layer.get_weights(), new, strict=True))
    with pytest.raises(ValueError, match=r"dense: set_weights: expected arrays of shapes"):
        layer.set_weights(new[:1])


def test_pop_removes_the_last_layer():
    model = models.Sequential([layers.Dense(4, input_shape=(6,)), layers.Dense(2)])
    weights = model.get_weights()
    popped = model.pop()
    assert (popped.label, model.output_shape) == ("dense_1", (None, 4))
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights[:2], strict=True))
    model.pop()
    with pytest.raises(ValueError, match="sequential: expected a layer to remove"):
        model.pop()


@pytest.mark.parametrize("make", [residual, Residual])
def test_clone_has_initial_weights_and_draws_of_its_own(make):
    model = make(seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.build((None, 6))
    before = bits(model)
    model.fit(X, LABELS, verbose=0)
    after = bits(model)
    clone, other = clone_model(model), clone_model(model, seed=2)
    assert bits(clone) == before
    assert bits(other) != before
    assert bits(model) == after != before
    assert clone.optimizer is None
    assert [stream.step for stream in clone.streams()] == [0] * 4
    assert [stream.seed for stream in other.streams()] == [2] * 4
    assert [stream.number for stream in clone.streams()] == [0, 1, 2, 3]
    assert not set(clone.parameters()) & set(model.parameters())


def test_clone_of_models_within_a_model_has_weights_of_its_own():
    def of_six(*stack):
        return models.Sequential([layers.Input((6,)), *stack])

    model = small(of_six(of_six(layers.Dense(6, "tanh")), layers.Dense(6)))
    before = bits(model)
    clone = clone_model(model)
    clone.compile("sgd", "mse")
    clone.fit(X, TARGETS, verbose=0)
    assert bits(model) == before != bits(clone)
    clone.set_weights(model.get_weights())
    assert (clone.predict(X, verbose=0) == model.predict(X, verbose=0)).all()


# ------------------------------------------------------------------------------ modes


class Mode(layers.Layer):
    def call(self, x, training=None):
        return x * (2.0 if training else 1.0)


def test_call_receives_training():
    model = models.Sequential([Mode()])
    x = np.ones((1, 1))
    assert [model(x, training=t).item() for t in (None, True, False)] == [1, 2, 1]
    assert Mode()(x, training=True).item() == 2


def test_training_argument_switches_dropout_and_keeps_the_step_around_it():
    import minidl

    drop, x = layers.Dropout(0.5, seed=1), np.ones((4, 8))
    assert (drop(x, training=True).numpy() == 0).any()
    with minidl.training(step=7):
        expected = drop(x).numpy()
        assert (drop(x, training=False).numpy() == 1).all()
    with minidl.training(step=7):
        np.testing.assert_array_equal(drop(x, training=True).numpy(), expected)


def test_layer_of_the_user_takes_a_list(tmp_path):
    class Weighted(layers.Layer):
        takes_list = True

        def build(self, input_shape):
            self.factor = self.add_weight("factor", (len(input_shape), 1), "ones")

        def call(self, x):
            return sum(factor * each for factor, each in zip(self.factor, x, strict=True))

    x = layers.Input((6,))
    model = Model(x, Weighted()([x, layers.Dense(6, kernel_initializer="zeros")(x)]))
    np.testing.assert_allclose(model.predict(X, verbose=0), X, rtol=1e-6)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 2,
        lambda x: 2 + x,
        lambda x: np.float32(2) - x,
        lambda x: np.ones(3) * x,
        lambda x: x / x,
        lambda x: -x,
        lambda x: x @ x,
        lambda x: x[:, 0],
        lambda x: np.sqrt(x),
    ],
)
def test_symbol_rejects_other_operations_with_what_to_use(operation):
    for symbol in (layers.Input((3,)), layers.Dense(3)(layers.Input((3,)))):
        with pytest.raises(TypeError, match=r"expected \+, - or \* of two symbols.* Activation\("):
            operation(symbol)


def test_model_of_dictionaries_is_rejected_with_what_to_use():
    x = layers.Input((3,))
    with pytest.raises(TypeError, match=r"expected inputs of Input.* Use a list of them\.$"):
        Model({"x": x}, layers.Dense(1)(x))
    with pytest.raises(TypeError, match=r"expected outputs that layers.* Use a list of them; "):
        Model(x, {"y": layers.Dense(1)(x)})
