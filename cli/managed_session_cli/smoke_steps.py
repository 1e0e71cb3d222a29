"""Defines the smoke test's steps, how each is recognized, and why one may fail. Pure functions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from managed_session_api.conditions import PASSING_REASONS, ConditionStatus
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.paths import Paths

from managed_session_cli.conversation import answer_in, is_end_of_turn
from managed_session_cli.installation import OPERATOR, WEBHOOK
from managed_session_cli.sessions import ready_condition, remedy
from managed_session_cli.wording import counted

ANSWER = "webhook-smoke-ok"
FILE = f"{Paths().workdir}/managed-sessions-smoke.txt"

_HOPELESS_SECONDS = 20.0


class Step(StrEnum):
    """The steps of a turn, in order. The value is what the user reads."""

    RESOURCE = "resource appeared"
    SANDBOX = "sandbox assigned"
    HEARTBEAT = "worker's first heartbeat"
    TOOL = "tool executed"
    ANSWER = "answered"
    IDLE = "session idle again"
    PAUSED = "sandbox paused"


@dataclass
class TurnProgress:
    """What is known of one turn so far.

    Attributes:
        events: of the session, since the message was sent.
        turns_before: turns that the resource had counted before the message.
        resource: the newest state of the session's resource.
    """

    events: list[Any] = field(default_factory=list)
    turns_before: int = 0
    resource: ManagedSession | None = None


def evidence(step: Step, seen: TurnProgress) -> str | None:
    """Return what shows that the step is done; None while it is not."""
    resource = seen.resource
    status = resource.status if resource else None
    match step:
        case Step.RESOURCE:
            return resource.metadata.name if resource else None
        case Step.SANDBOX:
            return status.sandbox.id if status else None
        case Step.HEARTBEAT:
            served = status is not None and status.turns > seen.turns_before
            runs = status is not None and status.work.first_heartbeat_at and not status.work.finished_at
            return "the worker runs" if served or runs else None
        case Step.TOOL:
            used = [each for each in seen.events if each.type in ("agent.tool_use", "agent.custom_tool_use")]
            results = [each for each in seen.events if each.type == "user.tool_result"]
            name = str(getattr(used[0], "name", "tool")) if used else ""
            return name if used and results else None
        case Step.ANSWER:
            answer = answer_in(seen.events)
            return json.dumps(answer[:200]) if ANSWER in answer else None
        case Step.IDLE:
            return "end of the turn" if any(is_end_of_turn(each) for each in seen.events) else None
        case Step.PAUSED:
            done = status is not None and status.sandbox.state is SandboxState.PAUSED
            return (
                f"{counted(status.turns, 'turn')} served"
                if status and done and status.turns > seen.turns_before
                else None
            )


def should_stop_waiting(seen: TurnProgress, unchanged_seconds: float) -> bool:
    """Return whether waiting is useless: the session ended, or a problem remains that needs a person."""
    if any(each.type == "session.status_terminated" for each in seen.events):
        return True
    if seen.resource is None:
        return False
    ready, reason, _ = ready_condition(seen.resource)
    stays = ready == ConditionStatus.FALSE.value and reason not in PASSING_REASONS
    return stays and unchanged_seconds >= _HOPELESS_SECONDS


def explanation(step: Step, seen: TurnProgress) -> list[str]:
    """Return the probable causes of a step that was not reached, and what to run."""
    lines = []
    if seen.resource is not None:
        ready, reason, message = ready_condition(seen.resource)
        if ready == ConditionStatus.FALSE.value:
            lines.append(f"the ManagedSession is not ready: {reason}: {message}")
            if remedy(reason):
                lines.append(f"remedy: {remedy(reason)}")
    if answer := answer_in(seen.events):
        lines.append(f"the agent answered: {json.dumps(answer[:300])}")
    return lines + _CAUSES[step]


def filled_in(line: str, session_id: str, system_namespace: str) -> str:
    """Return a line of an explanation with names in place of SESSION and SYSTEM."""
    return re.sub(r"\bSYSTEM\b", system_namespace, re.sub(r"\bSESSION\b", session_id, line))


_CAUSES = {
    Step.RESOURCE: [
        "the operator may not poll the queue: its key is rejected, or none of its pods leads",
        "or another worker of this environment may have taken the work",
        "run: managed-sessions doctor",
        f"run: kubectl logs --namespace=SYSTEM --selector=app.kubernetes.io/name={OPERATOR} --tail=99",
    ],
    Step.SANDBOX: [
        "E2B may reject the key, lack the template, or have reached its limit of running sandboxes",
        "run: managed-sessions doctor",
    ],
    Step.HEARTBEAT: [
        "the worker may fail to start in the sandbox, or not reach Anthropic from there",
        "run: managed-sessions logs SESSION",
    ],
    Step.TOOL: [
        "the agent may not have the tool bash, or the tool call may wait for a confirmation",
        "or the worker may have failed to send the result",
        "run: managed-sessions logs SESSION",
    ],
    Step.ANSWER: [
        "the agent may have answered something else: read the session in the Claude Console",
        "run: managed-sessions logs SESSION",
    ],
    Step.IDLE: [
        "the turn did not end; if the session is at requires_action, a tool result is missing",
        "run: managed-sessions logs SESSION",
    ],
    Step.PAUSED: [
        "the sandbox is paused MANAGED_SESSIONS_MAX_IDLE_SECONDS after the turn; --timeout has to be longer",
        "run: managed-sessions doctor SESSION",
    ],
}


def health(status: int, text: str) -> tuple[bool | None, str]:
    """Return whether the webhook is healthy (None: unknown), and a description.

    Args:
        status: HTTP status of the webhook's answer, or of the API server's on its behalf.
        text: the answer.
    """
    if status == 200:
        try:
            healthy = json.loads(text).get("ok") is True
        except (ValueError, AttributeError):
            healthy = False
        return (True, "ok") if healthy else (False, "/health does not answer ok")
    if status == 403:
        return None, "not checked: you lack the permission to get services/proxy"
    if status == 404:
        return False, f"the Service {WEBHOOK} does not exist: run managed-sessions install"
    if status == 503:
        return None, "the Service has no ready endpoint: work is found by polling alone"
    return False, f"HTTP {status}"
