"""Resources that wait for a place: what is said of them, and how seldom."""

from __future__ import annotations

from datetime import datetime

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.context import Context
from managed_session_operator.decisions import Decision, Step, claim_active
from managed_session_operator.steps.standing import stand


def waiting_since(context: Context, resource: ManagedSession) -> datetime:
    """Since when the resource's work waits: of claimed work since it was offered, else since its event."""
    status = resource.status
    if claim_active(resource):
        since = status.work.offered_at
    else:
        since = status.last_event.created_at if status.last_event is not None else None
    return since or resource.metadata.creation_timestamp or context.now()


async def wait_for_place(context: Context, resource: ManagedSession) -> float:
    """Say that there is no place; returns the seconds after which to ask again."""
    await _tell(context, resource, context.positions().get(resource.spec.session_id), _why_no_place(context))
    return context.capacity.wait_seconds()


async def await_place(context: Context, resource: ManagedSession) -> float | None:
    """The session's work is in the queue, and not offered to us as there is no place: say so."""
    context.capacity.release(resource.metadata.name)
    return await wait_for_place(context, resource)


async def wait_for_creation(context: Context, resource: ManagedSession, seconds: float) -> float:
    """Wait for the creation rate; said from the next sweep on, as it mostly passes in a moment."""
    name = resource.metadata.name
    memory = context.memory(name)
    if not memory.waits_for_creation:
        memory.waits_for_creation, memory.position_told = True, context.work_list
    elif memory.position_told is not context.work_list:
        why = f"sandboxes are created at {context.settings.sandbox_creation_rate:g} per second"
        await _tell(context, resource, context.creation.position(name), why)
    return seconds


async def _tell(context: Context, resource: ManagedSession, position: int | None, why: str) -> None:
    """Write the position in the line: when the waiting begins, and at most once for each reading of the list.

    The one that E2B refused goes on saying so.
    """
    memory = context.memory(resource.metadata.name)
    said = resource.status.condition(ConditionType.READY)
    reason = said.reason if said is not None else None
    if reason == Reason.SANDBOX_QUOTA_EXCEEDED:
        return
    if reason == Reason.AWAITING_CAPACITY and memory.position_told is context.work_list:
        return
    memory.position_told = context.work_list
    message = f"position {position} in the line: {why}" if position is not None else f"in the line: {why}"
    await stand(context, resource, Decision(Step.WAIT, Reason.AWAITING_CAPACITY, message))


def _why_no_place(context: Context) -> str:
    capacity = context.capacity
    if capacity.allowed < capacity.limit:
        return f"E2B allows {capacity.allowed} of the {capacity.limit} running sandboxes at the moment"
    if capacity.free:
        return "the free places are kept for claimed work"
    return f"all {capacity.limit} places for running sandboxes are taken"
