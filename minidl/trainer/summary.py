"""Summary table of a model, in the form of Keras."""

import math
from collections.abc import Sequence
from typing import Any

from minidl import notebooks
from minidl.engine.parameter import Parameter
from minidl.layers.base import Layer

HEADINGS = ("Layer (type)", "Output Shape", "Param #")


def summary_table(name: str, layers: Sequence[Layer], parameters: Sequence[Parameter]) -> str:
    """Return the table of a model: layers, output shapes and numbers of weights."""
    rows = [HEADINGS, *map(_row, layers)]
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))

    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * (width + 2) for width in (first, second, third)) + right

    lines = [f'Model: "{name}"', rule("┏", "━", "┳", "┓")]
    for index, (label, shape, size) in enumerate(rows):
        edge = "│" if index else "┃"
        cells = (f" {label:<{first}} ", f" {shape:<{second}} ", f" {size:>{third}} ")
        lines.append(f"{edge}{edge.join(cells)}{edge}")
        lines.append(rule("├", "─", "┼", "┤") if index else rule("┡", "━", "╇", "┩"))
    lines[-1] = rule("└", "─", "┴", "┘")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for title, group in (("Total", parameters), ("Trainable", trained), ("Non-trainable", frozen)):
        count = sum(math.prod(parameter.shape) for parameter in group)
        content = sum(math.prod(p.shape) * p.dtype.itemsize for p in group)
        lines.append(f" {title} params: {count:,} ({_readable(content)})")
    return "\n".join(lines)


def _readable(size: float) -> str:
    """Return a number of bytes in the units of Keras, powers of 1,024."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GB"


def summary_html(name: str, layers: Sequence[Layer], parameters: Sequence[Parameter]) -> str:
    """Return the table of a model for notebooks, with the rates of dropout."""
    rows = [(*_row(layer), rate_of(layer)) for layer in layers]
    trained = sum(parameter.size for parameter in parameters if parameter.requires_grad)
    count = sum(parameter.size for parameter in parameters)
    note = f"{count:,} weights, {trained:,} of them trained"
    return notebooks.table(name, (*HEADINGS, "Rate"), rows, note)


def _row(layer: Layer) -> tuple[str, str, str]:
    label = f"{layer.label} ({type(layer).__name__})"
    size = f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"
    return label, str(layer.output_shape or "?"), size


def rate_of(layer: Any) -> str:
    """Return the cell with the present rate of a layer of dropout."""
    if getattr(layer, "rate", None) is None:
        return "-"
    return f"{getattr(layer, 'learned_rate', None) or layer.rate_at(layer.step):g}"
