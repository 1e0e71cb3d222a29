"""Client of E2B's snapshots: takes, finds and deletes them.

A snapshot is a template of E2B's, so it outlives its sandbox. It is found by its name, which the caller
chooses: if a snapshot of that name exists, E2B replaces it instead of making a second one.
"""

from __future__ import annotations

import logging

import e2b

from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS, OpenCalls
from managed_session_operator.clients.e2b.sandbox_pages import Call
from managed_session_operator.domain.errors import OperationError

logger = logging.getLogger(__name__)

_LIMIT = 100
_IN_USE = 400
"""E2B's answer to the deletion of a template from which a running or paused sandbox was created."""


class KeptSnapshots:
    """The snapshots of one E2B team.

    Args:
        call: opens a call, with fence, timeout and translation of errors.
        open_calls: the calls that may outlast a step.
        request_timeout: timeout of a quick call in seconds.
        patience: seconds that a step waits for a snapshot.
    """

    def __init__(self, call: Call, open_calls: OpenCalls, *, request_timeout: float, patience: float) -> None:
        self._call = call
        self._open = open_calls
        self._request_timeout = request_timeout
        self._patience = patience

    async def take(self, sandbox_id: str, name: str) -> str:
        """Take a snapshot of the running sandbox, or join the call that does. Return E2B's ID of it.

        E2B pauses the sandbox meanwhile, and its list may lack it.

        Raises:
            OperationError: no snapshot was taken, or (`outcome_known`) it is not known whether one was.
            UnderWayError: there is no response yet.
        """

        async def send() -> str:
            async with self._call("snapshot", OPEN_SECONDS) as sandbox:
                taken: e2b.SnapshotInfo = await sandbox.create_snapshot(
                    sandbox_id, name=name, retries=0, request_timeout=OPEN_SECONDS
                )
                return taken.snapshot_id

        return await self._open.join(sandbox_id, _operation(name), send, self._patience)

    def taking(self, sandbox_id: str, name: str) -> bool:
        """Whether a call that takes this snapshot is open."""
        return self._open.under_way(sandbox_id, _operation(name))

    async def find(self, name: str) -> str | None:
        """Return E2B's ID of the snapshot of this name; None if there is none."""
        async with self._call("snapshot list", self._request_timeout) as sandbox:
            pages = sandbox.list_snapshots(name=name, limit=_LIMIT, request_timeout=self._request_timeout)
            while pages.has_next:
                for each in await pages.next_items():
                    if name in {base_name(known) for known in (each.snapshot_id, *each.names)}:
                        return str(each.snapshot_id)
        return None

    async def delete(self, snapshot_id: str) -> bool:
        """Delete the snapshot. Return False if E2B keeps it, because a sandbox was created from it.

        E2B refuses that. Versions of it that do not would lose such a sandbox at its next pause, so the list
        of sandboxes is asked first.
        """
        if await self._in_use(snapshot_id):
            return False
        try:
            async with self._call("snapshot delete", self._request_timeout) as sandbox:
                await sandbox.delete_snapshot(snapshot_id, retries=0, request_timeout=self._request_timeout)
        except OperationError as error:
            if error.status == _IN_USE:
                return False
            raise
        return True

    async def _in_use(self, snapshot_id: str) -> bool:
        query = e2b.SandboxQuery(template=base_name(snapshot_id))
        async with self._call("list", self._request_timeout) as sandbox:
            pages = sandbox.list(query=query, limit=1, request_timeout=self._request_timeout)
            return bool(await pages.next_items())


def _operation(name: str) -> str:
    return f"snapshot {name}"


def base_name(snapshot: str) -> str:
    """Return the name without the team before it and the tag behind it."""
    return snapshot.rpartition("/")[2].partition(":")[0]
