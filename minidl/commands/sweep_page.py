"""Table and page of a sweep: test errors with error bars, and curves side by side."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.commands import page
from minidl.commands.page import text
from minidl.commands.run_folder import REPORT
from minidl.commands.sweep_runs import Run, plain
from minidl.commands.train_arguments import without_outputs
from minidl.storage.atomic import PathLike, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, TABLE = "sweep.html", "sweep.csv"
LABELS = {"test_error": "test error (%)", "test_loss": "test cross-entropy (nats)"}
CURVES = {"loss": ("training", "--"), "val_loss": ("validation", "-")}
NOTE = (
    "Each run has a page with its command and its number of threads. To get the same bits again, "
    "set MINIDL_NUM_THREADS to this number and run the command."
)


class Group:
    """The runs of one setting, which differ in their seeds.

    Parameters
    ----------
    settings : mapping
        The values of the varied options, by name, without the seed.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = settings
        self.runs: list[Run] = []

    def __str__(self) -> str:
        return ", ".join(f"{n} {plain(v)}" for n, v in self.settings.items()) or "all seeds"

    @cached_property
    def ends(self) -> dict[Run, dict[str, Any]]:
        """The last events of the complete runs, with the test error in percent."""
        found = ((run, run.end() or {}) for run in self.runs)
        complete = ((run, end) for run, end in found if "test_loss" in end)
        return {
            run: end | {"test_error": 100 * (1 - end["test_accuracy"])} for run, end in complete
        }

    def values(self, name: str) -> dict[int, float]:
        """Return a result of the complete runs, by seed."""
        return {run.settings["seed"]: end[name] for run, end in self.ends.items()}

    def spread(self, name: str) -> str:
        """Return mean and standard deviation of a result in words."""
        return spread(list(self.values(name).values()))


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of runs that differ in their seeds only."""
    found: dict[str, Group] = {}
    for run in runs:
        group = Group({name: value for name, value in run.settings.items() if name != "seed"})
        found.setdefault(str(group), group).runs.append(run)
    return list(found.values())


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation in words.

    Examples
    --------
    >>> spread([1.0, 2.0, 3.0]), spread([1.5]), spread([])
    ('2.000 ± 1.000', '1.500', '-')
    """
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}" if values else "-"


