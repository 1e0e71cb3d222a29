"""Rolls back a sandbox that is lost while it runs to the files of its newest pause."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from managed_session_devkit.simulators.common.times import now
from managed_session_devkit.simulators.e2b.errors import ApiError, ProxyError
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.network import ENVD_PORT
from managed_session_devkit.simulators.e2b.sandbox import Sandbox


def _kept(sandbox: Sandbox) -> Path | None:
    return sandbox.runtime.root.parent / "snapshot" if sandbox.runtime is not None else None


async def keep(sandbox: Sandbox) -> None:
    """Keep a copy of a stopped sandbox's files, in place of the previous copy."""
    kept_files = _kept(sandbox)
    if kept_files is None or sandbox.runtime is None or sandbox.runtime.machine.disk_megabytes is not None:
        return
    await copy_files(sandbox.runtime.root, kept_files)


async def go_back(sandbox: Sandbox) -> bool:
    """Roll a lost sandbox back to its newest pause, as E2B's database shows it. Return False without one.

    The record of the lost period was written before the machine was asked, so `startedAt` belongs to that
    period. `endAt` is the time of the newest good snapshot. Memory is lost: the next resume boots from the
    files, or from the current files if no copy of that pause was kept.
    """
    if sandbox.saved_at is None:
        return False
    if sandbox.runtime is not None:
        await sandbox.runtime.process.kill()
        kept_files = _kept(sandbox)
        if kept_files is not None and await asyncio.to_thread(kept_files.exists):
            await copy_files(kept_files, sandbox.runtime.root)
    sandbox.drop_connections()
    sandbox.stop_billing()
    sandbox.state, sandbox.crashed = "paused", False
    sandbox.pause_mode = "filesystem"
    sandbox.paused_at, sandbox.end_at = now(), sandbox.saved_at
    return True


def check_pause(sandbox: Sandbox, body: dict[str, Any]) -> None:
    """Raise ApiError 503 if the pause needs the guest agent and it does not answer."""
    if sandbox.wedged and (body.get("requireHealthyGuest") or body.get("memory") is False):
        raise ApiError(503, "The guest agent is not responding")


def check_resume(sandbox: Sandbox, body: dict[str, Any]) -> None:
    """Raise ApiError 409 if the guest agent in the saved memory does not answer."""
    if sandbox.unresponsive_at_pause and body.get("memory") is not False:
        raise ApiError(
            409,
            "The snapshot was taken while the guest agent was not responding",
            error_code="sandbox_snapshot_guest_agent_unresponsive",
        )


def check_traffic(sandbox: Sandbox, port: int) -> None:
    """Raise ProxyError if the machine is gone, or its guest agent does not answer."""
    if sandbox.crashed:
        raise ProxyError(502, sandbox.id, "The sandbox was not found")
    if sandbox.running and sandbox.wedged and port == ENVD_PORT:
        raise ProxyError(502, sandbox.id, "The sandbox is running but port is not open", port)


async def copy_files(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`. Raises SandboxHostError."""
    await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
    copying = await asyncio.create_subprocess_exec("cp", "-a", "--reflink=auto", str(source), str(target))
    if await copying.wait() != 0:
        raise SandboxHostError(f"cannot copy {source}")


async def link_files(source: str, target: str) -> None:
    """Fill the empty directory `target` with links to files that never change. Raises SandboxHostError."""
    linking = await asyncio.create_subprocess_exec("cp", "-al", f"{source}/.", target)
    if await linking.wait() != 0:
        raise SandboxHostError(f"cannot link {source}")
