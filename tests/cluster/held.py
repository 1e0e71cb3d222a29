"""Commands of many agents at once, which last until the test lets them go on."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

from managed_session_local.system import LocalSystem

from .waiting import eventually

_GATE = "/mnt/session/go"

HOLD = f"mkfifo {_GATE}; cat {_GATE}"
"""Begins a command; costs nothing while it waits."""


async def holding(system: LocalSystem) -> int:
    """How many agents' commands wait."""
    return sum(each.path(_GATE).exists() for each in await system.e2b_admin.sandboxes("running"))


async def let_go(system: LocalSystem) -> None:
    """Let all of them go on."""
    for sandbox in await system.e2b_admin.sandboxes("running"):
        await eventually("the command waits", partial(_open, sandbox.path(_GATE)))


async def _open(gate: Path) -> bool:
    """Whether the command was there already to be let go: between its two parts it is not."""
    try:
        descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    os.close(descriptor)
    return True
