"""Description of the machine that runs a command."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

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
