"""`managed-sessions logs`: prints worker.log from a session's sandbox, and wakes it only if asked to."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.resource import ManagedSession
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.growing_file import GrowingFile
from managed_session_cli.installation import OPERATOR, Installation
from managed_session_cli.sandbox_files import WORKER_LOG, SandboxFiles
from managed_session_cli.sessions import at_work, find_session, ready_condition

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
    sandbox_id = session.status.sandbox.id
    if sandbox_id is None:
        _, reason, message = ready_condition(session)
        raise CommandError(
            f"{session.metadata.name} has no sandbox yet ({reason or 'no condition'}: {message})"
        )
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


def e2b_key(cluster: Cluster, installation: Installation) -> str:
    """Return E2B's key from the environment, or else from the operator's Secret.

    Raises:
        CommandError: it is in neither place, or the user may not read the Secret.
    """
    given = credentials_in(os.environ).get(Credential.E2B_API_KEY)
    if given:
        return keys.first(given)
    try:
        stored = keys.values_of(cluster.get(installation.secret(OPERATOR))).get(Credential.E2B_API_KEY)
    except ClusterError as error:
        raise CommandError(f"{error}. Set E2B_API_KEY instead.") from None
    if not stored:
        raise CommandError(f"E2B_API_KEY is not set, and the Secret {OPERATOR} does not have a key either")
    return keys.first(stored)


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
    woken, log = False, GrowingFile(lambda start: files.read(WORKER_LOG, start))
    try:
        text = await log.new_text()
    except SandboxPausedError:
        if not options.wake:
            raise
        await files.wake()
        woken = True
        text = await log.new_text()
    _write(text, console)
    if woken:
        await _rest(cluster, installation, session, files)
    if options.follow:
        await _follow(log, console)


async def _rest(
    cluster: Cluster, installation: Installation, session: ManagedSession, files: SandboxFiles
) -> None:
    """Pause the sandbox that was woken, unless the session has new work: then the operator uses it."""
    now = find_session(cluster, installation.namespace, session.metadata.name)
    progress = Console(stderr=True, highlight=False, emoji=False)
    if at_work(now) or now.status.sandbox.id != session.status.sandbox.id:
        progress.print("The session has new work, so the sandbox keeps running.", style="dim")
    elif await files.pause():
        progress.print("The sandbox is paused again.", style="dim")
    else:
        progress.print("E2B did not pause the sandbox. The operator will, within a minute.", style="dim")


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
