"""Ends turns that last longer than their class allows, and finds out when such a turn is over."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain import turn_limit
from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.user_wait import NO_WAIT
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox import pause, stop_worker

logger = logging.getLogger(__name__)


async def check_turn(context: Context, resource: ManagedSession) -> float | None:
    """Find out since when the session's turn lasts, and end a turn that is too long."""
    serving = context.serving(resource)
    seconds = serving.spec.limits.max_turn_seconds if serving is not None else None
    began = None
    if seconds is not None:
        before = context.now() - timedelta(seconds=seconds)
        began = await context.sessions.turn_began(resource.spec.session_id, before=before)
        if began is not None and began > before:
            return await _goes_on(context, resource, began)
    if seconds is None or began is None:
        return await _goes_on(context, resource, context.now())
    if claim_active(resource):
        return await _end_turn(context, resource, seconds)
    return _still_held(context, resource, seconds)


async def _goes_on(context: Context, resource: ManagedSession, began: datetime) -> float | None:
    """Note that the present turn began at `began`. A session that was held back is served again."""
    cache, work = context.cache(resource.metadata.name), resource.status.work
    cache.turn_began, cache.turn_interrupted = (work.claim, began), None
    if not claim_active(resource):
        await context.records.write_status(resource, recovery={"checkedAt": context.now(), "attempts": 0})
    return None


def _still_held(context: Context, resource: ManagedSession, seconds: int) -> float | None:
    """Leave the offer in the queue, which makes it again: the turn that was too long is still open."""
    cache, offer = context.cache(resource.metadata.name), context.inbox.get(resource.spec.session_id)
    if offer is not None:
        context.inbox.remove(offer)
    cache.turn_checked = turn_limit.checked_for(resource, seconds)
    return None


async def _end_turn(context: Context, resource: ManagedSession, seconds: int) -> float | None:
    """Interrupt the turn. Without an API key, or if the interrupt has no effect, end its worker."""
    cache, claim = context.cache(resource.metadata.name), resource.status.work.claim
    interrupted = cache.turn_interrupted is not None and cache.turn_interrupted[0] == claim
    if context.api_key.possible and not interrupted and await _interrupt(context, resource):
        cache.turn_interrupted = (claim, context.now())
        context.metrics.long_turns.labels("interrupted").inc()
        message = f"The turn lasted longer than {seconds} s, as its class allows. Sent `user.interrupt`."
        context.event(resource, Reason.TURN_TOO_LONG, message, warning=True)
        return None
    return await _end_worker(context, resource, turn_limit.message(seconds, can_interrupt=interrupted))


async def _interrupt(context: Context, resource: ManagedSession) -> bool:
    """Interrupt the session. Return whether Anthropic has accepted that."""
    try:
        await context.api_key.interrupt(resource.spec.session_id)
    except OperationError as error:
        if error.kind is not ErrorKind.USER_ACTION and error.status not in (400, 404):
            raise
        logger.warning("turn not interrupted", extra={"cause": str(error)})
        return False
    return True


async def _end_worker(context: Context, resource: ManagedSession, message: str) -> float | None:
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.cache(name).sandbox
    if sandbox is not None and work.claim is not None:
        await stop_worker(context, sandbox, work.claim)
    await context.runs.forget(name)
    resource = await context.records.write_status(
        resource,
        phase=phase_of(Reason.TURN_TOO_LONG),
        conditions=conditions_of(Reason.TURN_TOO_LONG, message, resource.status.sandbox.state),
        work={
            "finishedAt": context.now(),
            "exitReason": ExitReason.TURN_TOO_LONG,
            **NO_WAIT,
        },
        recovery={"suspectedAt": context.now()},
        lastActiveTime=context.now(),
    )
    serving = context.serving(resource)
    seconds = serving.spec.limits.max_turn_seconds if serving is not None else None
    context.cache(name).turn_checked = turn_limit.checked_for(resource, seconds)
    context.metrics.long_turns.labels("ended").inc()
    context.metrics.turns.labels(ExitReason.TURN_TOO_LONG).inc()
    context.event(resource, Reason.TURN_TOO_LONG, message, warning=True)
    return await pause(context, resource)
