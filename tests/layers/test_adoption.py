"""Adoption of layers by a model: names, stream numbers, placements, and plans that raise."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, get_backend, layers, models, rng
from minidl.layers import Parameter, adoption
from minidl.layers.placement import Placement
from minidl.rng import RandomStream

X = np.ones((2, 3))


def dropout(**arguments):
    return layers.Dropout(0.5, **arguments)


def numbers_of(layer):
    return [stream.number for stream in layer.streams()]


def names_of(model):
    return [layer.name for layer in model.walk() if layer is not model]


def drawn_from(model):
    """Return the model after a call in training mode, which fixes its stream numbers."""
    with minidl.training(step=0):
        model(X)
    return model


class TwoDraws(layers.Layer):
    """A layer that draws twice in each call."""

    def __init__(self, first=None, second=None):
        super().__init__()
        self.drop, self.shift = RandomStream(number=first), [RandomStream(number=second)]

    def call(self, x):
        if rng.is_training():
            for stream in (self.drop, *self.shift):
                stream.next_address(x.shape)
        return x


# ------------------------------------------------------------------------------ names


def test_layers_get_unique_names():
    model = models.Sequential(
        [layers.Dense(2), layers.Dense(2, name="dense_1"), layers.Dense(2), layers.ReLU()]
    )
    assert names_of(model) == ["dense", "dense_1", "dense_2", "re_lu"]


def test_assigned_name_does_not_take_a_given_one():
    model = models.Sequential([layers.Dense(2), layers.ReLU(name="dense"), layers.Dense(2)])
    assert names_of(model) == ["dense_1", "dense", "dense_2"]


def test_two_layers_given_one_name_are_rejected():
    with pytest.raises(ValueError, match=r"layers: expected unique names.*'a'"):
        models.Sequential([layers.ReLU(name="a"), layers.ReLU(name="a")])


def test_names_of_nested_models_change_with_their_weights():
    inside = [models.Sequential([layers.Dense(2, input_shape=(3,))]), models.Sequential([])]
    inside[1].add(layers.Dense(2, input_shape=(2,)))
    model = models.Sequential(inside)
    model(np.zeros((1, 3)))
    assert names_of(model) == ["sequential", "dense", "sequential_1", "dense_1"]
    assert [p.name for p in model.parameters()] == [
        "dense/weight",
        "dense/bias",
        "dense_1/weight",
        "dense_1/bias",
    ]


def test_names_do_not_change_when_layers_are_added():
    model = models.Sequential([layers.Dense(2), layers.ReLU()])
    model.add(layers.Dense(2))
    assert names_of(model) == ["dense", "re_lu", "dense_1"]


# ------------------------------------------------------------------------------ stream numbers


def test_streams_are_numbered_depth_first():
    inside = models.Sequential([layers.Dense(3), dropout(), dropout()])
    assert numbers_of(models.Sequential([dropout(), inside, dropout()])) == [0, 1, 2, 3]


def test_streams_of_subclass_are_found_in_attributes_lists_and_dictionaries():
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.first = dropout()
            self.several = [dropout(), (dropout(), {"a": dropout()})]
            self.last = dropout()

        def call(self, x):
            return self.last(self.several[1][1]["a"](self.first(x)))

    net = Net()
    net(X)
    assert numbers_of(net) == [0, 1, 2, 3, 4]


def test_layer_with_two_streams_has_two_numbers():
    assert numbers_of(models.Sequential([dropout(), TwoDraws(), dropout()])) == [0, 1, 2, 3]


def test_stream_shared_by_two_layers_has_one_number():
    first, second = TwoDraws(), TwoDraws()
    second.drop = first.drop
    assert numbers_of(models.Sequential([first, second, dropout()])) == [0, 1, 2, 3]
    assert first.drop.number == 0


def test_given_number_is_kept_and_others_avoid_it():
    assert numbers_of(models.Sequential([dropout(), dropout(), dropout(stream=1)])) == [0, 2, 1]
    assert numbers_of(models.Sequential([dropout(stream=0), dropout()])) == [0, 1]
    assert numbers_of(models.Sequential([TwoDraws(second=0), dropout(), TwoDraws()])) == [
        *(1, 0, 2, 3, 4),
    ]


@pytest.mark.parametrize(
    "pair",
    [
        lambda: [dropout(stream=4), dropout(stream=4)],
        lambda: [dropout(stream=4), TwoDraws(second=4)],
        lambda: [TwoDraws(4, 4)],
        lambda: [dropout(stream=4), dropout(stream=4, seed=0)],  # the seed of the model
    ],
)
def test_two_streams_given_one_number_are_rejected(pair):
    with pytest.raises(ValueError, match=r"layers: expected unique random streams, got stream 4 "):
        models.Sequential(pair())


def test_error_about_one_number_names_both_layers():
    with pytest.raises(ValueError, match=r"stream 4 in first and in second"):
        models.Sequential([dropout(stream=4, name="first"), dropout(stream=4, name="second")])


def test_one_number_with_two_seeds_is_accepted():
    model = models.Sequential([dropout(stream=4, seed=1), dropout(stream=4, seed=2), dropout()])
    assert numbers_of(model) == [4, 4, 0]


def test_numbers_do_not_change_when_layers_are_added():
    model = models.Sequential([dropout()])
    model.add(models.Sequential([dropout(), dropout()]))
    before = numbers_of(model)
    model.add(dropout())
    assert (before, numbers_of(model)) == ([0, 1, 2], [0, 1, 2, 3])


def test_shared_layer_has_one_number_and_one_name():
    shared = dropout()
    model = models.Sequential([shared, layers.ReLU(), shared, dropout()])
    assert numbers_of(model) == [0, 1]
    assert names_of(model) == ["dropout", "re_lu", "dropout_1"]


def test_stream_that_drew_before_adoption_keeps_its_number():
    alone = dropout(seed=7)
    with minidl.training(step=0):
        alone(Tensor(X))
    assert numbers_of(models.Sequential([alone, dropout(seed=7)])) == [0, 1]
    alone = dropout(seed=7, stream=5)
    assert numbers_of(models.Sequential([dropout(), alone])) == [0, 5]


# ------------------------------------------------------------------------------ nested models


def test_numbers_of_nested_model_change_before_its_first_draw():
    inside = models.Sequential([dropout()])
    assert numbers_of(inside) == [0]
    assert numbers_of(models.Sequential([dropout(), inside, dropout()])) == [0, 1, 2]


def test_numbers_of_nested_model_stay_after_its_first_draw():
    inside = drawn_from(models.Sequential([dropout()]))
    assert numbers_of(models.Sequential([dropout(), inside, dropout()])) == [1, 0, 2]


@pytest.mark.parametrize("is_nested", [True, False])
def test_models_that_drew_from_one_stream_keep_their_draws(is_nested):
    used = [drawn_from(models.Sequential([dropout()])) for _ in range(3)]
    parts = used if is_nested else [layer for model in used for layer in model.layers]
    model = models.Sequential([dropout(), *parts])
    assert numbers_of(model) == [1, 0, 0, 0]
    assert {stream.seed for stream in model.streams()} == {0}


@pytest.mark.parametrize("make", [lambda: dropout(stream=0), lambda: TwoDraws(first=0)])
def test_stream_given_a_number_that_has_drawn_elsewhere_is_rejected(make):
    used = drawn_from(models.Sequential([dropout()]))
    for parts in ([used, make()], [make(), used]):
        with pytest.raises(ValueError, match=r"got stream 0 in .* and in .*another seed"):
            models.Sequential(parts)


@pytest.mark.parametrize(("has_drawn", "seed"), [(True, 5), (False, 0)])
def test_nested_model_keeps_its_seed_after_its_first_draw_only(has_drawn, seed):
    inner = models.Sequential([dropout()], seed=5)
    if has_drawn:
        drawn_from(inner)
    outer = models.Sequential([inner])
    assert kept_by(outer) == mask(seed=seed, stream=0)


def test_nested_layers_belong_to_the_outermost_model():
    inner = models.Sequential([dropout()])
    middle = models.Sequential([inner])
    outer = models.Sequential([middle, dropout()], seed=3)
    assert {layer.placement.owner for layer in outer.walk()} == {outer}
    assert {stream.seed for stream in outer.streams()} == {3}


# ------------------------------------------------------------------------------ foreign layers


def kept_by(model):
    """Return which outputs of a model are kept in training."""
    with minidl.training(step=0):
        return (model(np.ones((4, 6))).numpy() != 0).tolist()


def mask(**address):
    return rng.keep_mask((4, 6), 0.5, step=0, **address).tolist()


def test_layer_of_another_model_keeps_its_draws():
    shared = dropout()
    first = models.Sequential([layers.Flatten(), shared])
    second = models.Sequential([layers.Flatten(), shared], seed=9)
    assert repr(first.layers[1]) == repr(second.layers[1])
    assert kept_by(first) == mask(seed=0, stream=0)
    assert kept_by(second) == mask(seed=0, stream=0)


def test_layer_of_another_model_keeps_its_name_and_number():
    shared = dropout()
    first = models.Sequential([shared])
    second = models.Sequential([dropout(), layers.ReLU(), shared])
    assert names_of(second) == ["dropout_1", "re_lu", "dropout"]
    assert numbers_of(second) == [1, 0]
    assert shared.placement is first.placement


def test_layers_of_two_models_with_one_stream_are_rejected():
    parts = [models.Sequential([layers.Dense(4), dropout()]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"expected unique random streams, got stream 0 "):
        models.Sequential([*parts[0].layers, *parts[1].layers])


def test_unbuilt_layer_of_a_model_elsewhere_is_rejected():
    layer = layers.Dense(2)
    models.Sequential([layer], dtype="float64")
    with pytest.raises(ValueError, match=r"^sequential: .*dense.*float32.*float64"):
        models.Sequential([layer])


def test_layer_built_with_another_dtype_is_rejected():
    layer = layers.Dense(2, kernel_initializer="ones", name="built")
    layer(Tensor(X.astype("float32")))
    with pytest.raises(ValueError, match=r"^sequential: expected built/weight .*float64.*float32"):
        models.Sequential([layer], dtype="float64")


def test_layer_built_on_another_device_is_rejected(cuda_double):
    layer = layers.Dense(2, kernel_initializer="ones", name="built")
    layer(Tensor(X.astype("float32")))
    with pytest.raises(ValueError, match=r"^sequential: expected built/weight .*cuda:0.*cpu"):
        models.Sequential([layer], device="cuda")


# ------------------------------------------------------------------------------ plans that raise


class Holder(layers.Layer):
    """A layer with layers below."""

    def __init__(self, *below):
        super().__init__()
        self.below = list(below)

    def call(self, x):
        for layer in self.below:
            x = layer(x)
        return x


def built(layer):
    layer(Tensor(X.astype("float32")))
    return layer


def identity_of(layers_below, placement):
    """Return all that adoption may change."""
    parameters = [p for layer in layers_below for p in layer.held(Parameter)]
    streams = [stream for layer in layers_below for stream in layer.held(RandomStream)]
    return (
        [(layer.name, layer.name_is_given, layer.placement) for layer in layers_below],
        [(parameter.name, parameter.stream) for parameter in parameters],
        [vars(stream).copy() for stream in streams],
        set(placement.weight_streams),
    )


def new_placement(owner=None):
    return Placement(get_backend("cpu"), np.dtype("float32"), seed=3, owner=owner)


# What adoption rejects, with a part of the error.
REJECTED = {
    "names": (
        lambda: [layers.ReLU(name="a"), layers.ReLU(name="a")],
        "unique names.*'a'",
    ),
    "streams": (
        lambda: [dropout(stream=7, name="b"), dropout(stream=7, name="c")],
        "stream 7 in b and in c",
    ),
    "streams of one layer": (
        lambda: [TwoDraws(7, 7)],
        "stream 7 in two_draws",
    ),
    "stream of a foreign layer": (
        lambda: [dropout(stream=0, seed=9), models.Sequential([dropout()], seed=9).layers[0]],
        "stream 0 in dropout",
    ),
    "name of a foreign layer": (
        lambda: [layers.ReLU(name="a"), models.Sequential([layers.ReLU(name="a")]).layers[0]],
        "unique names.*'a'",
    ),
    "dtype": (
        lambda: [OtherDtype()],
        "expected other/weight .*float32.*float64",
    ),
    "foreign dtype": (
        lambda: [models.Sequential([layers.Dense(2)], dtype="float64").layers[0]],
        "expected dense .*float32.*float64",
    ),
}


class OtherDtype(layers.Layer):
    """A layer that holds a float64 weight."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(np.ones(3), get_backend("cpu"), "other/weight", 5)

    def call(self, x):
        return x


