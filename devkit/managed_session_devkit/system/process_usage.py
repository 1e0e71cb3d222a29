"""Reads how much CPU and memory a process of this machine has used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Attributes:
        cpu_seconds: CPU time in user and kernel mode.
        memory_bytes: resident memory now.
    """

    cpu_seconds: float
    memory_bytes: int


def usage_of(pid: int) -> Usage:
    """Return what the process has used (proc(5)). Raises OSError if there is no such process."""
    # The name of the program, in parentheses, may contain anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))
