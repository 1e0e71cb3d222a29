"""What is noted of the machine that measured. Nothing that names it."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path

import psutil


def describe() -> dict[str, str]:
    """Return what the page says of this machine, its Python and the SDKs."""
    gibibytes = psutil.virtual_memory().total / 2**30
    return {
        "cores": str(len(psutil.Process().cpu_affinity())),
        "CPU": _model(),
        "memory": f"{gibibytes:.0f} GiB",
        "Python": platform.python_version(),
        "SDKs": f"anthropic {version('anthropic')}, e2b {version('e2b')}",
    }


def _model() -> str:
    """Return the CPU's model. Some virtual machines hide it."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = found[1].strip() if found else ""
    return name if name and name.lower() != "unknown" else platform.machine()
