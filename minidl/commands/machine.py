"""Description of the machine that runs a command."""

import os
import platform
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
    parts = [f"{_processor()} ({os.cpu_count()} cores)", f"{memory:.1f} GiB of memory"]
    if gpu := facts.get("the kind of GPU"):
        parts.insert(0, gpu)
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    """Return the processor's name."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
