"""`managed-sessions logs`: prints worker.log from a session's sandbox, and wakes it only if asked to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from managed_session_api.resource import ManagedSession
from rich.console import Console

from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import CommandError
from managed_session_cli.growing_file import GrowingFile
from managed_session_cli.installation import Installation
from managed_session_cli.sandbox_files import SandboxFiles
from managed_session_cli.session_sandbox import awake, e2b_key, paths_of, sandbox_of
from managed_session_cli.sessions import find_session, ready_condition

_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    session: str
    follow: bool
    wake: bool


def logs(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Print the log.

    Raises:
        CommandError: there is no such session or no sandbox, or the sandbox is paused and stays so.
    """
    session = find_session(cluster, installation.namespace, options.session)
    sandbox_id = sandbox_of(session)
    files = SandboxFiles(e2b_key(cluster, installation), sandbox_id)
    try:
        asyncio.run(_print(cluster, installation, session, files, options, console))
    except SandboxGoneError:
        raise CommandError(
            f"E2B no longer knows the sandbox {sandbox_id} of {session.metadata.name}: its log is lost"
        ) from None
    except SandboxPausedError:
        for line in describe_newest_worker(session):
            console.print(line, markup=False)
        raise CommandError(
            f"the sandbox {sandbox_id} is paused, so its log was not read. Use --wake to resume it, read the "
            "log and pause it again; E2B bills a few seconds for that."
        ) from None


def describe_newest_worker(session: ManagedSession) -> list[str]:
    """Return lines about what the resource records of the newest worker."""
    status, work = session.status, session.status.work
    ready, reason, message = ready_condition(session)
    lines = [
        f"Session      {session.spec.session_id}, {session.metadata.name}",
        f"Ready        {ready}, {reason}: {message}",
        f"Turns        {status.turns} served",
    ]
    if work.first_heartbeat_at:
        lines.append(f"Worker       started {work.first_heartbeat_at:%Y-%m-%d %H:%M:%S} UTC")
    if work.finished_at:
        lines.append(
            f"             ended {work.finished_at:%Y-%m-%d %H:%M:%S} UTC: {work.exit_reason or 'unknown'}"
        )
    lines.append("             For more, see the operator's log (kubectl logs).")
    return lines


async def _print(
    cluster: Cluster,
    installation: Installation,
    session: ManagedSession,
    files: SandboxFiles,
    options: Options,
    console: Console,
) -> None:
    log = GrowingFile(lambda start: files.read(paths_of(session).worker_log, start))
    async with awake(cluster, installation, session, files, wake=options.wake):
        _write(await log.new_text(), console)
    if options.follow:
        await _follow(log, console)


async def _follow(log: GrowingFile, console: Console) -> None:
    """Print new lines until interrupted; while the sandbox is paused, wait."""
    while True:
        await asyncio.sleep(_FOLLOW_SECONDS)
        try:
            _write(await log.new_text(), console)
        except SandboxPausedError:
            continue


def _write(text: str, console: Console) -> None:
    console.file.write(text)
    console.file.flush()
