"""Description of the machine and the software that run a command."""

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from minidl_kernels.threads import num_threads

from minidl.version import __version__

CPU_INFO = Path("/proc/cpuinfo")  # on Linux


def machine(facts: Mapping[str, Any]) -> str:
    """Return processor, cores, memory, GPU and system in one line.

    Parameters
    ----------
    facts : mapping
        What `Backend.facts` returns, which names the GPU.
    """
    memory = psutil.virtual_memory().total / 2**30
    processor = f"{_processor()} ({os.cpu_count()} cores), {memory:.1f} GiB of memory"
    parts = (facts.get("the kind of GPU"), processor, f"{platform.system()} {platform.machine()}")
    return ", ".join(filter(None, parts))


def _processor() -> str:
    """Return the processor's name."""
    lines = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    name = re.search(r"model name\s*: (.+)", lines)
    return name[1] if name else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return what else the results of this command depend on, on the CPU."""
    return {
        "minidl": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "threads": num_threads(),
    }
