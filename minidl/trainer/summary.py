"""Summary table of a model, in the form of Keras."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidl import notebooks
from minidl.engine.parameter import Parameter
from minidl.layers.base import Layer

HEADINGS = ("Layer (type)", "Output Shape", "Param #")
Columns = Mapping[str, Callable[[Layer], str]]  # cells of layers, by heading


def summary_table(
    name: str, layers: Sequence[Layer], parameters: Sequence[Parameter], columns: Columns
) -> str:
    """Return the table of a model: layers, output shapes, numbers of weights, and more columns."""
    rows = _rows(layers, columns)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * (width + 2) for width in widths) + right

    lines = [f'Model: "{name}"', rule("┏", "━", "┳", "┓")]
    for index, row in enumerate(rows):
        edge = "│" if index else "┃"
        sides = zip(row, widths, HEADINGS + (None,) * len(columns), strict=True)
        cells = [f" {c:{'>' if head == HEADINGS[2] else '<'}{w}} " for c, w, head in sides]
        lines.append(f"{edge}{edge.join(cells)}{edge}")
        lines.append(rule("├", "─", "┼", "┤") if index else rule("┡", "━", "╇", "┩"))
    lines[-1] = rule("└", "─", "┴", "┘")
    return "\n".join([*lines, *_totals(parameters)])


def summary_html(
    name: str, layers: Sequence[Layer], parameters: Sequence[Parameter], columns: Columns
) -> str:
    """Return the same table for notebooks, in HTML."""
    headings, *rows = _rows(layers, columns)
    return notebooks.table(name, headings, rows, ";".join(_totals(parameters)))


def _rows(layers: Sequence[Layer], columns: Columns) -> list[tuple[str, ...]]:
    """Return the headings, and the cells of each layer."""
    rows = [(*HEADINGS, *columns)]
    for layer in layers:
        label = f"{layer.label} ({type(layer).__name__})"
        size = f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"
        others = (cell(layer) for cell in columns.values())
        rows.append((label, str(layer.output_shape or "?"), size, *others))
    return rows


def _totals(parameters: Sequence[Parameter]) -> list[str]:
    """Return lines with the numbers of weights, and their bytes."""
    lines = []
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for title, group in (("Total", parameters), ("Trainable", trained), ("Non-trainable", frozen)):
        count = sum(math.prod(parameter.shape) for parameter in group)
        content = sum(math.prod(p.shape) * p.dtype.itemsize for p in group)
        lines.append(f" {title} params: {count:,} ({_readable(content)})")
    return lines


def is_trained(layer: Layer) -> str:
    """Return the cell that says whether weights of a layer are trained."""
    return ("N", "Y")[layer.trainable] if layer.parameters() else "-"


def rate_of(layer: Any) -> str:
    """Return the cell with the present rate of a layer of dropout."""
    if getattr(layer, "rate", None) is None:
        return "-"
    return f"{getattr(layer, 'learned_rate', None) or layer.rate_at(layer.step):g}"


def _readable(size: float) -> str:
    """Return a number of bytes in the units of Keras, powers of 1,024."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GB"
