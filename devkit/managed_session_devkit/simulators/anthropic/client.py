"""A typed client of the simulator's control surface."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel, ConfigDict

from managed_session_devkit.simulators.common.control_client import ControlClient


class ControlError(Exception):
    """The control surface refused a request. The message says why."""


class WebhookEndpoint(BaseModel):
    """A registered webhook endpoint. Its receiver needs `secret`, the signing secret."""

    id: str
    url: str
    events: list[str]
    secret: str
    secrets: list[str]
    disabled: str | None


class TurnTimes(BaseModel):
    """The times of one message's turn: seconds since the epoch, and milliseconds since the message."""

    model_config = ConfigDict(extra="ignore")

    message_id: str
    sent_at: float
    worker_live: bool
    answered_at: float | None
    interrupted_at: float | None
    to_ack_ms: float | None
    to_heartbeat_ms: float | None
    to_answer_ms: float | None


class SessionSummary(BaseModel):
    """Counters and turns of one session. `Ledger.count_names` has the names of the counters."""

    counts: dict[str, int]
    turns: list[TurnTimes]
    worker_streams: int


class SessionReport(SessionSummary):
    """All that the simulator knows of one session. `session` and `work` are None if there is none."""

    session: dict[str, Any] | None
    events: list[dict[str, Any]]
    waiting_for: list[str]
    work: dict[str, Any] | None
    timeline: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]


class LedgerReport(BaseModel):
    """The ledger: calls, deliveries and counters since the start or the last clearing."""

    calls: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    operations: dict[str, dict[str, int]]
    totals: dict[str, int]
    sessions: dict[str, SessionSummary]
    script_mismatches: list[dict[str, Any]]
    faults_applied: dict[str, int]
    healthchecks: dict[str, int]
    stranded: list[str]


