"""Summary table of a model, in the form of Keras."""

import math
from collections.abc import Sequence

from minidl.engine.parameter import Parameter
from minidl.layers.base import Layer

HEADINGS = ("Layer (type)", "Output Shape", "Param #")


def summary_table(name: str, layers: Sequence[Layer], parameters: Sequence[Parameter]) -> str:
    """Return the table of a model: layers, output shapes and numbers of weights."""
    rows = [
        (
            f"{layer.label} ({type(layer).__name__})",
            str(layer.output_shape),
            f"{layer.count_params():,}",
        )
        for layer in layers
    ]
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(3)]

    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * (width + 2) for width in widths) + right

    def row(edge: str, cells: Sequence[str]) -> str:
        first, second, third = cells
        texts = (first.ljust(widths[0]), second.ljust(widths[1]), third.rjust(widths[2]))
        return f"{edge} " + f" {edge} ".join(texts) + f" {edge}"

    lines = [f'Model: "{name}"', rule("┏", "━", "┳", "┓"), row("┃", HEADINGS)]
    lines.append(rule("┡", "━", "╇", "┩"))
    for index, cells in enumerate(rows):
        if index:
            lines.append(rule("├", "─", "┼", "┤"))
        lines.append(row("│", cells))
    lines.append(rule("└", "─", "┴", "┘"))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for title, group in (("Total", parameters), ("Trainable", trained), ("Non-trainable", frozen)):
        count = sum(math.prod(parameter.shape) for parameter in group)
        size = sum(math.prod(p.shape) * p.dtype.itemsize for p in group)
        lines.append(f" {title} params: {count:,} ({_readable(size)})")
    return "\n".join(lines)


def _readable(size: float) -> str:
    """Return a number of bytes in the units of Keras, powers of 1,024."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GB"
