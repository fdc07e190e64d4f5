"""Train networks with several values of options and several seeds, and compare them.

Options of minidl.train take several values here, and each combination of them is trained with each
seed. A sweep that was interrupted continues if the command is repeated.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl_kernels.threads import cores, is_chosen, num_threads

from minidl.backend import DeviceError, get_backend
from minidl.commands import page, sweep_page, train, train_arguments
from minidl.commands.command_line import (
    InputError,
    Parser,
    number,
    print_line,
    run_command,
    show,
)
from minidl.commands.machine import machine
from minidl.commands.sweep_runs import Run, execute, plain
from minidl.storage.folders import check_folder, lock_folder

EXIT_FAILED = 4
EXIT_STATUSES = """exit status:
  0    all runs are complete, or have diverged
  1    the output was not read to its end
  2    invalid input, or a file that cannot be read or written
  4    a run failed; the others are complete
  130  interrupted by Ctrl-C
  143  interrupted by SIGTERM
"""
OWN = train_arguments.OUTPUT - {"checkpoint_every"} | {"seed"}  # chosen for each run
SINGLE = {"device", "data_dir", "checkpoint_every", "record"}  # not varied
HELP = {
    "--dropout": "dropout rates to compare, each for all hidden layers",
    "--hidden": "units of each hidden layer; repeat the option to compare networks",
}
Axes = dict[str, list[Any]]  # values of options, by name


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Axes]:
    """Return the options of the sweep, and the values of the others; exit if they are invalid."""
    parser = Parser("minidl.sweep", __doc__, EXIT_STATUSES)
    seed = number(int, 0, 2**64 - 1)
    parser.add_argument("--out", metavar="DIR", default="sweep", help="folder (default: sweep)")
    parser.add_argument(
        "--seeds", dest="seed", type=seed, nargs="+", default=[0, 1, 2], help="default: 0 1 2"
    )
    parser.add_argument(
        "--jobs", type=number(int, 1), help="runs at a time (default: one for each core or GPU)"
    )
    group = parser.add_argument_group("options of minidl.train")

    def add(flag: str, **settings: Any) -> None:
        name = settings.get("dest", flag[2:].replace("-", "_"))
        if name in OWN:
            return
        settings |= {"default": argparse.SUPPRESS, "help": HELP.get(flag, settings["help"])}
        if flag == "--hidden":
            settings["action"] = "append"
        elif name not in SINGLE:
            settings["nargs"] = "+"
        group.add_argument(flag, **settings)

    train_arguments.add_options(add)
    axes = vars(parser.parse_args(argv))
    options = argparse.Namespace(out=axes.pop("out"), jobs=axes.pop("jobs"))
    axes = {name: [value] if name in SINGLE else value for name, value in axes.items()}
    for name, values in axes.items():
        if any(value in values[:place] for place, value in enumerate(values)):
            flag = "--seeds" if name == "seed" else f"--{name.replace('_', '-')}"
            parser.error(f"argument {flag}: expected different values, got one twice.")
    return options, axes


def prepare(options: argparse.Namespace, axes: Axes) -> tuple[list[Run], dict[str, str]]:
    """Return the runs, and facts for the page; nothing is written before all options are checked.

    Raises
    ------
    InputError, OSError
        If a run could not begin, or if its folder has a run with other options.
    """
    try:
        check_folder(options.out)
        num_threads()  # it may be invalid in the environment
        device = get_backend(*axes.get("device", ["cpu"]))
        directory = axes.get("data_dir", [None])[0]
        loaded = [train.load_data(name, directory) for name in axes.get("data", [None])]
    except (ValueError, DeviceError) as error:
        raise InputError(error) from error
    axes = axes | {"device": [device.name], "data": [name for name, *_ in loaded]}
    axes["seed"] = axes.pop("seed")  # the last: the seeds of a setting follow each other
    varied = [name for name, values in axes.items() if len(values) > 1 or name == "seed"]
    for _, notice, _ in loaded:
        if notice:
            show(notice)
    runs = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        settings = {name: chosen[name] for name in varied}
        words = [word for name, value in chosen.items() for word in _words(name, value)]
        arguments = train_arguments.parse_arguments(words, None)
        parts = (f"{name}-{plain(value).replace(' ', '-')}" for name, value in settings.items())
        runs.append(Run(Path(options.out, "_".join(parts)), settings, words, arguments))
    for run in runs:
        run.check()
    facts = {
        "data": "; ".join(train.describe_data(name, data) for name, _, data in loaded),
        "device": device.name,
        "machine": machine(device.facts()),
    }
    return runs, facts


def _words(name: str, value: Any) -> list[str]:
    """Return an option of minidl.train as words of a command line."""
    if name == "record":
        return ["--no-record"]
    return [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]


def divide_cores(jobs: int | None, runs: int, device: str) -> tuple[int, int]:
    """Return the number of runs at a time, and of threads for each.

    Both depend on the whole sweep, so that it continues as it began. Results depend on the threads.
    """
    if jobs is None:
        at_most = cores() // num_threads() if is_chosen() else cores()
        jobs = max(1, min(runs, at_most)) if device == "cpu" else 1
    return jobs, num_threads() if is_chosen() else max(1, cores() // jobs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, one of `EXIT_STATUSES`."""
    options, axes = parse_arguments(argv)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "minidl.sweep", *words])
    advice = "; to continue, repeat the command"
    return run_command("minidl.sweep", lambda: sweep(options, axes, command), advice)


def sweep(options: argparse.Namespace, axes: Axes, command: str) -> int:
    """Run what is missing, and write the table and the page."""
    runs, facts = prepare(options, axes)
    jobs, threads = divide_cores(options.jobs, len(runs), facts["device"])
    versions = train.environment() | {"threads": f"{threads} for each run"}
    facts["environment"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        missing = [run for run in runs if run.end() is None]
        show(f"{len(missing)} of {len(runs)} runs to train, {jobs} at a time; threads: {threads}")
        failed = execute(missing, jobs, threads)
        groups = sweep_page.groups_of(runs)
        results = {str(group): f"test error (%) {group.spread('test_error')}" for group in groups}
        complete = sum(len(group.ends) for group in groups)
        counts = f"{complete} of {len(runs)} complete, {len(failed)} failed"
        facts = {"runs": counts} | facts
        sweep_page.write_csv(folder / sweep_page.TABLE, runs, failed)
        results |= {"table": str(folder / sweep_page.TABLE), "page": page.MISSING}
        if page.is_possible():
            sweep_page.write(folder / sweep_page.PAGE, groups, failed, facts, command)
            results["page"] = str(folder / sweep_page.PAGE)
    width = max(map(len, results))
    for title, text in results.items():
        print_line(f"{title:<{width}}  {text}")
    return EXIT_FAILED if failed else 0
