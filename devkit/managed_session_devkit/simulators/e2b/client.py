"""A client of the simulator's control surface, for tests, the demo and benchmarks."""

import signal
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx

from managed_session_devkit.simulators.common.control_client import ControlClient


@dataclass(frozen=True)
class HostProcess:
    """A process of a sandbox, as the host sees it."""

    host_pid: int
    pid: int
    state: str
    command: str

    @property
    def name(self) -> str:
        """Its short name (proc(5), `comm`); empty if it has ended."""
        try:
            return Path(f"/proc/{self.host_pid}/comm").read_text().strip()
        except OSError:
            return ""

    def environment(self) -> dict[str, str]:
        """Return the environment that it was started with. Raises OSError if it has ended."""
        raw = Path(f"/proc/{self.host_pid}/environ").read_bytes()
        pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0") if entry)
        return {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class SimulatedSandbox:
    """A present or past sandbox. `root` is its file system on the host, or None after a kill."""

    id: str
    state: str
    template_id: str
    alias: str
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime
    end_at: datetime
    paused_at: datetime | None
    killed_at: datetime | None
    kill_reason: str | None
    resumes: int
    history: list[dict[str, str]]
    billed_seconds: float
    idempotency_key: str | None
    root: Path | None
    init_pid: int | None
    processes: tuple[HostProcess, ...]
    raw: dict[str, Any]

    def path(self, inside: str) -> Path:
        """Return the host's path of a path inside. Raises FileNotFoundError if the sandbox was killed."""
        if self.root is None:
            raise FileNotFoundError(f"sandbox {self.id} has no files any more")
        return self.root / inside.lstrip("/")

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        """Parse the control surface's JSON."""
        return cls(
            id=raw["sandboxID"],
            state=raw["state"],
            template_id=raw["templateID"],
            alias=raw["alias"],
            metadata=raw["metadata"],
            created_at=datetime.fromisoformat(raw["createdAt"]),
            started_at=datetime.fromisoformat(raw["startedAt"]),
            end_at=datetime.fromisoformat(raw["endAt"]),
            paused_at=datetime.fromisoformat(raw["pausedAt"]) if raw["pausedAt"] else None,
            killed_at=datetime.fromisoformat(raw["killedAt"]) if raw["killedAt"] else None,
            kill_reason=raw["killReason"],
            resumes=raw["resumes"],
            history=raw["history"],
            billed_seconds=raw["billedSeconds"],
            idempotency_key=raw["idempotencyKey"],
            root=Path(raw["root"]) if raw["root"] else None,
            init_pid=raw["initPID"],
            processes=tuple(
                HostProcess(entry["hostPID"], entry["pid"], entry["state"], entry["command"])
                for entry in raw["processes"]
            ),
            raw=raw,
        )


@dataclass(frozen=True)
class LedgerView:
    """Counters, and calls as dictionaries with at, operation, method, path, status, sandboxID and more."""

    calls: list[dict[str, Any]]
    operations: dict[str, int]
    statuses: dict[str, int]
    events: dict[str, int]
    peak_concurrent: int
    concurrent: int


class E2BSimulatorClient(ControlClient):
    """A typed client of `/_simulator/`. Its methods raise httpx.HTTPError."""

    async def _call(self, method: str, path: str, json: object = None, **query: str | None) -> Any:
        response = await self._send(method, path, json, query)
        if response.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {response.status_code} {response.text}",
                request=response.request,
                response=response,
            )
        return response.json() if response.content else None

    async def ledger(self, *, operation: str | None = None, sandbox_id: str | None = None) -> LedgerView:
        """Return the calls that match, and the counters of all calls."""
        raw = await self._call("GET", "/ledger", operation=operation, sandboxID=sandbox_id)
        counters = raw["counters"]
        return LedgerView(
            calls=raw["calls"],
            operations=counters["operations"],
            statuses=counters["statuses"],
            events=counters["events"],
            peak_concurrent=counters["peakConcurrent"],
            concurrent=counters["concurrent"],
        )

    async def clear_ledger(self) -> None:
        """Clear calls and counters."""
        await self._call("DELETE", "/ledger")

    async def settings(self) -> dict[str, Any]:
        """Return the current settings."""
        settings: dict[str, Any] = await self._call("GET", "/settings")
        return settings

    async def change_settings(self, **changes: Any) -> dict[str, Any]:
        """Change some settings, and return all of them."""
        settings: dict[str, Any] = await self._call("PATCH", "/settings", json=changes)
        return settings

    async def add_fault(
        self,
        operation: str,
        action: dict[str, Any] | str,
        *,
        match: dict[str, Any] | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> dict[str, Any]:
        """Add a fault. `action` is the name of an action, or an object as in `faults.Action`."""
        wanted = {"action": action} if isinstance(action, str) else action
        body = {"operation": operation, "match": match or {}, "times": times, "skip": skip, "action": wanted}
        fault: dict[str, Any] = await self._call("POST", "/faults", json=body)
        return fault

    async def faults(self) -> list[dict[str, Any]]:
        """Return all faults, each with how often it was applied."""
        faults: list[dict[str, Any]] = await self._call("GET", "/faults")
        return faults

    async def clear_faults(self) -> None:
        """Remove all faults."""
        await self._call("DELETE", "/faults")

    async def templates(self) -> list[dict[str, Any]]:
        """Return all templates with their builds and recorded steps."""
        templates: list[dict[str, Any]] = await self._call("GET", "/templates")
        return templates

    async def delete_template(self, template: str) -> None:
        """Delete a template by ID or name. E2B then kills its running sandboxes when they pause."""
        await self._call("DELETE", f"/templates/{template}")

    async def sandboxes(self, *states: str) -> list[SimulatedSandbox]:
        """Return all sandboxes ever, or those in some states: running, pausing, paused, killing, killed."""
        raw = await self._call("GET", "/sandboxes", state=",".join(states) or None)
        return [SimulatedSandbox.parse(entry) for entry in raw]

    async def sandbox(self, sandbox_id: str) -> SimulatedSandbox:
        """Return a sandbox."""
        return SimulatedSandbox.parse(await self._call("GET", f"/sandboxes/{sandbox_id}"))

    async def add_paused(self, template: str, metadata: list[dict[str, str]]) -> list[str]:
        """Add a paused sandbox for each metadata, and return the IDs. They have no files until a resume."""
        body = {"template": template, "metadata": metadata}
        ids: list[str] = await self._call("POST", "/sandboxes", json=body)
        return ids

    async def vanish(self, sandbox_id: str) -> None:
        """Lose a sandbox with its files, without notice."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/vanish")

    async def wedge(self, sandbox_id: str) -> None:
        """Stop a running sandbox's guest agent from answering until the next boot."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/wedge")

    async def crash(self, sandbox_id: str) -> None:
        """End the machine of a running sandbox. E2B's record still says that it runs."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/crash")

    async def expire(self, sandbox_id: str) -> None:
        """End the countdown of a running sandbox now."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/expire")

    async def cut_silently(self, sandbox_id: str) -> int:
        """Lose connections of a sandbox and its clients without a reset. Return how many the sandbox had."""
        raw: dict[str, int] = await self._call("POST", f"/sandboxes/{sandbox_id}/cut")
        return raw["inside"]

    async def lose_network(self, seconds: float = 0, *, reset: bool = False) -> int:
        """Lose all clients' connections, and accept none for a while. Return how many there were.

        Without `reset` the peers do not notice.
        """
        body = {"seconds": seconds, "reset": reset}
        raw: dict[str, int] = await self._call("POST", "/network/loss", json=body)
        return raw["lost"]

    async def egress(self) -> list[dict[str, Any]]:
        """Return what sandboxes have requested through the egress proxy."""
        requests: list[dict[str, Any]] = await self._call("GET", "/egress")
        return requests

    async def hide(self, sandbox_id: str, seconds: float) -> None:
        """Leave a sandbox out of lists, as E2B does while it takes a snapshot."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/hide", json={"seconds": seconds})

    async def duplicate(self, sandbox_id: str, times: int = 1) -> None:
        """Show a sandbox twice in the next lists."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/duplicate", json={"times": times})

    async def lose_files(self, sandbox_id: str, path: str = "/mnt/session") -> None:
        """Empty a directory of a running or paused sandbox."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/lose-files", json={"path": path})

    async def kill_processes(self, sandbox_id: str, contains: str = "") -> list[int]:
        """SIGKILL the processes whose command line contains a text. Return their host PIDs."""
        return await self.signal_processes(sandbox_id, signal.SIGKILL, contains)

    async def signal_processes(
        self, sandbox_id: str, number: signal.Signals, contains: str = "", *, host_pid: int | None = None
    ) -> list[int]:
        """Signal the processes whose command line contains a text, or one process. Return their host PIDs."""
        chosen = None if host_pid is None else [host_pid]
        raw = await self._call(
            "POST",
            f"/sandboxes/{sandbox_id}/signal",
            json={"contains": contains, "signal": number.name, "hostPIDs": chosen},
        )
        reached: list[int] = raw["reached"]
        return reached


def process_exists(host_pid: int) -> bool:
    """Return whether a process lives. A zombie does not."""
    try:
        state = Path(f"/proc/{host_pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
