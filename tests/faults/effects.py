"""Effects: the calls by which the product changes something outside, named by what they mean.

A status write is named by what it records, since one turn has several of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..support.api_server_proxy import ApiCall

Cloud = Literal["kubernetes", "e2b", "anthropic"]

NOT_OF_A_SESSION = frozenset(
    {
        "update leases",
        "create leases",
        "create events",
        "patch events",
        "patch managedsessionclasses/status",
    }
)
"""Written beside the sessions: the Lease has rows of its own; Events and a class's status are for people."""


@dataclass(frozen=True)
class Effect:
    """One kind of call that changes something."""

    cloud: Cloud
    name: str

    def __str__(self) -> str:
        return f"{self.cloud}: {self.name}"

    @property
    def matches(self) -> Callable[[ApiCall], bool]:
        """Finds it among the calls to the API server."""
        return lambda call: kubernetes_effect(call) == self


def kubernetes_effect(call: ApiCall) -> Effect | None:
    """What a call to the API server changes; None for a read and for what is not about a session."""
    if call.verb in ("get", "list", "watch") or call.operation in NOT_OF_A_SESSION:
        return None
    if call.operation == "patch managedsessions/status":
        return Effect("kubernetes", f"status: {_status_change(call.body or {})}")
    if call.operation == "patch managedsessions":
        held = (call.body or {}).get("metadata", {}).get("finalizers")
        return Effect("kubernetes", "finalizer removed" if held == [] else "identity")
    return Effect("kubernetes", call.operation)


def _status_change(body: dict[str, Any]) -> str:
    """The newest thing that a patch of the status records."""
    status = body.get("status", {})
    work, sandbox = status.get("work") or {}, status.get("sandbox") or {}
    if status.get("lastEvent"):
        return "event"
    if status.get("endedAt"):
        return "end"
    for field in ("finishedAt", "firstHeartbeatAt", "acknowledgedAt"):
        if work.get(field):
            return {
                "finishedAt": "finished",
                "firstHeartbeatAt": "heartbeat",
                "acknowledgedAt": "acknowledged",
            }[field]
    if work.get("waitPausedAt"):
        return "wait paused"
    if work.get("waitResumedAt"):
        return "wait resumed"
    if work.get("claim"):
        return "claim"
    if sandbox.get("id"):
        return "sandbox ID"
    if sandbox.get("state"):
        return f"sandbox {sandbox['state'].lower()}"
    return "standing"
