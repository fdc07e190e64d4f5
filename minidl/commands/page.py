"""Web pages with tables and figures, each page one file that loads nothing else."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from minidl.storage.atomic import PathLike, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "needs matplotlib: pip install 'minidl[plot]'"
PIXELS_PER_INCH = 96  # of the page; pictures have twice as many, for screens of high density
HALF = 4.9  # inches: two figures of at most this width fit side by side
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h2 { margin-top: 2.5rem; } figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 0.5rem; } .pictures img { min-width: 0; }
figcaption { color: #555; max-width: 45rem; } a { color: #0b57d0; }
pre { background: #f4f4f4; padding: 0.8rem; font-size: 13px; white-space: pre-wrap;
      overflow-wrap: anywhere; }
.table { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 0.1rem 1.5rem 0.1rem 0; text-align: left; vertical-align: top; }
th { font-weight: normal; color: #555; } td:first-child { white-space: nowrap; }
@media (min-width: 60rem) { main { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
  section { grid-column: span 2; } section.half { grid-column: span 1; } }
"""
Figures = Mapping[str, "Figure"]  # by name, which is "" if there is only one


def is_possible() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure; its size is in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="compressed")


def write_page(path: PathLike, title: str, parts: Iterable[str]) -> None:
    """Write a page atomically; `parts` are its HTML below the title."""
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>',
        '<meta name="viewport" content="width=device-width">',
        '<link rel="icon" href="data:,">',
        f"<style>{STYLE}</style></head><body><h1>{text(title)}</h1><main>",
        *parts,
        "</main></body></html>",
    ]
    write_atomically(path, "\n".join(lines).encode(errors="backslashreplace"))


def text(value: object) -> str:
    """Return a value as text of HTML.

    Examples
    --------
    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(str(value))


def section(title: str, *parts: str, is_half: bool = False) -> str:
    """Return a section of HTML parts; two halves are side by side on a wide screen."""
    opening = '<section class="half">' if is_half else "<section>"
    return "\n".join([opening, f"<h2>{text(title)}</h2>" * bool(title), *parts, "</section>"])


def facts_table(facts: Mapping[str, object]) -> str:
    """Return a table with one name and its value in each row."""
    rows = (f"<tr><th>{text(name)}</th><td>{text(facts[name])}</td></tr>" for name in facts)
    return f'<div class="table"><table>{"".join(rows)}</table></div>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with headings; its cells are HTML."""
    lines = [("th", [text(heading) for heading in headings]), *(("td", row) for row in rows)]
    body = (f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in row)}</tr>" for tag, row in lines)
    return f'<div class="table"><table>{"".join(body)}</table></div>'


def figure_section(title: str, caption: str, figures: Figures) -> str:
    """Return a section with figures, side by side if they fit, and a caption below them."""
    images = [_image(f"{title}: {name}" if name else title, figures[name]) for name in figures]
    is_half = len(figures) == 1 and max(f.get_figwidth() for f in figures.values()) <= HALF
    pictures = f'<div class="pictures">{"".join(images)}</div>'
    below = f"<figcaption>{text(caption)}</figcaption>"
    return section(title, f"<figure>{pictures}{below}</figure>", is_half=is_half)


def _image(title: str, figure: "Figure") -> str:
    """Return a figure as an image element that contains its data."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=2 * PIXELS_PER_INCH)
    data = base64.b64encode(content.getvalue()).decode()
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    return f'<img alt="{text(title)}" width="{width}" src="data:image/png;base64,{data}">'
