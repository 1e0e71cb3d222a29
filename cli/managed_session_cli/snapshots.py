"""`managed-sessions snapshot`, `restore`, `fork` and `retained`: snapshots of sessions.

The first three only change resources. The operator does the rest, also if the command is interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from managed_session_api.conditions import ConditionType
from managed_session_api.names import (
    API_VERSION,
    KIND,
    is_session_id,
    resource_name,
    session_snapshot_prefix,
    snapshot_prefix,
)
from managed_session_api.resource import ManagedSession, SnapshotStatus
from rich.console import Console

from managed_session_cli.clouds import E2BTeam
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import CommandError, NotFoundError
from managed_session_cli.installation import OPERATOR, Installation, installation_id
from managed_session_cli.session_sandbox import e2b_key
from managed_session_cli.sessions import find_session, session_of
from managed_session_cli.wording import counted

_POLL_SECONDS = 0.5

T = TypeVar("T")


def show(cluster: Cluster, installation: Installation, session: str, console: Console) -> None:
    """Print the session's snapshots (raises as `find_session`)."""
    found = find_session(cluster, installation.namespace, session)
    snapshots = _taken(found)
    if not snapshots:
        console.print(f"{found.spec.session_id} has no snapshots.", markup=False)
    for each in snapshots:
        at = f"{each.taken_at:%Y-%m-%d %H:%M:%S} UTC" if each.taken_at else ""
        console.print(f"{each.id}  {at}  turn {each.turn}  {each.requested or ''}".rstrip(), markup=False)


def snapshot(
    cluster: Cluster,
    installation: Installation,
    session: str,
    name: str | None,
    timeout: float,
    console: Console,
) -> SnapshotStatus:
    """Ask for a snapshot, and wait until it is taken.

    Raises:
        CommandError: there is no such session, or the snapshot was not taken in time.
    """
    found = find_session(cluster, installation.namespace, session)
    name = name or f"at-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if any(each.requested == name for each in _taken(found)):
        raise CommandError(f"{found.metadata.name} has a snapshot called {name} already; choose another name")
    _patch(cluster, found, {"requests": {"snapshot": name}})

    def taken(now: ManagedSession) -> SnapshotStatus | None:
        return next((each for each in _taken(now) if each.requested == name), None)

    done = _wait(cluster, found, taken, f"the snapshot {name}", timeout)
    console.print(f"Took snapshot {done.id}", markup=False)
    return done


def restore(
    cluster: Cluster,
    installation: Installation,
    session: str,
    snapshot_id: str | None,
    timeout: float,
    console: Console,
) -> None:
    """Ask for a restore, and wait until it is done.

    Raises:
        CommandError: there is no such session or snapshot, or the restore was not done in time.
    """
    found = find_session(cluster, installation.namespace, session)
    wanted = snapshot_id or _newest(found)
    request = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    _patch(cluster, found, {"requests": {"restore": {"id": request, "snapshotID": wanted}}})

    def restored(now: ManagedSession) -> bool | None:
        sandbox = now.status.sandbox
        done = now.status.requests.restore == request and sandbox.replaces is None and sandbox.id
        if not done:
            return None
        if sandbox.from_snapshot != wanted:
            raise CommandError(f"{wanted} was not restored: {_failure(now) or 'see the conditions'}")
        return True

    _wait(cluster, found, restored, f"the restore of {wanted}", timeout)
    console.print(f"Restored {wanted}", markup=False)


def fork(
    cluster: Cluster,
    installation: Installation,
    session: str,
    to: str,
    snapshot_id: str | None,
    timeout: float,
    console: Console,
) -> None:
    """Let another session, which has no sandbox yet, start from a snapshot of this one.

    Raises:
        CommandError: the other session has a sandbox already, or there is no snapshot.
    """
    if not is_session_id(to):
        raise CommandError(f"{to} is not the ID of a session")
    _without_sandbox(cluster, installation, to)
    if snapshot_id is None:
        snapshot_id = snapshot(cluster, installation, session, None, timeout, console).id or ""
    adopt(cluster, installation, snapshot_id, to, console)


def adopt(cluster: Cluster, installation: Installation, snapshot_id: str, to: str, console: Console) -> None:
    """Let a session that has no sandbox yet start from a snapshot (raises as `fork`)."""
    if not is_session_id(to):
        raise CommandError(f"{to} is not the ID of a session")
    spec = {"sandbox": {"fromSnapshot": snapshot_id}}
    existing = _without_sandbox(cluster, installation, to)
    if existing is not None:
        _patch(cluster, existing, spec)
    else:
        cluster.create(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": resource_name(to), "namespace": installation.namespace},
                "spec": {"sessionID": to, **spec},
            }
        )
    console.print(f"Session {to} starts from {snapshot_id} with its first message.", markup=False)


def adopt_retained(
    cluster: Cluster, installation: Installation, given: str, to: str, console: Console
) -> None:
    """Let a session start from a snapshot, or from what a deleted session or its sandbox has left.

    Args:
        cluster: where the installation is.
        installation: its namespaces.
        given: the ID of a snapshot, of a deleted session, or of its sandbox.
        to: the session that starts.
        console: where to print.

    Raises:
        CommandError: there is no snapshot, it belongs to a resource, or the session has a sandbox already.
    """
    adopt(cluster, installation, _retained_by(cluster, installation, given), to, console)