@pytest.mark.parametrize("case", REJECTED)
def test_rejected_plan_changes_nothing(case):
    make, message = REJECTED[case]
    below = [
        dropout(),
        built(layers.Dense(2, kernel_initializer="ones")),
        models.Sequential([dropout(), TwoDraws()]),
        TwoDraws(),
        *make(),
    ]
    model = Holder(*below)
    placement = new_placement(owner=model)
    found = [layer for layer in model.walk() if layer is not model]
    before = identity_of(found, placement)
    with pytest.raises(ValueError, match=message):
        adoption.adopt(model, placement)
    assert identity_of(found, placement) == before


def test_accepted_plan_names_numbers_and_places_all_layers():
    below = [dropout(), built(layers.Dense(2, kernel_initializer="ones")), TwoDraws(), dropout()]
    model = Holder(*below)
    placement = new_placement(owner=model)
    adoption.adopt(model, placement)
    assert names_of(model) == ["dropout", "dense", "two_draws", "dropout_1"]
    assert numbers_of(model) == [0, 1, 2, 3]
    assert all(layer.placement is placement for layer in below)
    assert {stream.seed for stream in model.streams()} == {3}
    assert placement.weight_streams == {p.stream for p in model.parameters()}


def test_adoption_a_second_time_changes_nothing():
    model = Holder(dropout(), TwoDraws(), built(layers.Dense(2, kernel_initializer="ones")))
    placement = new_placement(owner=model)
    adoption.adopt(model, placement)
    before = identity_of(model.below, placement)
    adoption.adopt(model, placement)
    assert identity_of(model.below, placement) == before


