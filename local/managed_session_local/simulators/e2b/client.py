"""Client of the simulator's control surface, for tests, the demo and benchmarks."""

import signal
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx


@dataclass(frozen=True)
class HostProcess:
    """A process inside a sandbox as the host sees it."""

    host_pid: int
    parent_host_pid: int
    pid: int
    state: str
    command: str

    def environment(self) -> dict[str, str]:
        """The environment it was started with. Raises OSError when it is gone."""
        raw = Path(f"/proc/{self.host_pid}/environ").read_bytes()
        pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0") if entry)
        return {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class SimulatedSandbox:
    """A sandbox of now or earlier. `root` is its file system on the host, None once it is killed."""

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
        """The host path of an absolute path inside. Raises FileNotFoundError once the sandbox is killed."""
        if self.root is None:
            raise FileNotFoundError(f"sandbox {self.id} has no files any more")
        return self.root / inside.lstrip("/")

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        """From the JSON of the control surface."""
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
                HostProcess(
                    entry["hostPID"], entry["parentHostPID"], entry["pid"], entry["state"], entry["command"]
                )
                for entry in raw["processes"]
            ),
            raw=raw,
        )


@dataclass(frozen=True)
class LedgerView:
    """Calls (dictionaries with at, operation, method, path, status, sandboxID, …) and counters."""

    calls: list[dict[str, Any]]
    operations: dict[str, int]
    statuses: dict[str, int]
    events: dict[str, int]
    peak_concurrent: int
    concurrent: int


class E2BSimulatorClient:
    """Typed access to `/_simulator/`. Every method raises httpx.HTTPError on failure."""

    def __init__(self, url: str, *, timeout_seconds: float = 30) -> None:
        self.url = url
        self._client = httpx.AsyncClient(
            base_url=url + "/_simulator", timeout=timeout_seconds, trust_env=False
        )

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, json: object = None, **query: str | None) -> Any:
        parameters = {key: value for key, value in query.items() if value is not None}
        response = await self._client.request(method, path, json=json, params=parameters)
        if response.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {response.status_code} {response.text}",
                request=response.request,
                response=response,
            )
        return response.json() if response.content else None

    async def ledger(self, *, operation: str | None = None, sandbox_id: str | None = None) -> LedgerView:
        """Calls, filtered, and the counters of all."""
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
        """Forget calls and counters."""
        await self._call("DELETE", "/ledger")

    async def settings(self) -> dict[str, Any]:
        """The settings in force."""
        settings: dict[str, Any] = await self._call("GET", "/settings")
        return settings

    async def change_settings(self, **changes: Any) -> dict[str, Any]:
        """Change some settings; the settings then in force."""
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
        """Put a fault in force. `action` is a named action or an object as in faults.Action."""
        wanted = {"action": action} if isinstance(action, str) else action
        body = {"operation": operation, "match": match or {}, "times": times, "skip": skip, "action": wanted}
        fault: dict[str, Any] = await self._call("POST", "/faults", json=body)
        return fault

    async def faults(self) -> list[dict[str, Any]]:
        """All faults with their hits."""
        faults: list[dict[str, Any]] = await self._call("GET", "/faults")
        return faults

    async def clear_faults(self) -> None:
        """Remove all faults."""
        await self._call("DELETE", "/faults")

    async def templates(self) -> list[dict[str, Any]]:
        """All templates with their builds and recorded steps."""
        templates: list[dict[str, Any]] = await self._call("GET", "/templates")
        return templates

    async def delete_template(self, template: str) -> None:
        """Delete a template by ID or name; E2B then kills its running sandboxes when they pause."""
        await self._call("DELETE", f"/templates/{template}")

    async def sandboxes(self, *states: str) -> list[SimulatedSandbox]:
        """All sandboxes ever, or those in some states (running, pausing, paused, killing, killed)."""
        raw = await self._call("GET", "/sandboxes", state=",".join(states) or None)
        return [SimulatedSandbox.parse(entry) for entry in raw]

    async def sandbox(self, sandbox_id: str) -> SimulatedSandbox:
        """One sandbox."""
        return SimulatedSandbox.parse(await self._call("GET", f"/sandboxes/{sandbox_id}"))

    async def add_paused(self, template: str, metadata: list[dict[str, str]]) -> list[str]:
        """Add a paused sandbox for each metadata, without files until it is resumed; their IDs."""
        body = {"template": template, "metadata": metadata}
        ids: list[str] = await self._call("POST", "/sandboxes", json=body)
        return ids

    async def vanish(self, sandbox_id: str) -> None:
        """Lose a sandbox with its files, unannounced."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/vanish")

    async def expire(self, sandbox_id: str) -> None:
        """Let a running sandbox's timeout elapse now."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/expire")

    async def hide(self, sandbox_id: str, seconds: float) -> None:
        """Leave a sandbox out of listings, as while it is being snapshotted."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/hide", json={"seconds": seconds})

    async def duplicate(self, sandbox_id: str, times: int = 1) -> None:
        """Show a sandbox twice in the next listings."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/duplicate", json={"times": times})

    async def lose_files(self, sandbox_id: str, path: str = "/mnt/session") -> None:
        """Empty a directory of a running or paused sandbox."""
        await self._call("POST", f"/sandboxes/{sandbox_id}/lose-files", json={"path": path})

    async def kill_processes(self, sandbox_id: str, contains: str = "") -> list[int]:
        """SIGKILL the processes whose command line contains a text; their host PIDs."""
        return await self.signal_processes(sandbox_id, signal.SIGKILL, contains)

    async def signal_processes(
        self, sandbox_id: str, number: signal.Signals, contains: str = "", *, host_pid: int | None = None
    ) -> list[int]:
        """Send a signal to the processes whose command line contains a text, or to one; their host PIDs."""
        chosen = None if host_pid is None else [host_pid]
        raw = await self._call(
            "POST",
            f"/sandboxes/{sandbox_id}/signal",
            json={"contains": contains, "signal": number.name, "hostPIDs": chosen},
        )
        reached: list[int] = raw["reached"]
        return reached


def process_exists(host_pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        state = Path(f"/proc/{host_pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
