"""Clones of models: the same layers with new weights."""

import copy

from minidl import rng
from minidl.alternatives import keras_defaults
from minidl.layers.placement import Placement
from minidl.models.model import Model
from minidl.trainer.state import TrainState


@keras_defaults(input_tensors=None, clone_function=None)
def clone_model(model: Model, *, seed: int | None = None) -> Model:
    """Return a model of the same layers with initial weights, not compiled.

    Parameters
    ----------
    model : Model
        The model, which stays as it is.
    seed : int, optional
        The seed of the clone. If None, it is that of `model`, and the initial weights are equal;
        those of models within it need not be, since they may have had another seed.

    Examples
    --------
    >>> from minidl import layers, models
    >>> model = models.Sequential([layers.Dense(2, input_shape=(3,))])
    >>> clone = clone_model(model, seed=1)
    >>> bool((clone.get_weights()[0] == model.get_weights()[0]).any())
    False
    """
    if not isinstance(model, Model):
        raise TypeError(f"clone_model: expected a Model, got a {type(model).__name__}.")
    seed = model.seed if seed is None else rng.checked_integer("clone_model: seed", seed, 2**64)
    twin = copy.deepcopy(model)
    for layer in twin.walk():
        layer.placement = None
        layer.built, layer.built_for, layer.output_shape = False, None, None
        layer._weight_names = ()
    for stream in twin.streams():
        own_seed = None if stream.own_seed == model.seed else stream.own_seed
        stream.restore(seed=own_seed, number=stream.number, is_fixed=False)
        stream.step = 0
    twin.placement = Placement(model.backend, model.dtype, seed, owner=twin)
    for layer in twin.walk():
        if isinstance(layer, Model):
            layer.placement = twin.placement  # which has the device of the state
            layer.train_state = TrainState(layer)
    if model.built_for is not None:
        twin._trace(model.built_for)
    return twin
