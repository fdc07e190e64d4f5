"""Optimizers, schedules, regularizers and constraints, compared with numbers that Keras computed.

`keras_answers.json` was recorded with Keras 3.15.1 and its PyTorch backend on 2026-11-27 by
``keras_answers.py``. Its numbers are float64, but Keras computes some of them in float32: learning
rates, and what a maximum with a number returns.
"""

import json

import keras_answers
import numpy as np
import pytest
from keras_answers import CONSTRAINTS, OPTIMIZERS, RATE_STEPS, REGULARIZERS, SCHEDULES, STEPS

from minidl import Tensor, constraints, layers, models, optimizers, regularizers
from minidl.engine.parameter import Parameter
from minidl.optimizers import schedules

ANSWERS = json.loads(keras_answers.FILE.read_text())
FLOAT32 = {"rtol": 1e-6, "atol": 1e-7}
FLOAT64 = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_updates_agree(name, backend):
    kind, options, patterns = OPTIMIZERS[name]
    parameters = [
        Parameter(keras_answers.numbers(shape, n), backend, name, n)
        for n, (name, shape) in enumerate(keras_answers.SHAPES.items())
    ]
    optimizer = getattr(optimizers, kind)(**options)
    optimizer.exclude_from_weight_decay(var_names=patterns)
    for step in range(STEPS):
        for parameter in parameters:
            gradient = keras_answers.numbers(parameter.shape, 100 + step)
            parameter.grad = Tensor(gradient, device=parameter.device)
        optimizer.update(parameters)
    for parameter, expected in zip(parameters, ANSWERS["optimizers"][name], strict=True):
        tolerance = FLOAT32 if {"clipnorm", "global_clipnorm"} & set(options) else FLOAT64
        np.testing.assert_allclose(parameter.numpy(), expected, **tolerance)


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_agree(name):
    kind, arguments, options = SCHEDULES[name]
    schedule = getattr(schedules, kind)(*arguments, **options)
    found = [schedule(step) for step in RATE_STEPS]
    np.testing.assert_allclose(found, ANSWERS["schedules"][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_penalties_of_a_hundred_weights_agree(name, device):
    found = [
        regularizers.get(name if name.islower() else getattr(regularizers, kind)(**options))(
            Tensor(weight, device=device)
        ).item()
        for kind, options in [REGULARIZERS[name]]
        for weight in keras_answers.weights()
    ]
    np.testing.assert_allclose(found, ANSWERS["regularizers"][name], rtol=1e-12)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constrained_weights_agree(name, backend):
    constraint = getattr(constraints, name.split("_")[0])(**CONSTRAINTS[name])
    found = []
    for weight in keras_answers.weights():
        array = backend.copied(weight)
        constraint.apply(array, backend)
        found.append((backend.to_numpy(array) * (1 + np.arange(12).reshape(3, 4))).sum())
    np.testing.assert_allclose(found, ANSWERS["constraints"][name], **FLOAT32)


def test_loss_and_validation_loss_of_a_regularised_training_agree(device):
    penalised = {
        "kernel_regularizer": regularizers.L2(0.05),
        "bias_regularizer": regularizers.L1L2(0.01, 0.02),
    }
    model = models.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(3, "tanh", **penalised),
            layers.Dense(2, kernel_regularizer="l1", bias_constraint="non_neg"),
        ],
        device=device,
        dtype="float64",
        seed=0,
    )
    shapes = [weight.shape for weight in model.get_weights()]
    model.set_weights([keras_answers.numbers(shape, n) for n, shape in enumerate(shapes)])
    model.compile(optimizers.SGD(0.1), "mse")
    x, y, *validation = keras_answers.samples()
    found = model.fit(
        x, y, batch_size=12, epochs=STEPS, validation_data=tuple(validation), verbose=0
    )
    expected = ANSWERS["training"]
    assert found.history.keys() == expected["history"].keys()
    for name, values in expected["history"].items():
        np.testing.assert_allclose(found.history[name], values, **FLOAT32)
    for weight, values in zip(model.get_weights(), expected["weights"], strict=True):
        np.testing.assert_allclose(weight, values, **FLOAT32)