def test_model_call_that_raises_in_adoption_changes_nothing():
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.below = [dropout(), layers.Dense(2), dropout(stream=3), dropout(stream=3)]

        def call(self, x):
            return x

    net = Net()
    before = identity_of(net.below, net.placement)
    for _ in range(2):
        with pytest.raises(ValueError, match="stream 3"):
            net(X)
    assert identity_of(net.below, net.placement) == before


# ------------------------------------------------------------------------------ equal names


def block(name, *stack):
    return models.Sequential(list(stack), name=name)


def part(name, *below):
    return layers.Dense(3, name=name)


def weight_names(model):
    return [parameter.name for parameter in model.parameters()][::2]


def test_layers_of_different_models_may_have_one_name():
    model = block("net", part("a"), block("b", part("a")), block("c", block("d", part("a"))))
    model(X)
    assert weight_names(model) == ["a/weight", "b/a/weight", "c/d/a/weight"]


def test_unique_names_have_no_prefix_in_nested_models():
    model = block("net", block("b", part("a"), part("own")), block("c", part("a")))
    model(X)
    assert weight_names(model) == ["b/a/weight", "own/weight", "c/a/weight"]


def test_weights_are_renamed_if_a_later_layer_has_the_name():
    model = block("net", block("b", part("a")))
    model(X)
    assert weight_names(model) == ["a/weight"]
    model.add(block("c", part("a")))
    model(X)
    assert weight_names(model) == ["b/a/weight", "c/a/weight"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: block("net", part("a"), part("a")),
        lambda: block("net", block("b", part("a"), part("a"))),
        lambda: block("net", block("b", part("a")), block("b", part("a"))),
        lambda: block("net", block("b", part("a")), part("a"), layers.ReLU(name="b/a")),
    ],
)
def test_equal_names_within_one_model_are_rejected(make):
    with pytest.raises(ValueError, match=r"unique names, got two layers named '(a|b|b/a)'"):
        make()


def test_assigned_names_stay_unique_in_nested_models():
    model = block("net", part("dense"), block("b", layers.Dense(3)), block("c", part("dense")))
    model(X)
    assert weight_names(model) == ["dense/weight", "dense_1/weight", "c/dense/weight"]
