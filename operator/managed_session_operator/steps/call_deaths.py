"""Counts tool calls that end their workers, in the resource, which outlives sandbox and operator.

The sandbox's supervisor counts the same deaths and knows which call ran. Of the two counts the larger one is
right. If the supervisor or its sandbox is gone, the operator reads the calls from the session's events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import CallDeathsStatus, ManagedSession
from managed_session_runtime.credentials import CredentialError
from managed_session_worker.protocol import MAX_CAUSE, MOST_CALLS, CallDeaths

from managed_session_operator.domain.conditions import ConditionUpdate, tool_call_fatal
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.steps.context import Context

_LONGEST_NAME = 100


@dataclass(frozen=True)
class DeathsUpdate:
    """What to write to the status about such calls, and the Events to post afterwards."""

    fields: dict[str, Any] = field(default_factory=dict)
    conditions: list[ConditionUpdate] = field(default_factory=list)
    news: list[tuple[Reason, str]] = field(default_factory=list)

    def report(self, context: Context, resource: ManagedSession) -> None:
        """Post the Events, once the status is written."""
        for reason, message in self.news:
            context.event(resource, reason, message, warning=True)


def deaths_of(resource: ManagedSession) -> CallDeaths:
    """Return the resource's count, in the form that the supervisor expects."""
    return {
        each.id: {"tool": each.tool, "deaths": each.deaths, "cause": each.cause}
        for each in resource.status.call_deaths or ()
    }


def count_deaths(
    context: Context, resource: ManagedSession, counted: CallDeaths, *, over: bool = False
) -> DeathsUpdate:
    """Return what to write about a new count.

    Args:
        context: the operator's context.
        resource: the resource as it is now.
        counted: the supervisor's count, or the operator's own.
        over: whether a worker has ended in order, so that all counted calls have been answered.
    """
    return deaths_update(resource, {} if over else counted, context.settings.tool_call_attempts, over=over)


def deaths_update(
    resource: ManagedSession, counted: CallDeaths, attempts: int, *, over: bool
) -> DeathsUpdate:
    """Return what to write about a new count. Pure; see `count_deaths`."""
    before = {each.id: each for each in resource.status.call_deaths or ()}
    if over:
        condition = resource.status.condition(ConditionType.TOOL_CALL_FATAL)
        fatal = condition is not None and condition.status is ConditionStatus.TRUE
        answered = [tool_call_fatal(ConditionStatus.FALSE, Reason.IDLE)] if fatal else []
        return DeathsUpdate({"callDeaths": None}, answered)
    after = dict(before)
    for identifier, entry in list(counted.items())[:MOST_CALLS]:
        call = _call(identifier, entry)
        if call.deaths > (before[identifier].deaths if identifier in before else 0):
            after[identifier] = call
    if after == before:
        return DeathsUpdate()
    grown = [call for call in after.values() if before.get(call.id) != call]
    kept = sorted(after.values(), key=lambda call: -call.deaths)[:MOST_CALLS]
    news = [_report_of(call, attempts) for call in grown]
    reason, message = _report_of(max(grown, key=lambda call: call.deaths), attempts)
    return DeathsUpdate(
        {"callDeaths": [call.to_json() for call in kept]},
        [tool_call_fatal(ConditionStatus.TRUE, reason, message)],
        news,
    )


def _call(identifier: str, entry: Mapping[str, Any]) -> CallDeathsStatus:
    """Build the status entry of one call. The sandbox is not trusted, so its values are cut to size."""
    deaths = entry.get("deaths")
    return CallDeathsStatus(
        id=identifier[:_LONGEST_NAME],
        tool=str(entry.get("tool", ""))[:_LONGEST_NAME],
        deaths=deaths if isinstance(deaths, int) else 0,
        cause=str(entry.get("cause", ""))[:MAX_CAUSE],
    )


def _report_of(call: CallDeathsStatus, attempts: int) -> tuple[Reason, str]:
    what = f"The tool call {call.tool} ({call.id}) ended its worker"
    if call.deaths < attempts:
        return (
            Reason.WORKER_ENDED_IN_CALL,
            f"{what} ({call.deaths} of at most {attempts} times): {call.cause}.",
        )
    times = f"{call.deaths} times" if call.deaths != 1 else "once"
    return (
        Reason.TOOL_CALL_GIVEN_UP,
        f"{what} {times}: {call.cause}. The next worker answers it with an error.",
    )


async def one_more_death(context: Context, resource: ManagedSession, cause: str) -> CallDeaths:
    """Count the death of a worker whose end no supervisor reported. The session's events name its calls."""
    try:
        turn = await context.sessions.turn(resource.spec.session_id)
    except (OperationError, CredentialError):
        return {}
    before = deaths_of(resource)
    return {
        identifier: {"tool": tool, "deaths": before.get(identifier, {}).get("deaths", 0) + 1, "cause": cause}
        for identifier, tool in (turn.open_calls if turn is not None else ())
    }
