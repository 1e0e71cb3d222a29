"""Whole systems on the control plane that tests share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.local_system import LocalSystem

StartSystem = Callable[..., Awaitable[LocalSystem]]

FORK_SERVER = ForkServer()
"""Starts the processes of all systems of this test process. The fixture `control_plane` closes it."""


def local_system(control_plane: ControlPlane, **options: Any) -> LocalSystem:
    """A system on a shared control plane, to be entered; `options` are parameters of LocalSystem."""
    namespace = unique_name()
    operator_settings = {"max_idle_seconds": "1", **options.pop("operator_settings", {})}
    defaults = {
        "namespace": namespace,
        "system_namespace": f"{namespace}-system",
        "installation_id": namespace,
        "fork_server": FORK_SERVER,
        # Its own simulators end with it, and the sandboxes with them.
        "delete_sessions_at_exit": False,
    }
    return LocalSystem(
        control_plane=control_plane, operator_settings=operator_settings, **{**defaults, **options}
    )


def unique_name() -> str:
    return f"test-{os.urandom(4).hex()}"
