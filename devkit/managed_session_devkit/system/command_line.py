"""Runs the command line as a user of the local system does."""

from __future__ import annotations

import asyncio
import os
import sys

from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.local_system import LocalSystem


async def run_command(system: LocalSystem, *arguments: str, seconds: float = 60.0) -> tuple[int, str]:
    """Run `managed-sessions` in the system's folder, with its cluster and E2B.

    Returns:
        The exit status, and what it printed.

    Raises:
        TimeoutError: it did not end within `seconds`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "managed_session_cli.main", *arguments,
        cwd=system.folder,
        env={
            **base_environment(os.environ),
            **system.clouds.e2b_variables,
            "KUBECONFIG": str(system.kubeconfig),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, printed.decode()
