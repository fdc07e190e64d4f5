"""HTML for notebooks: tables, and curves as inline SVG.

Text has the colour of its surroundings, so that it is readable on light and dark pages.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

COLOURS = ("#3b82d6", "#d9772b")  # readable on white and on black
STROKE = 'stroke-width="2" stroke-linecap="round" fill="none"'


def table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> str:
    """Return a table with a title and a note below it; all text is escaped.

    Examples
    --------
    >>> table("Net", ["Layer"], [["<a>"]])
    '<div><b>Net</b><table><tr><th>Layer</th></tr><tr><td>&lt;a&gt;</td></tr></table></div>'
    """
    lines = [_line("th", headings), *(_line("td", row) for row in rows)]
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table>{escape(note)}</div>"


def _line(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


Points = Sequence[tuple[float, float]]


def curves(series: Mapping[str, Points]) -> str:
    """Return at most two curves through points (x, y), or an empty string if there are no points.

    The names come with their last values. Points that are not finite are left out.

    Examples
    --------
    >>> drawn = curves({"loss": [(1, 2.0), (2, 1.0)]})
    >>> "loss 1" in drawn, 'points="10.0,20.0 310.0,130.0 310.0,130.0"' in drawn
    (True, True)
    """
    lines = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    columns = list(zip(*(point for line in lines.values() for point in line), strict=True))
    if not columns:
        return ""
    (left, right), (low, high) = ((min(values), max(values)) for values in columns)

    def corner(x: float, y: float) -> str:
        across = (x - left) / ((right - left) or 1)
        down = (high / 2 - y / 2) / ((high / 2 - low / 2) or 1)  # halves: differences may overflow
        return f"{10 + 300 * across:.1f},{20 + 110 * down:.1f}"

    legend = ""
    parts = [_text(10, 14, f"{high:.4g}"), _text(10, 145, f"{low:.4g}")]
    parts += [_text(120, 145, f"epochs {left:g} to {right:g}")]
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        if line:
            legend += f' <b style="color:{colour}">{escape(name)} {line[-1][1]:.4g}</b>'
            # The last point twice: a curve of one point is then a dot.
            corners = " ".join(corner(*point) for point in (*line, line[-1]))
            parts.append(f'<polyline points="{corners}" stroke="{colour}" {STROKE}/>')
    svg = f'<svg width="320" height="150">{"".join(parts)}</svg>'
    return f'<div style="display:inline-block">{legend}<br/>{svg}</div>'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="10" fill="currentColor">{escape(text)}</text>'