class AnthropicSimulator(ControlClient):
    """The control surface of one running simulator. Methods raise ControlError if the simulator refuses."""

    async def _call(self, method: str, path: str, body: Any = None, **query: str | None) -> Any:
        response = await self._send(method, path, body, query)
        if response.is_error:
            raise ControlError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    async def reset(self) -> None:
        """Reset to the state that the initial settings define."""
        await self._call("POST", "/reset")

    async def ledger(self, *, calls: bool = True) -> LedgerReport:
        """Return the ledger. Without `calls`, omit its calls and deliveries."""
        return LedgerReport.model_validate(await self._call("GET", "/ledger", calls=str(calls).lower()))

    async def clear_ledger(self) -> None:
        """Forget all calls and counters."""
        await self._call("DELETE", "/ledger")

    async def session(self, session_id: str) -> SessionReport:
        """Return everything about one session, even a deleted one."""
        return SessionReport.model_validate(await self._call("GET", f"/sessions/{session_id}"))

    async def settings(self) -> dict[str, Any]:
        """Return the current settings."""
        return dict(await self._call("GET", "/settings"))

    async def change_settings(self, **sections: Any) -> dict[str, Any]:
        """Merge a change into the settings, such as ``work={"lease_ttl_seconds": 2}``. Return them all."""
        return dict(await self._call("PATCH", "/settings", sections))

    async def add_fault(
        self,
        operation: str,
        action: dict[str, Any],
        *,
        match: dict[str, str] | None = None,
        times: int | None = 1,
        skip: int = 0,
        probability: float = 1,
    ) -> str:
        """Add a fault and return its ID. `faults.Action` describes the actions; `times=None` means always."""
        fault = {
            "operation": operation,
            "action": action,
            "match": match or {},
            "times": times,
            "skip": skip,
            "probability": probability,
        }
        return str((await self._call("POST", "/faults", fault))["id"])

    async def faults(self) -> list[dict[str, Any]]:
        """Return the faults, each with how often it was applied."""
        return list(await self._call("GET", "/faults"))

    async def clear_faults(self) -> None:
        """Remove all faults."""
        await self._call("DELETE", "/faults")

    async def add_webhook(
        self, url: str, *, events: list[str] | None = None, secrets: list[str] | None = None
    ) -> WebhookEndpoint:
        """Register an endpoint. Default: for the documented session events, with a generated secret."""
        body: dict[str, Any] = {"url": url, "secrets": secrets or []}
        if events is not None:
            body["events"] = events
        return WebhookEndpoint.model_validate(await self._call("POST", "/webhooks", body))

    async def webhooks(self) -> list[WebhookEndpoint]:
        """Return the registered endpoints."""
        return [WebhookEndpoint.model_validate(row) for row in await self._call("GET", "/webhooks")]

    async def change_webhook(
        self, endpoint_id: str, *, enabled: bool | None = None, secrets: list[str] | None = None
    ) -> WebhookEndpoint:
        """Enable or disable an endpoint, or replace its signing secrets."""
        change = {"enabled": enabled, "secrets": secrets}
        return WebhookEndpoint.model_validate(await self._call("PATCH", f"/webhooks/{endpoint_id}", change))

    async def remove_webhook(self, endpoint_id: str) -> None:
        """Remove an endpoint."""
        await self._call("DELETE", f"/webhooks/{endpoint_id}")

    async def deliver(self, **event: Any) -> dict[str, Any]:
        """Deliver an event now and return it. Arguments: fields of `control_routes.DeliveryRequest`."""
        return dict((await self._call("POST", "/webhooks/deliveries", event))["event"])

    async def hold_webhooks(self) -> None:
        """Hold every delivery until `release_webhooks`."""
        await self._call("POST", "/webhooks/hold", {"hold": True})

    async def release_webhooks(self, order: str = "fifo") -> int:
        """Send the held deliveries in the order ``fifo``, ``lifo`` or ``shuffle``. Return how many."""
        return int((await self._call("POST", "/webhooks/hold", {"hold": False, "order": order}))["released"])

    async def add_environment(
        self, environment_id: str | None = None, key: str | None = None
    ) -> tuple[str, str]:
        """Add an environment (or a key to one) and return its ID and the key."""
        body = {name: value for name, value in (("id", environment_id), ("key", key)) if value is not None}
        added = await self._call("POST", "/environments", body)
        return str(added["id"]), str(added["key"])

    async def revoke(self, secret: str) -> None:
        """Refuse a key or session token from the next call on."""
        await self._call("POST", "/credentials/revoke", {"secret": secret})

    async def add_agent(self, *, skills: list[dict[str, Any]] | None = None) -> str:
        """Add an agent with skills (``{"type": "custom", "skill_id", "version"}``); return its ID."""
        return str((await self._call("POST", "/agents", {"skills": skills or []}))["id"])

    async def add_skill(
        self,
        name: str,
        files: dict[str, str] | None = None,
        *,
        archive: bytes | None = None,
        skill_id: str | None = None,
    ) -> dict[str, Any]:
        """Add a version of a skill, from text files by path or from an archive. Return the version."""
        body: dict[str, Any] = {"name": name, "files": files or {}}
        if archive is not None:
            body["archive"] = base64.b64encode(archive).decode()
        if skill_id is not None:
            body["id"] = skill_id
        return dict(await self._call("POST", "/skills", body))

    async def add_script(self, name: str, match: str, steps: list[dict[str, Any]]) -> None:
        """Play these steps (see `scripts`) for messages that match the regular expression."""
        await self._call("POST", "/scripts", {"name": name, "match": match, "steps": steps})

    async def work(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return all work items, and the IDs of the stranded ones."""
        report = await self._call("GET", "/work")
        return list(report["items"]), list(report["stranded"])

    async def add_healthcheck(self, environment_id: str | None = None) -> str:
        """Queue a health check and return the work item's ID."""
        body = {} if environment_id is None else {"environment_id": environment_id}
        return str((await self._call("POST", "/work/healthchecks", body))["id"])

    async def lapse_lease(self, work_id: str) -> None:
        """End the item's lease now, as if it had lapsed without a heartbeat."""
        await self._call("POST", f"/work/{work_id}/lapse")

    async def terminate_session(self, session_id: str) -> None:
        """Terminate a session, as an unrecoverable error does."""
        await self._call("POST", f"/sessions/{session_id}/terminate")

    async def lose_network(
        self, seconds: float = 0, *, of: tuple[str, ...] = ("sessions_token", "environment_key")
    ) -> int:
        """Lose the open connections of workers and operators silently. Return how many there were.

        Args:
            seconds: how long new connections fail for everyone.
            of: kinds of credentials. A connection counts by the credential of its last request.
        """
        return int((await self._call("POST", "/network/loss", {"seconds": seconds, "of": list(of)}))["lost"])

    async def sever_streams(self, session_id: str) -> int:
        """Close the session's event streams. Return how many there were."""
        return int((await self._call("POST", f"/sessions/{session_id}/sever"))["severed"])
