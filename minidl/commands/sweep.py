"""Train networks with several values of options and several seeds, and compare them.

Most options of minidl.train may take several values here. Each combination of them is trained with
each seed. A sweep that was interrupted continues if the command is repeated.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl_kernels.threads import cores, is_chosen, num_threads

from minidl.backend import get_backend
from minidl.commands import cli, page, sweep_page, train_arguments
from minidl.commands.machine import environment, machine
from minidl.commands.sweep_runs import ERROR, Run, execute, plain
from minidl.commands.train_preparation import describe_data, load_data
from minidl.storage.folders import check_folder, lock_folder

EXIT_FAILED = 4
STATUSES = {
    0: "all runs are complete, or have diverged",
    EXIT_FAILED: "a run failed; the others are complete",
}
OWN = train_arguments.OUTPUT - {"checkpoint_every"} | {"seed"}  # chosen for each run
SINGLE = {"device", "data", "data_dir", "hidden", "checkpoint_every", "record"}  # not varied
Axes = dict[str, list[Any]]  # values of options of minidl.train, by name


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Axes]:
    """Return the options of the sweep, and the values of the others; exit if they are invalid."""
    parser = cli.Parser("minidl.sweep", __doc__, cli.exit_statuses(STATUSES))
    parser.add_argument("--out", metavar="DIR", default="sweep", help="folder (default: sweep)")
    seed, seeds = cli.number(int, 0, 2**64 - 1), [0, 1, 2]
    parser.add_argument("--seeds", type=seed, nargs="+", default=seeds, help="default: 0 1 2")
    jobs = "runs at a time (default: one for each core or GPU)"
    parser.add_argument("--jobs", type=cli.number(int, 1), help=jobs)
    group = parser.add_argument_group("options of minidl.train")

    def add(flag: str, **settings: Any) -> None:
        name = settings.get("dest", flag[2:].replace("-", "_"))
        if name == "dropout":
            settings["help"] = "dropout rates to compare, each for all hidden layers"
        if name not in SINGLE:
            settings |= {"nargs": "+", "default": argparse.SUPPRESS}
        if name not in OWN:
            group.add_argument(flag, **settings)

    train_arguments.add_options(add)
    given = vars(parser.parse_args(argv))
    own = {name: given.pop(name) for name in ("out", "seeds", "jobs", "record")}
    axes = {name: [value] if name in SINGLE else value for name, value in given.items()}
    return argparse.Namespace(**own), axes


def prepare(options: argparse.Namespace, axes: Axes) -> tuple[list[Run], dict[str, str]]:
    """Return the runs, and facts for the page; nothing is written before all options are checked.

    Raises
    ------
    InputError, OSError
        If a run could not begin, or if its folder has a run with other options.
    """
    with cli.input_checks():
        check_folder(options.out)
        num_threads()  # it may be invalid in the environment
        device = get_backend(*axes["device"])
        name, notice, data = load_data(*axes["data"], *axes["data_dir"])
    if notice:
        cli.show(notice)
    axes = axes | {"device": [device.name], "data": [name]}
    runs = []
    for *values, seed in itertools.product(*axes.values(), options.seeds):
        chosen = dict(zip(axes, values, strict=True))
        settings = {name: plain(chosen[name]) for name in axes if len(axes[name]) > 1}
        words = train_arguments.words_of(chosen | {"seed": seed})
        words += [] if options.record else ["--no-record"]
        folder = Path(options.out, "_".join([*map("-".join, settings.items()), f"seed-{seed}"]))
        words += ["--out", str(folder)]
        arguments = train_arguments.parse_arguments(words, module="minidl.sweep")
        runs.append(Run(folder, settings, words, arguments))
    if len({run.folder for run in runs}) < len(runs):
        raise cli.InputError("expected different values, got one twice. Pass each value once.")
    for run in runs:
        run.check()
    facts = {"data": describe_data(name, data), "device": device.name}
    return runs, facts | {"machine": machine(device.facts())}


def divide_cores(jobs: int | None, runs: int, device: str) -> tuple[int, int]:
    """Return the number of runs at a time, and of threads for each.

    Both depend on the whole sweep, so that it continues as it began. Results depend on the threads.
    """
    if jobs is None:
        at_most = cores() // num_threads() if is_chosen() else cores()
        jobs = max(1, min(runs, at_most)) if device == "cpu" else 1
    return jobs, num_threads() if is_chosen() else max(1, cores() // jobs)


@cli.command("minidl.sweep")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; ``--help`` lists them."""
    options, axes = parse_arguments(argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        return sweep(options, axes, shlex.join(["python", "-m", "minidl.sweep", *words]))
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("to continue, repeat the command")
        raise


def sweep(options: argparse.Namespace, axes: Axes, repeated: str) -> int:
    """Run what is missing, and write the table and the page."""
    runs, facts = prepare(options, axes)
    jobs, threads = divide_cores(options.jobs, len(runs), facts["device"])
    versions = environment() | {"threads": f"{threads} for each run"}
    facts["environment"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        missing = [run for run in runs if run.end() is None]
        threaded = f"{jobs} at a time; threads: {threads}"
        cli.show(f"{len(missing)} of {len(runs)} runs to train, {threaded}")
        execute(missing, jobs, threads)
        groups = sweep_page.groups_of(runs)
        complete = sum(map(len, groups.values()))
        failed = sum(run.end() is None for run in runs)
        facts["runs"] = f"{complete} of {len(runs)} complete, {failed} failed"
        sweep_page.write_csv(folder / sweep_page.TABLE, runs)
        if page.is_possible():
            sweep_page.write(folder / sweep_page.PAGE, runs, facts, repeated)
    cli.print_line(sweep_page.SPREAD)
    for setting, found in groups.items():
        cli.print_line(f"{setting}: {ERROR} {sweep_page.spread(found, ERROR)}")
    cli.print_line(f"table: {folder / sweep_page.TABLE}")
    cli.print_line(f"page: {folder / sweep_page.PAGE if page.is_possible() else page.MISSING}")
    return EXIT_FAILED if failed else 0
