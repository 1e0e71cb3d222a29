"""`managed-sessions logs`: worker.log of a session's sandbox, which is not woken unless asked for."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from managed_session_api.resource import ManagedSession
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import OPERATOR, Installation
from managed_session_cli.sandbox_files import WORKER_LOG, SandboxFiles
from managed_session_cli.sessions import at_work, find_session, standing

_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Wishes:
    """The options of the command."""

    session: str
    follow: bool
    wake: bool


def logs(cluster: Cluster, installation: Installation, wishes: Wishes, console: Console) -> None:
    """Print the log.

    Raises:
        CommandError: there is no such session, no sandbox, or it is paused and may not be woken.
    """
    session = find_session(cluster, installation.namespace, wishes.session)
    sandbox_id = session.status.sandbox.id
    if sandbox_id is None:
        _, reason, message = standing(session)
        raise CommandError(
            f"{session.metadata.name} has no sandbox yet ({reason or 'no condition'}: {message})"
        )
    files = SandboxFiles(e2b_key(cluster, installation), sandbox_id)
    try:
        asyncio.run(_print(cluster, installation, session, files, wishes, console))
    except SandboxGoneError:
        raise CommandError(
            f"E2B no longer knows the sandbox {sandbox_id} of {session.metadata.name}: its log is lost"
        ) from None
    except SandboxPausedError:
        for line in what_is_known(session):
            console.print(line, markup=False)
        raise CommandError(
            f"the sandbox {sandbox_id} is paused and was not woken. --wake resumes it, reads the log and "
            "pauses it again, for which E2B bills some seconds."
        ) from None


def e2b_key(cluster: Cluster, installation: Installation) -> str:
    """E2B's key: from the environment, or else from the cluster's Secret with the user's own rights.

    Raises:
        CommandError: in neither place, or the Secret may not be read.
    """
    given = keys.from_environment(os.environ).get(keys.E2B_API_KEY)
    if given:
        return given.split()[0]
    try:
        stored = keys.values_of(cluster.get(installation.secret(OPERATOR))).get(keys.E2B_API_KEY)
    except ClusterError as error:
        raise CommandError(f"{error}. Set E2B_API_KEY instead.") from None
    if not stored:
        raise CommandError(f"E2B_API_KEY is not set, and the Secret {OPERATOR} does not have the key either")
    return stored.split()[0]


def what_is_known(session: ManagedSession) -> list[str]:
    """What the resource says about the newest worker, in lines."""
    status, work = session.status, session.status.work
    ready, reason, message = standing(session)
    lines = [
        f"Session      {session.spec.session_id}, {session.metadata.name}",
        f"Ready        {ready}, {reason}: {message}",
        f"Turns        {status.turns} served to their end",
    ]
    if work.first_heartbeat_at:
        lines.append(f"Worker       began {work.first_heartbeat_at:%Y-%m-%d %H:%M:%S} UTC")
    if work.finished_at:
        lines.append(
            f"             ended {work.finished_at:%Y-%m-%d %H:%M:%S} UTC: {work.exit_reason or 'unknown'}"
        )
    lines.append("             the operator's log has more: kubectl logs of its pods")
    return lines


async def _print(
    cluster: Cluster,
    installation: Installation,
    session: ManagedSession,
    files: SandboxFiles,
    wishes: Wishes,
    console: Console,
) -> None:
    woken = False
    try:
        text = await files.read(WORKER_LOG)
    except SandboxPausedError:
        if not wishes.wake:
            raise
        await files.wake()
        woken = True
        text = await files.read(WORKER_LOG)
    _write(text, console)
    if woken:
        await _rest(cluster, installation, session, files)
    if wishes.follow:
        await _follow(files, text, console)


async def _rest(
    cluster: Cluster, installation: Installation, session: ManagedSession, files: SandboxFiles
) -> None:
    """Pause what was woken, unless a message has come meanwhile: then it is the operator's again."""
    now = find_session(cluster, installation.namespace, session.metadata.name)
    progress = Console(stderr=True, highlight=False, emoji=False)
    if at_work(now) or now.status.sandbox.id != session.status.sandbox.id:
        progress.print("The session has work now: the sandbox is left to the operator.", style="dim")
    elif await files.pause():
        progress.print("The sandbox is paused again.", style="dim")
    else:
        progress.print("E2B has not paused the sandbox; the operator does within two sweeps.", style="dim")


async def _follow(files: SandboxFiles, seen: str, console: Console) -> None:
    """Print what is added, until interrupted; a paused sandbox is waited for."""
    while True:
        await asyncio.sleep(_FOLLOW_SECONDS)
        try:
            text = await files.read(WORKER_LOG)
        except SandboxPausedError:
            continue
        # A log that has grown too long was begun anew.
        _write(text.removeprefix(seen), console)
        seen = text


def _write(text: str, console: Console) -> None:
    console.file.write(text)
    console.file.flush()
