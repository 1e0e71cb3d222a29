"""Watches the ManagedSession resources of a namespace with kubectl, and reports changes."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Self

from managed_session_api.names import PLURAL

from managed_session_devkit.control_plane.processes import dying_with_this_process
from managed_session_devkit.system.local_system import LocalSystem


@dataclass(frozen=True)
class Observed:
    """The fields of one resource that the demo needs. A field is empty until it is set."""

    name: str = ""
    session: str = ""
    phase: str = ""
    reason: str = ""
    sandbox: str = ""
    state: str = ""
    claim: str = ""
    acknowledged: str = ""
    heartbeat: str = ""
    finished: str = ""
    exit: str = ""
    turns: str = ""
    deleting: str = ""


_PATHS = (
    ".metadata.name", ".spec.sessionID", ".status.phase", '.status.conditions[?(@.type=="Ready")].reason',
    ".status.sandbox.id", ".status.sandbox.state", ".status.work.claim", ".status.work.acknowledgedAt",
    ".status.work.firstHeartbeatAt", ".status.work.finishedAt", ".status.work.exitReason", ".status.turns",
    ".metadata.deletionTimestamp",
)  # fmt: skip

_SEPARATOR = "|"
"""No value contains this. (kubectl replaces tabs with spaces.)"""


class ResourceWatch:
    """The newest version of each resource by session ID, from a running `kubectl get --watch`."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self.resources: dict[str, Observed] = {}
        self._report = report
        self._changed = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def on(cls, system: LocalSystem, report: Callable[[str, str], None]) -> AsyncIterator[Self]:
        """Watch until the block ends. `report` is called with a part of the system and what it did."""
        watch = cls(report)
        columns = (".type", *(f".object{path}" for path in _PATHS))
        template = f'{{"{_SEPARATOR}"}}'.join(f"{{{column}}}" for column in columns)
        process = await asyncio.create_subprocess_exec(
            *dying_with_this_process(),
            str(system.control_plane.binaries.kubectl),
            "get", PLURAL, f"--namespace={system.namespace}", "--watch", "--output-watch-events",
            f'--output=jsonpath={template}{{"\\n"}}',
            env={**os.environ, "KUBECONFIG": str(system.kubeconfig), "KUBECTL_KUBERC": "false"},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        reading = asyncio.create_task(watch._read(process))
        try:
            yield watch
        finally:
            process.terminate()
            await process.wait()
            reading.cancel()

    async def until(self, condition: Callable[[dict[str, Observed]], bool], timeout_seconds: float) -> bool:
        """Wait until the resources, by session ID, meet the condition. Return whether they did in time."""
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(lambda: condition(self.resources))
        except TimeoutError:
            return False
        return True

    def of(self, session_id: str) -> Observed:
        """Return the resource of a session, or an empty one."""
        return self.resources.get(session_id, Observed())

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            kind, *values = line.decode().rstrip("\n").split(_SEPARATOR)
            if len(values) != len(fields(Observed)):
                continue
            now = Observed(*values)
            before = self.resources.get(now.session, Observed())
            if kind == "DELETED":
                self.resources.pop(now.session, None)
                self._report("resource", f"{now.name} is gone")
            else:
                self.resources[now.session] = now
                self._report_changes(before, now)
            async with self._changed:
                self._changed.notify_all()

    def _report_changes(self, before: Observed, now: Observed) -> None:
        changed = {
            field.name
            for field in fields(Observed)
            if getattr(before, field.name) != getattr(now, field.name)
        }
        if not before.name:
            self._report("resource", f"ManagedSession {now.name} created")
        if "claim" in changed and now.claim:
            self._report("operator", f"work claimed ({now.claim})")
        if "sandbox" in changed and now.sandbox:
            self._report("sandbox", f"{now.sandbox} assigned")
        if "state" in changed and now.sandbox and now.state:
            self._report("sandbox", f"{now.sandbox} {now.state}")
        if "acknowledged" in changed and now.acknowledged:
            self._report("operator", "work acknowledged")
        if "heartbeat" in changed and now.heartbeat:
            self._report("worker", "first heartbeat answered")
        if "finished" in changed and now.finished:
            self._report("worker", f"ended: {now.exit}")
        if changed & {"phase", "reason"} and now.phase:
            self._report("resource", f"{now.phase}" + (f" ({now.reason})" if now.reason != now.phase else ""))
        if "deleting" in changed and now.deleting:
            self._report("resource", f"{now.name} is being deleted")
