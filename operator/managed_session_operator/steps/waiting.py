"""Reports the queue position of resources that wait for a slot, with few writes."""

from __future__ import annotations

from datetime import datetime

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.report_conditions import report_conditions


def waiting_since(context: Context, resource: ManagedSession) -> datetime:
    """Return since when the work has been waiting: since its offer if it is claimed, else since its event."""
    status, known = resource.status, context.cache(resource.metadata.name).waits_since
    if claim_active(resource):
        same = known is not None and known[0] == status.work.claim
        since = known[1] if known is not None and same else status.work.offered_at
    else:
        since = status.last_event.created_at if status.last_event is not None else None
    return since or resource.metadata.creation_timestamp or context.now()


async def wait_for_slot(context: Context, resource: ManagedSession) -> float:
    """Report that no slot is free. Return the seconds after which to ask again."""
    await _report(
        context, resource, context.positions().get(resource.spec.session_id), _why_no_slot(context, resource)
    )
    return context.capacity.wait_seconds()


async def await_slot(context: Context, resource: ManagedSession) -> float | None:
    """Report that the session's work stays in Anthropic's queue until a slot is free."""
    context.capacity.release(resource.metadata.name)
    return await wait_for_slot(context, resource)


async def wait_for_creation(context: Context, resource: ManagedSession, seconds: float) -> float:
    """Wait for the creation rate. The wait is usually short, so it is reported from the next resync on."""
    name = resource.metadata.name
    cache = context.cache(name)
    if not cache.waits_for_creation:
        cache.waits_for_creation, cache.position_reported = True, context.listings.work_list
    elif cache.position_reported is not context.listings.work_list:
        why = f"at most {context.settings.sandbox_creation_rate:g} sandboxes are created per second"
        await _report(context, resource, context.creation.position(name), why)
    return seconds


async def _report(context: Context, resource: ManagedSession, position: int | None, why: str) -> None:
    """Write the queue position when the wait begins, then at most once for each new work list.

    A session whose sandbox E2B refused keeps reporting the refusal.
    """
    cache = context.cache(resource.metadata.name)
    ready = resource.status.condition(ConditionType.READY)
    reason = ready.reason if ready is not None else None
    if reason == Reason.SANDBOX_QUOTA_EXCEEDED:
        return
    if reason == Reason.SANDBOX_RATE_LIMITED and context.capacity.is_rate_limited:
        return
    if reason == Reason.AWAITING_CAPACITY and cache.position_reported is context.listings.work_list:
        return
    cache.position_reported = context.listings.work_list
    class_name = context.class_name(resource)
    of_class = f" in class {class_name}" if class_name else ""
    message = f"Queue position {position}{of_class}: {why}." if position is not None else f"Queued: {why}."
    await report_conditions(context, resource, Decision(Step.WAIT, Reason.AWAITING_CAPACITY, message))


def _why_no_slot(context: Context, resource: ManagedSession) -> str:
    capacity, class_name = context.capacity, context.class_name(resource)
    if capacity.is_rate_limited:
        return "E2B's rate limit is reached, so no sandbox is started at the moment"
    if (most := capacity.maximum_reached(class_name)) is not None:
        return f"class {class_name} has reached its maxActiveSandboxes, {most}"
    if capacity.allowed < capacity.limit:
        return f"E2B currently allows {capacity.allowed} of the {capacity.limit} sandboxes"
    if capacity.free:
        return "the free sandbox slots are reserved for claimed work"
    held = context.listings.user_waits
    by_users = f", {held} of them by sessions that wait for their user" if held else ""
    return f"all {capacity.limit} sandbox slots are in use{by_users}"
