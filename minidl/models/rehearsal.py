"""Rehearsal of building: a copy of a model in which errors leave no trace.

Building creates weights layer by layer, and any layer may raise. So a model is first built as a
copy, with zeros for weights. If that works, the model itself is built.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from minidl.engine.parameter import Parameter
from minidl.layers.base import Layer

AnyModel = TypeVar("AnyModel", bound=Layer)


def copied(model: AnyModel, layers: Sequence[Layer] = ()) -> tuple[AnyModel, list[Layer]]:
    """Return copies of a model and of layers, in which new weights are zeros.

    The copy of a nested model is within a copy of its outermost model. The arrays of existing
    weights, the optimizer, and other models that layers belong to are shared, not copied.

    Parameters
    ----------
    model : Model
        The model.
    layers : sequence of Layer
        Layers that shall be added to it.
    """
    assert model.placement is not None, "a model has a placement"
    outermost = model.placement.owner
    below = [layer for top in (outermost, *layers) for layer in top.walk()]
    memo: dict[int, Any] = {id(outermost.optimizer): outermost.optimizer}
    for layer in below:
        memo |= {id(weight): copy.copy(weight) for weight in layer.held(Parameter)}  # of one array
        place = layer.placement
        if place is not None and place.owner not in below:  # a layer of another model
            memo[id(place)] = replace(place, weight_streams=place.weight_streams.copy())
    outer_copy, model_copy, layer_copies = copy.deepcopy((outermost, model, list(layers)), memo)
    outer_copy.placement.initial_values = lambda name, shape: np.zeros(shape)
    return model_copy, layer_copies
