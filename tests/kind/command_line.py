"""Runs the command line as an administrator of the cluster does."""

from __future__ import annotations

import os
import sys

from .commands import run
from .installation import Installation

SECONDS = 240.0


async def managed_sessions(installation: Installation, *arguments: str, **credentials: str) -> str:
    """Run `managed-sessions` with the credentials in its environment. Return and print its output.

    Raises:
        CommandError: it exits with a code other than 0.
    """
    printed = await run(
        sys.executable, "-m", "managed_session_cli.main", *arguments,
        environment={**installation.kubectl.environment, **installation.clouds.addresses_here, **credentials},
        timeout_seconds=SECONDS,
    )  # fmt: skip
    print(f"$ managed-sessions {' '.join(arguments)}{os.linesep}{printed}")
    return printed
