"""Playground page: template, style, scripts and network in one file that needs no network."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from minidl.commands.playground.examples import SAMPLES, check_images, examples
from minidl.commands.playground.network import (
    check_network,
    default_white,
    described_layers,
    expectation,
    packed_weights,
)
from minidl.models import Model
from minidl.storage.atomic import PathLike, write_atomically

SCRIPTS = ("mask_contract", "network", "drawing", "views", "batch_view", "controls")


def write(
    path: PathLike, model: Model, x: np.ndarray, y: np.ndarray, *, white: float | None = None
) -> None:
    """Write the page of a network atomically: one file, for any browser.

    Parameters
    ----------
    path : path
        The file.
    model : Model
        The network: see `check_network`.
    x : numpy.ndarray
        Test images, from which the page takes its examples: uint8, shape (images, 28, 28).
    y : numpy.ndarray
        Their digits, shape (images,).
    white : float, optional
        The network's input for a white pixel. Default: 255 if the network has a `Rescaling`,
        otherwise 1.

    Raises
    ------
    ValueError
        If the page cannot show the network or the images, or `white` is not above 0.
    OSError
        If the file cannot be written.
    """
    write_atomically(path, page_of(model, x, y, white=white).encode())


def page_of(model: Model, x: np.ndarray, y: np.ndarray, *, white: float | None = None) -> str:
    """Return the page; parameters and errors are those of `write`."""
    check_network(model)
    check_images(x, y)
    white = default_white(model) if white is None else white
    if not 0 < white < np.inf:
        raise expectation("white above 0", f"{white!r:.80}", "Pass 255, or 1 after x / 255.")
    network = {
        "samples": SAMPLES,
        "layers": described_layers(model, white),
        "examples": examples(model, x, y, white),
    }
    return assembled(network, base64.b64encode(packed_weights(model)).decode())


def assembled(network: Mapping[str, Any], weights: str) -> str:
    """Return the page of a described network and its weights in base64.

    The policy in the page allows nothing but its own style and scripts, named by their hashes:
    no request leaves it.
    """
    style = source("page.css")
    scripts = [source(f"{name}.js") for name in SCRIPTS]
    policy = [
        "default-src 'none'",
        f"style-src {hashed(style)}",
        f"script-src {' '.join(map(hashed, scripts))}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    parts = {
        "POLICY": "; ".join(policy),
        "STYLE": style,
        # "</script" would end the element.
        "NETWORK": json.dumps(network).replace("<", r"\u003c"),
        "WEIGHTS": weights,
        "SCRIPTS": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], source("page.html"))


def source(name: str) -> str:
    """Return the text of a file of this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def hashed(text: str) -> str:
    """Return the hash of an inline style or script as a source of a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
