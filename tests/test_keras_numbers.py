"""Losses and metrics: agreement with Keras on 100 random inputs each."""

import json

import numpy as np
import pytest
from keras_numbers import INPUTS, LOSSES, METRICS, RECORD, loss_values, metric_values

import minidl
from minidl import Tensor

ANSWERS = json.loads(RECORD.read_text())


def test_record_has_every_case():
    assert set(ANSWERS["losses"]) == set(LOSSES)
    assert set(ANSWERS["metrics"]) == set(METRICS)
    assert all(len(v) == INPUTS for part in ("losses", "metrics") for v in ANSWERS[part].values())


@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_that_of_keras(name):
    make, data = LOSSES[name]
    found = loss_values(make(minidl), data, Tensor)
    # Keras rounds the last step to float32.
    np.testing.assert_allclose(found, ANSWERS["losses"][name], rtol=2e-7)


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_that_of_keras(name):
    make, data = METRICS[name]
    found = metric_values(lambda: make(minidl), data, Tensor)
    # Keras computes parts in float32, and adds 1e-7 to some divisors.
    np.testing.assert_allclose(found, ANSWERS["metrics"][name], rtol=5e-6, atol=1e-7)
