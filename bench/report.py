"""Output of results: tables in Markdown, and sections of a file between markers."""

import argparse
import datetime
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("minidl", "numpy", "numba", "torch", "jax", "mpi4py", "mpich")


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's arguments, which shows the head of its file as help."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def numbers(values: Iterable[float], spec: str = ".2f") -> str:
    """Return numbers in a row."""
    return " ".join(format(value, spec) for value in values)


def processor() -> str:
    """Return the processor's name, LLVM's name for it, its widest vectors and its cores."""
    from llvmlite import binding  # only here: it is large, and workers import this file

    features = binding.get_host_cpu_features()
    vectors = next((name for name, flag in VECTORS.items() if features.get(flag)), "no AVX2")
    kind = binding.get_host_cpu_name()
    return f"{_processor_name()} ({kind}, {vectors}), {os.cpu_count()} cores"


VECTORS = {"AVX-512": "avx512f", "AVX2": "avx2"}  # the widest first
CPU_INFO = Path("/proc/cpuinfo")  # on Linux


def _processor_name() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def made_with() -> str:
    """Return a sentence with the date, the processor and the versions."""
    versions = [f"{name} {version}" for name in PACKAGES for version in _version(name)]
    return (
        f"Measured on {datetime.date.today()}, {platform.system()} {platform.machine()}, "
        f"{processor()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def _version(distribution: str) -> Iterator[str]:
    try:
        yield metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return


def left_out_lines(left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each peer that could not run."""
    for name, reason in left_out.items():
        yield f"- left out: {name}: {reason}"


def with_section(text: str, name: str, lines: Iterable[str]) -> str:
    """Return `text` with the lines as the section `name`, in place of an older one or at the end.

    All that is not between the section's two markers stays as it is.

    Raises
    ------
    ValueError
        If one of the two markers is missing, or they are not in their order.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    section = "\n".join((begin, *lines, "", end))
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{section}"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the markers of {name} must be {begin.strip()} and {end.strip()}")
    return before + section + after
