"""Agents' commands that last until the test lets them go on."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from .waiting import eventually

_GATE = "/mnt/session/go"

WAIT = f"until test -e {_GATE}; do sleep 0.1; done"
"""Begins a command of one agent; made a second time after that, it goes on at once."""

HOLD = f"mkfifo {_GATE}; cat {_GATE}"
"""Begins a command of one of many agents; costs nothing while it waits."""


def let_go(sandbox: SimulatedSandbox) -> None:
    """Let the sandbox's command that began with WAIT go on."""
    sandbox.path(_GATE).touch()


async def holding(system: LocalSystem) -> int:
    """How many agents' commands that began with HOLD wait."""
    return sum(each.path(_GATE).exists() for each in await system.e2b_admin.sandboxes("running"))


async def let_all_go(system: LocalSystem) -> None:
    """Let all commands that began with HOLD go on."""
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