def write_csv(path: PathLike, runs: Sequence[Run], failed: Mapping[Run, str]) -> None:
    """Write a table with one line for each run: its options and its results."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        end = run.end() or {}
        state = "diverged" if "diverged" in end else "complete" if end else "missing"
        seconds = {e["epoch"]: e["seconds"] for e in run.events() if e["event"] == "epoch"}
        rows.append(
            {n: v if v is None else plain(v) for n, v in without_outputs(run.arguments).items()}
            | {name: plain(value) for name, value in run.settings.items()}
            | {"state": "failed" if run in failed else state, "trained_epochs": end.get("epochs")}
            | {name: end.get(name) for name in ("test_accuracy", "test_loss")}
            | {"training_seconds": sum(seconds.values()), "folder": run.folder}
        )
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lines.getvalue().encode(errors="backslashreplace"))


def write(
    path: PathLike,
    groups: Sequence[Group],
    failed: Mapping[Run, str],
    facts: Mapping[str, str],
    command: str,
) -> None:
    """Write the page atomically.

    Parameters
    ----------
    path : path
        The file, in the folder of the sweep.
    groups : sequence of Group
        All runs.
    failed : mapping
        The reasons of failed runs.
    facts : mapping
        Names and values for the table at the top.
    command : str
        The command of the sweep.
    """
    shown = [group for group in groups if group.ends]
    parts = [page.section("", page.facts_table(facts))]
    parts.append(page.section("Repeat or continue this sweep", f"<pre>{text(command)}</pre>"))
    if shown:
        parts += [page.figure_section(*part) for part in _figures(shown)]
    parts.append(page.section("Results by setting", _results(groups)))
    runs = page.table(["run", "result"], _runs(groups, failed))
    parts.append(page.section("Runs", f"<p>{text(NOTE)}</p>", runs))
    page.write_page(path, "Sweep of minidl", parts)


def _figures(groups: Sequence[Group]) -> Iterator[tuple[str, str, page.Figures]]:
    """Yield title, caption and figures of each section."""
    bars = "Means over the seeds; {} are one standard deviation"
    if len(groups) > 1:
        best = min(groups, key=lambda group: np.mean(list(group.values("test_error").values())))
        caption = (
            f"{bars.format('bars')}, small points are single runs. Lowest mean test error: {best}, "
            f"{best.spread('test_error')} %. It was chosen on the test images, so it is optimistic."
        )
        figures = {label: error_bars(groups, key) for key, label in LABELS.items()}
        yield "Test results", caption, figures
    caption = (
        f"{bars.format('bands')}. Training: with dropout, while the weights change. Validation: "
        "without dropout, on the test images."
    )
    yield "Learning curves", caption, curves(groups)


def error_bars(groups: Sequence[Group], key: str) -> "Figure":
    """Draw a result of each setting, at equal distances."""
    figure = page.new_figure(max(4.7, 0.6 * len(groups)), 3.7)
    axes = figure.add_subplot()
    values = [list(group.values(key).values()) for group in groups]
    deviations = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
    places = range(len(groups))
    axes.errorbar(places, [np.mean(v) for v in values], deviations, fmt="o", capsize=4)
    for place, single in enumerate(values):
        axes.plot([place + 0.15] * len(single), single, "k.", alpha=0.4, markersize=4)
    ticks = ["\n".join(map(plain, group.settings.values())) for group in groups]
    axes.set(
        xlabel=", ".join(groups[0].settings), ylabel=LABELS[key], xlim=(-0.5, places.stop - 0.5)
    )
    axes.set_xticks(places, ticks)
    axes.grid(alpha=0.3)
    return figure


def curves(groups: Sequence[Group]) -> page.Figures:
    """Draw the loss of each setting over the epochs, all in the same range."""
    figures = {str(group): page.new_figure(2.4, 2.7) for group in groups}
    panels = [figure.add_subplot() for figure in figures.values()]
    for group, axes in zip(groups, panels, strict=True):
        histories = [run.history() for run in group.ends]
        for key, (label, style) in CURVES.items():
            values = np.array([[logs[key] for logs in rows] for rows in histories], "float64")
            mean, epochs = values.mean(axis=0), np.arange(values.shape[1]) + 1
            (line,) = axes.plot(epochs, mean, style, marker=".", markersize=4, label=label)
            if len(values) > 1:
                bounds = mean + np.multiply.outer((-1, 1), values.std(axis=0, ddof=1))
                axes.fill_between(epochs, *bounds, color=line.get_color(), alpha=0.2)
        axes.set_title(str(group), size=9, wrap=True)
        axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    limits = [bound for axes in panels for bound in axes.get_ylim()]
    for axes in panels:
        axes.set_ylim(min(limits), max(limits))
    return figures


def _results(groups: Sequence[Group]) -> str:
    """Return a table of the settings; changes are those of runs with the same seed."""
    references = {
        str(_without_rate(group)): group for group in groups if group.settings.get("dropout") == 0
    }
    rows = []
    for group in groups:
        cells = [str(group), f"{len(group.ends)} of {len(group.runs)}"]
        cells += [group.spread(key) for key in LABELS]
        reference = references.get(str(_without_rate(group)))
        if reference is not None:
            errors, others = group.values("test_error"), reference.values("test_error")
            changes = [errors[seed] - others[seed] for seed in errors.keys() & others.keys()]
            cells.append(spread(changes) if reference is not group else "")
        rows.append([text(cell).replace(" ± ", "&nbsp;±&nbsp;") for cell in cells])
    headings = ["setting", "complete runs", *LABELS.values()]
    return page.table([*headings, *["change from dropout 0 (points)"] * bool(references)], rows)


def _without_rate(group: Group) -> Group:
    return Group({name: value for name, value in group.settings.items() if name != "dropout"})


def _runs(groups: Sequence[Group], failed: Mapping[Run, str]) -> Iterator[list[str]]:
    """Yield a row of HTML for each run, with a link to its page."""
    for run in (run for group in groups for run in group.runs):
        name = text(run.folder.name)
        if (run.folder / REPORT).exists():
            name = f'<a href="{name}/{REPORT}">{name}</a>'
        yield [name, text(failed.get(run) or run.result(0)[0])]
