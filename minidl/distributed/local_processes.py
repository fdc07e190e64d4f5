"""Processes of this machine: which of them have ended."""

import contextlib
import os
import select
from collections.abc import Mapping


class LocalProcesses:
    """Other workers of this machine, which may end without a word, as by SIGKILL.

    The launcher usually ends the others then; ``srun`` does so with ``--kill-on-bad-exit`` only.
    Where the system cannot watch processes (it is not Linux), none is known to have ended.

    Parameters
    ----------
    pids : mapping
        The number of the process of each worker, by rank.
    """

    def __init__(self, pids: Mapping[int, int]):
        self._ranks: dict[int, int] = {}  # by file descriptor
        if hasattr(os, "pidfd_open"):
            self._poll = select.poll()
            for rank, pid in pids.items():
                with contextlib.suppress(OSError):  # ended already, or the kernel is older
                    descriptor = os.pidfd_open(pid)
                    self._poll.register(descriptor, select.POLLIN)
                    self._ranks[descriptor] = rank

    def ended(self) -> list[int]:
        """Return the ranks of the workers that have ended."""
        if not self._ranks:
            return []
        return [self._ranks[descriptor] for descriptor, _ in self._poll.poll(0)]


def namespace() -> str:
    """Return the name of the system's table of processes: a container may have its own."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
