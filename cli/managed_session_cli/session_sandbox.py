"""A session's sandbox for commands that read or write its files, and that wake it only if asked to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.names import ANNOTATION_ATTENDED, API_VERSION, KIND
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire
from managed_session_worker.paths import Paths
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.clouds import CloudError, SandboxPausedError, SandboxStateError
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import OPERATOR, Installation
from managed_session_cli.sandbox_files import SandboxFiles
from managed_session_cli.sessions import at_work, find_session, ready_condition

_ATTENDED_SECONDS = 90.0
"""For how long the operator is told that somebody works in the sandbox. Renewed three times meanwhile."""


def sandbox_of(session: ManagedSession) -> str:
    """Return the ID of the session's sandbox.

    Raises:
        CommandError: it has none yet.
    """
    sandbox_id = session.status.sandbox.id
    if sandbox_id is None:
        _, reason, message = ready_condition(session)
        raise CommandError(
            f"{session.metadata.name} has no sandbox yet ({reason or 'no condition'}: {message})"
        )
    return sandbox_id


def paths_of(session: ManagedSession) -> Paths:
    """Return the paths in the session's sandbox: those of the session alone if it shares the sandbox."""
    shared = session.status.sandbox.shared_by is not None
    return Paths(session=session.session_key if shared else "")


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


@asynccontextmanager
async def awake(
    cluster: Cluster,
    installation: Installation,
    session: ManagedSession,
    files: SandboxFiles,
    *,
    wake: bool,
    stay: bool = False,
) -> AsyncIterator[None]:
    """Have the sandbox running during the block. If that needed a resume, pause it again afterwards.

    Args:
        cluster: the cluster.
        installation: the installation.
        session: the session.
        files: its sandbox.
        wake: whether to resume it if it is paused.
        stay: whether the block also goes on after the end of a turn, which pauses the sandbox.

    Raises:
        SandboxPausedError: it is paused, and `wake` is not set.
        SandboxGoneError: it does not exist any more.
        CloudError: E2B rejected a call or did not answer.
    """
    paused = await files.paused()
    if paused and not wake:
        raise SandboxPausedError
    if not paused and not stay:
        yield
        return
    if paused:
        await files.wake()
    attending = asyncio.create_task(_attend(cluster, session, files))
    try:
        yield
    finally:
        attending.cancel()
        await asyncio.gather(attending, return_exceptions=True)
        await asyncio.to_thread(_note_attendance, cluster, session, None)
        await _rest(cluster, installation, session, files, woken=paused)


async def _attend(cluster: Cluster, session: ManagedSession, files: SandboxFiles) -> None:
    """Tell the operator, again and again, that the sandbox is in use without work; and keep it running."""
    while True:
        until = datetime.now(UTC) + timedelta(seconds=_ATTENDED_SECONDS)
        await asyncio.to_thread(_note_attendance, cluster, session, until)
        await asyncio.sleep(_ATTENDED_SECONDS / 3)
        with suppress(CloudError, SandboxStateError):
            await files.wake()


def _note_attendance(cluster: Cluster, session: ManagedSession, until: datetime | None) -> None:
    """Note it on the resource, if the user may change that. Otherwise the sandbox is paused earlier."""
    reference = Reference(API_VERSION, KIND, session.metadata.name, session.metadata.namespace)
    value = to_wire(until) if until is not None else None
    with suppress(ClusterError):
        cluster.merge(reference, {"metadata": {"annotations": {ANNOTATION_ATTENDED: value}}})


async def _rest(
    cluster: Cluster,
    installation: Installation,
    session: ManagedSession,
    files: SandboxFiles,
    *,
    woken: bool,
) -> None:
    """Pause the sandbox that was woken, unless the session has new work: then the operator uses it.

    A shared sandbox may be used for any of its sessions by now, which only the operator knows for sure.
    """
    now = find_session(cluster, installation.namespace, session.metadata.name)
    progress = Console(stderr=True, highlight=False, emoji=False)
    if at_work(now) or now.status.sandbox.id != session.status.sandbox.id:
        if woken:
            progress.print("The session has new work, so the sandbox keeps running.", style="dim")
    elif now.status.sandbox.shared_by is not None:
        progress.print(
            "Several sessions share the sandbox. The operator pauses it, within a minute.", style="dim"
        )
    elif await files.pause():
        progress.print("The sandbox is paused again.", style="dim")
    else:
        progress.print("E2B did not pause the sandbox. The operator will, within a minute.", style="dim")
