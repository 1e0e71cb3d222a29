"""The command line as an administrator of the cluster runs it."""

from __future__ import annotations

import os
import sys

from .commands import run
from .installation import Installation

SECONDS = 240.0


async def managed_sessions(installation: Installation, *arguments: str, **credentials: str) -> str:
    """Run `managed-sessions` with these credentials in its environment; returns and prints what it printed.

    Raises:
        CommandError: its exit code is not 0.
    """
    printed = await run(
        sys.executable, "-m", "managed_session_cli.main", *arguments,
        environment={**installation.kubectl.environment, **installation.clouds.addresses_here, **credentials},
        timeout_seconds=SECONDS,
    )  # fmt: skip
    print(f"$ managed-sessions {' '.join(arguments)}{os.linesep}{printed}")
    return printed
