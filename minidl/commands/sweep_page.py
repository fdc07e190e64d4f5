"""Table and page of a sweep: test errors with error bars, and curves side by side."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from minidl.callbacks import History
from minidl.commands import page, report
from minidl.commands.page import text
from minidl.commands.run_folder import REPORT
from minidl.commands.sweep_runs import ERROR, LOSS, Run, plain
from minidl.commands.train_arguments import without_outputs
from minidl.storage.atomic import PathLike, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, TABLE = "sweep.html", "sweep.csv"
BARS = (
    "Large points are means over the seeds, bars one standard deviation, small points single runs. "
    "The lowest error is optimistic, since it is chosen on the test images that it is measured on."
)
CURVES = "Means over the seeds. Training: with dropout. Validation: without, on the test images."
SPREAD = "Mean ± standard deviation over the seeds."
NOTE = (
    "Each run has a page with its command and its number of threads. To get the same bits again, "
    "set MINIDL_NUM_THREADS to this number and run the command."
)
Groups = Mapping[str, Sequence[Run]]  # the complete runs, which differ in their seeds, by setting


def groups_of(runs: Sequence[Run]) -> Groups:
    """Return the complete runs of each setting; the runs of a setting follow each other."""
    return {
        ", ".join(map(" ".join, settings.items())) or "all seeds": [r for r in found if r.scores()]
        for settings, found in groupby(runs, lambda run: run.settings)
    }


def spread(runs: Sequence[Run], label: str) -> str:
    """Return mean and standard deviation of a score in words."""
    values = [run.scores()[label] for run in runs]
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}" if values else "-"


def write_csv(path: PathLike, runs: Sequence[Run]) -> None:
    """Write a table with one line for each run: its options and its results."""
    rows = []
    for run in runs:
        end = run.end() or {"failed": True}
        options = without_outputs(run.arguments).items()
        rows.append(
            {name: value if value is None else plain(value) for name, value in options}
            | run.settings
            | {"state": next((s for s in ("failed", "diverged") if s in end), "complete")}
            | {"trained_epochs": end.get("epochs"), "test_accuracy": end.get("test_accuracy")}
            | {"test_loss": end.get("test_loss"), "folder": run.folder}
        )
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lines.getvalue().encode(errors="backslashreplace"))


def write(path: PathLike, runs: Sequence[Run], facts: Mapping[str, str], command: str) -> None:
    """Write the page atomically, in the folder of the sweep, with facts in a table at the top."""
    groups = groups_of(runs)
    shown = {setting: found for setting, found in groups.items() if found}
    parts = [
        page.section("", page.facts_table(facts)),
        page.section("Repeat or continue this sweep", f"<pre>{text(command)}</pre>"),
    ]
    if shown:
        bars = {label: error_bars(shown, label) for label in (ERROR, LOSS)}
        parts.append(page.figure_section("Test results", BARS, bars))
        parts.append(page.figure_section("Learning curves", CURVES, curves(shown)))
    rows = (
        [text(setting), str(len(found)), spread(found, ERROR), spread(found, LOSS)]
        for setting, found in groups.items()
    )
    results = page.table(["setting", "complete runs", ERROR, LOSS], rows)
    parts.append(page.section("Results by setting", f"<p>{text(SPREAD)}</p>", results))
    table = page.table(["run", "result"], ([_link(run), text(run.result())] for run in runs))
    parts.append(page.section("Runs", f"<p>{text(NOTE)}</p>", table))
    page.write_page(path, "Sweep of minidl", parts)


def error_bars(groups: Groups, label: str) -> "Figure":
    """Draw a score of each setting, at equal distances."""
    figure = page.new_figure(max(4.7, 0.6 * len(groups)), 3.7)
    axes = figure.add_subplot()
    for place, runs in enumerate(groups.values()):
        values = [run.scores()[label] for run in runs]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        axes.errorbar(place, np.mean(values), deviation, fmt="C0o", capsize=4)
        axes.plot([place + 0.15] * len(values), values, "k.", alpha=0.6, markersize=7)
    settings = [runs[0].settings for runs in groups.values()]
    axes.set_xticks(range(len(groups)), ["\n".join(values.values()) for values in settings])
    axes.set(xlabel=", ".join(settings[0]), ylabel=label, xlim=(-0.5, len(groups) - 0.5))
    axes.grid(alpha=0.3)
    return figure


def curves(groups: Groups) -> page.Figures:
    """Draw the mean loss of each setting over the epochs, all in the same range."""
    figures = {}
    for setting, runs in groups.items():
        losses = [[(log["loss"], log["val_loss"]) for log in run.history()] for run in runs]
        means = np.mean(np.array(losses, "float64"), axis=0)
        rows = ({"loss": loss, "val_loss": val_loss} for loss, val_loss in means)
        figures[setting] = report.curves(History(list(enumerate(rows))))["loss"]
        figures[setting].set_size_inches(2.4, 2.7)
    panels = [figure.axes[0] for figure in figures.values()]
    for setting, axes in zip(figures, panels, strict=True):
        axes.set_title(setting, size=9, wrap=True)
        axes.set_yscale("log")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter("{x:g}")  # 0.3, not 3 x 10^-1
        axes.legend(fontsize=7)
    limits = [bound for axes in panels for bound in axes.get_ylim()]
    for axes in panels:
        axes.set_ylim(min(limits), max(limits))
    return figures


def _link(run: Run) -> str:
    """Return the name of a run, with a link to its page if there is one."""
    name = text(run.folder.name)
    return f'<a href="{name}/{REPORT}">{name}</a>' if (run.folder / REPORT).exists() else name
