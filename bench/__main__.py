"""Run the benchmarks and write what they found: `bench/RESULTS.md` and `bench/results.png`.

    python -m bench [--quick] [train dropout memory startup scaling distributed]

Without names all are run, which takes about an hour; with names the others' results stay. The
figures themselves are kept in `bench/results.json`, from which the report and the picture are made.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import distributed, dropout, memory, scaling, startup, train
from bench.report import command_parser, with_section

FOLDER = Path(__file__).parent
PROGRAMS = {
    "train": train,
    "dropout": dropout,
    "memory": memory,
    "startup": startup,
    "scaling": scaling,
    "distributed": distributed,
}
PICTURES: dict[str, Sequence[Callable[[Any, Any], None]]] = {
    "train": [train.draw],
    "dropout": [dropout.draw],
    "scaling": [scaling.draw, scaling.draw_memory],
}
# Pages beside the folder that show a part, by program: their path and its lines.
PAGES: dict[str, tuple[str, Callable[[Any], Iterable[str]]]] = {
    "distributed": ("docs/more-than-one-machine.md", distributed.summary),
}
PICTURE_LINE = "![Times of training and dropout; speed and memory of `fit` by size](results.png)"


def write(folder: Path, new: Mapping[str, Any]) -> None:
    """Add new results to those in a folder, and write report and picture of all."""
    kept, report = folder / "results.json", folder / "RESULTS.md"
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    results |= new
    kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report.read_text(encoding="utf-8")
    if draw(folder / "results.png", results):
        text = with_section(text, "picture", [PICTURE_LINE])
    for name, program in PROGRAMS.items():
        if name in results:
            text = with_section(text, f"bench.{name}", program.section(results[name]))
    report.write_text(text, encoding="utf-8")
    for name in new.keys() & PAGES.keys():
        file, lines = PAGES[name]
        page = folder.parent / file
        text = with_section(page.read_text(encoding="utf-8"), f"bench.{name}", lines(new[name]))
        page.write_text(text, encoding="utf-8")


def draw(path: Path, results: Mapping[str, Any]) -> bool:
    """Draw what can be drawn of the results, and tell whether there is a picture."""
    from matplotlib.figure import Figure

    drawings = [
        (function, results[name])
        for name, functions in PICTURES.items()
        for function in functions
        if name in results
    ]
    if not drawings:
        return False
    figure = Figure(figsize=(11, 4 * ((len(drawings) + 1) // 2)), layout="constrained", dpi=80)
    for place, (function, result) in enumerate(drawings, start=1):
        function(result, figure.add_subplot((len(drawings) + 1) // 2, 2, place))
    figure.savefig(path)
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write after each program, so that nothing measured is lost."""
    parser = command_parser("bench", __doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes")
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="program")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"expected {', '.join(PROGRAMS)}, got {', '.join(sorted(unknown))}")
    if find_spec("matplotlib") is None:
        parser.error("the picture is drawn by matplotlib: pip install -e '.[plot]'")
    for name in arguments.programs:
        print(f"bench.{name}", flush=True)
        program = PROGRAMS[name]
        write(FOLDER, {name: program.measure(**(program.QUICK if arguments.quick else {}))})


if __name__ == "__main__":
    main()
