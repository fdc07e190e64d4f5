"""Callbacks act at the moments, stop in the epochs and write the files that those of Keras do."""

import json

import pytest
from record_keras_callbacks import PLACE, answers

from minidl import callbacks, layers, models


def make():
    model = models.Sequential([layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module")
def found():
    return answers(make, callbacks, ".safetensors")


EXPECTED = json.loads(PLACE.read_text())


@pytest.mark.parametrize("part", EXPECTED)
def test_callbacks_do_what_those_of_keras_do(part, found):
    assert found[part] == EXPECTED[part]