def _retained_by(cluster: Cluster, installation: Installation, given: str) -> str:
    """Return the newest retained snapshot of a session or a sandbox; `given` itself if it is a snapshot."""
    if "/" in given or ":" in given:
        return given
    team, own = _team(cluster, installation)
    found = asyncio.run(team.snapshots(session_snapshot_prefix(own, given)))
    found = found or asyncio.run(team.snapshots(snapshot_prefix(own), given))
    if not found:
        return given
    left = _unowned(cluster, installation, found)
    if not left:
        raise CommandError(
            f"the snapshots of {given} belong to a ManagedSession; use `managed-sessions fork` instead"
        )
    # The names end with the time.
    return left[-1]


def retained_snapshots(
    team: E2BTeam, own: str, sessions: Sequence[ManagedSession]
) -> tuple[list[str], list[str]]:
    """Return the installation's snapshots, and those of them that belong to no resource."""
    known = asyncio.run(team.snapshots(snapshot_prefix(own)))
    return known, unowned(known, sessions)


def list_retained(cluster: Cluster, installation: Installation, console: Console) -> None:
    """Print the installation's snapshots that no resource has."""
    team, own = _team(cluster, installation)
    left = _unowned(cluster, installation, asyncio.run(team.snapshots(snapshot_prefix(own))))
    for each in left:
        console.print(each, markup=False)
    console.print(f"{counted(len(left), 'retained snapshot')}.")


def delete_retained(cluster: Cluster, installation: Installation, snapshot_id: str, console: Console) -> None:
    """Delete a snapshot that no resource has.

    Raises:
        CommandError: there is no such snapshot, a resource has it, or a sandbox was created from it.
    """
    team, own = _team(cluster, installation)
    known = asyncio.run(team.snapshots(snapshot_prefix(own)))
    if snapshot_id not in known:
        raise CommandError(f"E2B has no snapshot {snapshot_id} of this installation")
    if snapshot_id not in _unowned(cluster, installation, known):
        raise CommandError(f"{snapshot_id} belongs to a ManagedSession, which deletes it itself")
    if not asyncio.run(team.delete_snapshot(snapshot_id)):
        raise CommandError(f"E2B keeps {snapshot_id}, because a sandbox was created from it")
    console.print(f"Deleted {snapshot_id}", markup=False)


def _team(cluster: Cluster, installation: Installation) -> tuple[E2BTeam, str]:
    own = installation_id(
        cluster.get(installation.deployment(OPERATOR)),
        cluster.get(installation.settings),
        cluster.get(Reference("v1", "Namespace", installation.system_namespace)),
    )
    if own is None:
        raise CommandError("the installation's ID is unknown: its namespace does not exist")
    return E2BTeam(e2b_key(cluster, installation)), own


def _unowned(cluster: Cluster, installation: Installation, known: list[str]) -> list[str]:
    sessions = cluster.list(API_VERSION, KIND, installation.namespace)
    return unowned(known, [ManagedSession.model_validate(each) for each in sessions])


def unowned(known: list[str], sessions: Sequence[ManagedSession]) -> list[str]:
    """Return the snapshots that belong to no resource."""
    owned = {each.id for session in sessions for each in session.status.snapshots}
    return [each for each in known if each not in owned]


def _without_sandbox(cluster: Cluster, installation: Installation, session: str) -> ManagedSession | None:
    found = session_of(cluster, installation.namespace, session)
    if found is None:
        return None
    existing = ManagedSession.model_validate(found)
    if existing.status.sandbox.attempt:
        raise CommandError(
            f"{session} has a sandbox already. Only a session without one can start from a snapshot."
        )
    return existing


def _newest(session: ManagedSession) -> str:
    snapshots = _taken(session)
    if not snapshots:
        raise CommandError(f"{session.metadata.name} has no snapshot")
    return snapshots[-1].id or ""


def _taken(session: ManagedSession) -> list[SnapshotStatus]:
    return [each for each in session.status.snapshots if each.id]


def _patch(cluster: Cluster, session: ManagedSession, spec: Mapping[str, object]) -> None:
    cluster.merge(_reference(session), {"spec": spec})


def _reference(session: ManagedSession) -> Reference:
    return Reference(API_VERSION, KIND, session.metadata.name, session.metadata.namespace)


def _failure(session: ManagedSession) -> str:
    failed = session.status.condition(ConditionType.SNAPSHOT_FAILED)
    return failed.message if failed is not None else ""


def _wait(
    cluster: Cluster,
    session: ManagedSession,
    look: Callable[[ManagedSession], T | None],
    what: str,
    timeout: float,
) -> T:
    deadline = time.monotonic() + timeout
    while True:
        found = cluster.get(_reference(session))
        if found is None:
            raise NotFoundError(f"{session.metadata.name} was deleted")
        now = ManagedSession.model_validate(found)
        if (seen := look(now)) is not None:
            return seen
        if time.monotonic() > deadline:
            why = _failure(now) or "it is served when no worker runs (`kubectl get managedsessions`)"
            raise CommandError(f"{what} is still waited for: {why}. The operator keeps trying.")
        time.sleep(_POLL_SECONDS)
