"""The smoke test's steps, what shows that one is done, and why one may not be: pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from managed_session_api.conditions import ConditionStatus
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.installation import OPERATOR, WEBHOOK
from managed_session_cli.sessions import remedy, standing

ANSWER = "webhook-smoke-ok"
FILE = "/mnt/session/managed-sessions-smoke.txt"

_HOPELESS_SECONDS = 20.0
_PASSES = frozenset(
    {
        "Provisioning",
        "StartingWorker",
        "AwaitingClaim",
        "AwaitingMessage",
        "AwaitingLease",
        "AwaitingCapacity",
    }
)
"""Reasons of a session that is not ready, which pass by themselves."""


class Step(StrEnum):
    """What has to be seen of a turn, in this order. The value is what the user reads."""

    RESOURCE = "resource appeared"
    SANDBOX = "sandbox assigned"
    HEARTBEAT = "worker's first heartbeat"
    TOOL = "tool executed"
    ANSWER = "answered"
    IDLE = "session idle again"
    PAUSED = "sandbox paused"


@dataclass
class Observation:
    """What has been seen of one turn until now.

    Attributes:
        events: of the session since the message was sent.
        turns_before: turns that the resource had counted before the message.
        resource: the newest state of the session's resource.
    """

    events: list[Any] = field(default_factory=list)
    turns_before: int = 0
    resource: ManagedSession | None = None


def evidence(step: Step, seen: Observation) -> str | None:
    """What shows that the step is done; None while it is not."""
    resource = seen.resource
    status = resource.status if resource else None
    match step:
        case Step.RESOURCE:
            return resource.metadata.name if resource else None
        case Step.SANDBOX:
            return status.sandbox.id if status else None
        case Step.HEARTBEAT:
            served = status is not None and status.turns > seen.turns_before
            acts = status is not None and status.work.first_heartbeat_at and not status.work.finished_at
            return "a worker acts" if served or acts else None
        case Step.TOOL:
            used = [each for each in seen.events if each.type in ("agent.tool_use", "agent.custom_tool_use")]
            results = [each for each in seen.events if each.type == "user.tool_result"]
            name = str(getattr(used[0], "name", "tool")) if used else ""
            return name if used and results else None
        case Step.ANSWER:
            said = words(seen.events)
            return json.dumps(said[:200]) if ANSWER in said else None
        case Step.IDLE:
            return "end of the turn" if _turn_ended(seen.events) else None
        case Step.PAUSED:
            done = status is not None and status.sandbox.state is SandboxState.PAUSED
            return (
                f"{status.turns} turns served"
                if status and done and status.turns > seen.turns_before
                else None
            )


def words(events: Sequence[Any]) -> str:
    """What the agent has said."""
    blocks = [block for each in events if each.type == "agent.message" for block in each.content]
    return "\n".join(block.text for block in blocks if getattr(block, "type", "") == "text").strip()


def _turn_ended(events: Sequence[Any]) -> bool:
    return any(
        each.type == "session.status_idle" and each.stop_reason.type != "requires_action" for each in events
    )


def hopeless(seen: Observation, unchanged_seconds: float) -> bool:
    """Whether waiting is of no use any more: the resource has long given a reason that does not pass."""
    if any(each.type == "session.status_terminated" for each in seen.events):
        return True
    if seen.resource is None:
        return False
    ready, reason, _ = standing(seen.resource)
    stays = ready == ConditionStatus.FALSE.value and reason not in _PASSES
    return stays and unchanged_seconds >= _HOPELESS_SECONDS


def explanation(step: Step, seen: Observation) -> list[str]:
    """The probable causes of a step that was not reached, and what to run."""
    lines = []
    if seen.resource is not None:
        ready, reason, message = standing(seen.resource)
        if ready == ConditionStatus.FALSE.value:
            lines.append(f"the resource says {reason}: {message}")
            if remedy(reason):
                lines.append(remedy(reason))
    if said := words(seen.events):
        lines.append(f"the agent said: {json.dumps(said[:300])}")
    return lines + _CAUSES[step]


def filled_in(line: str, session_id: str, system_namespace: str) -> str:
    """A line of an explanation with the names that its placeholders stand for."""
    return re.sub(r"\bSYSTEM\b", system_namespace, re.sub(r"\bSESSION\b", session_id, line))


_CAUSES = {
    Step.RESOURCE: [
        "the operator cannot poll the queue: refused key, other environment, no leader",
        "or another worker of this environment took the work",
        "run: managed-sessions doctor",
        f"run: kubectl logs --namespace=SYSTEM --selector=app.kubernetes.io/name={OPERATOR} --tail=99",
    ],
    Step.SANDBOX: [
        "E2B does not create the sandbox: template absent, key refused, limit of running sandboxes reached",
        "run: managed-sessions doctor",
    ],
    Step.HEARTBEAT: [
        "the worker cannot start in the sandbox, or does not reach Anthropic from there",
        "run: managed-sessions logs SESSION",
    ],
    Step.TOOL: [
        "the agent asked for no tool (has it bash?), or the tool waits for somebody's confirmation",
        "or its result could not be posted",
        "run: managed-sessions logs SESSION",
    ],
    Step.ANSWER: [
        "the agent's answer is another one: look at the session in the Claude Console",
        "run: managed-sessions logs SESSION",
    ],
    Step.IDLE: [
        "the turn does not end; at requires_action the worker's result is missing",
        "run: managed-sessions logs SESSION",
    ],
    Step.PAUSED: [
        "the worker waits MANAGED_SESSIONS_MAX_IDLE_SECONDS for a message, then the sandbox is paused",
        "run: managed-sessions doctor SESSION",
    ],
}


def health(status: int, text: str) -> tuple[bool | None, str]:
    """Whether the webhook is healthy (None: that cannot be seen from here), and what is to be said.

    Args:
        status: HTTP status of the webhook's answer, or of the API server's on its behalf.
        text: the answer.
    """
    if status == 200:
        try:
            healthy = json.loads(text).get("ok") is True
        except (ValueError, AttributeError):
            healthy = False
        return (True, "ok: true") if healthy else (False, "it answers, and not with ok: true")
    if status == 403:
        return None, "you may not use the API server's proxy to the Service (get services/proxy)"
    if status == 404:
        return False, f"the Service {WEBHOOK} is absent: run managed-sessions install"
    if status == 503:
        return None, "the Service has no ready endpoint: sessions are served by polling alone"
    return False, f"HTTP {status}"
