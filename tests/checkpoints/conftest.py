"""Fixtures of the tests of checkpoints."""

import pytest
from checkpoint_cases import FIT, X, Y, network


@pytest.fixture
def path(tmp_path):
    """Return the path of a checkpoint that does not exist yet."""
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="module")
def whole():
    """Return a model after an uninterrupted run; do not change it."""
    model = network()
    model.fit(X, Y, **FIT)
    return model


@pytest.fixture(scope="module")
def trained_content(tmp_path_factory):
    """Return the bytes of a checkpoint after one epoch."""
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1})
    model.save(path)
    return path.read_bytes()


@pytest.fixture
def trained(path, trained_content):
    """Return the path of a checkpoint after one epoch."""
    path.write_bytes(trained_content)
    return path
