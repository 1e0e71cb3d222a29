"""Whose session it is, and whether it has ended."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.events import END_TYPES
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.clients.work_queue import SessionView
from managed_session_operator.context import Context
from managed_session_operator.decisions import Decision, Step, claim_active, has_hint
from managed_session_operator.failures import Failure, Kind
from managed_session_operator.policy import sandbox_marks
from managed_session_operator.steps.standing import stand

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 300.0
_STOP_PATIENCE = timedelta(seconds=60)
"""How long a resource that is being deleted waits for its work to be stopped; then the lease just lapses."""


async def _take(context: Context, resource: ManagedSession, agent_id: str | None) -> None:
    """Make the resource ours: its environment, and the finalizer before any effect outside."""
    spec: dict[str, Any] = {}
    if resource.spec.environment_id is None:
        spec["environmentID"] = context.queue.environment_id
    if agent_id is not None and resource.spec.agent_id is None:
        spec["agentID"] = agent_id
    finalizers = [*resource.metadata.finalizers]
    if names.FINALIZER not in finalizers:
        finalizers.append(names.FINALIZER)
    marks = {names.ANNOTATION_IDENTITY: resource.identity}
    await context.patch(
        resource, {"metadata": {"finalizers": finalizers, "annotations": marks}, "spec": spec}
    )


async def adopt(context: Context, resource: ManagedSession) -> float | None:
    """The queue of our environment offered its work, which is proof enough."""
    await _take(context, resource, None)
    return None


async def prove(context: Context, resource: ManagedSession) -> float | None:
    """Ask Anthropic whose session it is; what a webhook made and is not ours is removed."""
    memory, event = context.memory(resource.metadata.name), resource.status.last_event
    asked_for = (
        resource.metadata.generation,
        event.id if event is not None else None,
        context.queue.environment_id,
        context.queue.key_lines(),
    )
    known = memory.not_ours
    if known is not None and known[1] == asked_for and (left := known[0] - time.monotonic()) > 0:
        # The sweep looks at every resource, and is to cost no call for each.
        return left
    session = await _visible_session(context, resource.spec.session_id)
    if session is not None and session.environment_id == context.queue.environment_id:
        memory.session = session
        if not has_hint(resource) and await _may_be_stuck(context, resource):
            # Nothing else would ever make the operator look at it.
            resource = await context.write_status(resource, recovery={"suspectedAt": context.now()})
        await _take(context, resource, session.agent_id)
        return None
    if resource.spec.environment_id is None:
        logger.info(
            "removing the resource of a session that is not ours",
            extra={"resource": resource.metadata.name, "session": resource.spec.session_id},
        )
        await context.delete(resource)
        return None
    if session is None:
        refusal = Decision(Step.REFUSE, Reason.SESSION_ENDED, "the environment has no such session")
    else:
        refusal = Decision(
            Step.REFUSE, Reason.ENVIRONMENT_MISMATCH, f"the session belongs to {session.environment_id}"
        )
    await stand(context, resource, refusal)
    memory.not_ours = (time.monotonic() + _LOOK_AGAIN_SECONDS, asked_for)
    return _LOOK_AGAIN_SECONDS


async def _may_be_stuck(context: Context, resource: ManagedSession) -> bool:
    """Whether the session of a resource without a past is in a turn: one that another resource began."""
    try:
        turn = await context.queue.turn(resource.spec.session_id)
    except Failure as failure:
        logger.info("turn not read", extra={"resource": resource.metadata.name, "cause": str(failure)})
        return True
    return turn is not None and turn.needs_worker


async def _visible_session(context: Context, session_id: str) -> SessionView | None:
    """The session; None also where the environment key may not see it: then it is not ours."""
    try:
        return await context.queue.session(session_id)
    except Failure as failure:
        if failure.status != 403:
            raise
        return None


async def confirm_end(context: Context, resource: ManagedSession) -> float | None:
    """Ask Anthropic whether the session has ended, as an event says or the slow check asks."""
    memory, event = context.memory(resource.metadata.name), resource.status.last_event
    told = event is not None and event.type in END_TYPES and memory.end_checked != event.id
    try:
        session = await context.queue.session(resource.spec.session_id)
    except Failure as failure:
        if told or failure.kind is Kind.PERSON:
            raise
        # Nobody waits for the slow check's answer, least of all the session's next message.
        memory.end_check_due = False
        logger.info("end not checked", extra={"resource": resource.metadata.name, "cause": str(failure)})
        return None
    if session is None and not told and context.queue_trouble is not None:
        # An environment that knows nothing at all, as with another workspace's key, is no word on a session.
        memory.end_check_due = False
        return None
    await note_end(context, resource, ended=session is None or session.ended, deleted=session is None)
    memory.end_check_due, memory.end_asked_at = False, context.now()
    if resource.status.last_event is not None:
        memory.end_checked = resource.status.last_event.id
    return None


async def note_end(context: Context, resource: ManagedSession, *, ended: bool, deleted: bool) -> None:
    """Write down that the session has ended; one that was deleted takes its resource along at once."""
    if not ended:
        return
    how = "deleted" if deleted else "terminated or archived"
    context.event(resource, Reason.SESSION_ENDED, f"the session was {how}")
    if deleted:
        await context.delete(resource)
        return
    await context.write_status(resource, endedAt=context.now())


async def delete(context: Context, resource: ManagedSession) -> float | None:
    """The resource's time is over."""
    await context.delete(resource)
    return _LOOK_AGAIN_SECONDS


async def _stop_work(context: Context, resource: ManagedSession, work_id: str) -> None:
    """Stop the item, whose worker is dead: tried again for a while, but no resource waits for it for ever."""
    deleted = resource.metadata.deletion_timestamp or context.now()
    try:
        await context.queue.stop_held(work_id)
    except CredentialError as error:
        logger.warning("work not stopped", extra={"work": work_id, "cause": str(error)})
    except Failure as failure:
        passing = failure.kind in (Kind.RETRY, Kind.QUOTA)
        if passing and context.now() < deleted + _STOP_PATIENCE * context.settings.retry_scale:
            raise
        logger.warning("work not stopped", extra={"work": work_id, "cause": str(failure)})


def _may_have_others(context: Context, resource: ManagedSession) -> bool:
    """Whether E2B may have sandboxes of the resource that it has not recorded."""
    if not resource.may_be_restored:
        return resource.status.sandbox.attempt > 0
    # A copy of another resource has the other one's identity, and must not take its sandbox along.
    return context.store.serving_name(resource.spec.session_id) in (None, resource.metadata.name)


async def finalize(context: Context, resource: ManagedSession) -> float | None:
    """Kill every sandbox of the resource, stop its work, remove its token, let the resource go."""
    status, name = resource.status, resource.metadata.name
    await context.runs.forget(name)
    if status.sandbox.id is not None:
        await context.sandboxes.kill(status.sandbox.id)
    if _may_have_others(context, resource):
        others = await context.sandboxes.list(sandbox_marks(resource, context.installation_id))
        for sandbox in others:
            await context.sandboxes.kill(sandbox.sandbox_id)
        context.event(resource, Reason.SANDBOX_KILLED, "the session's sandbox is gone")
    served = claim_active(resource) and status.work.acknowledged_at is not None
    if status.work.id is not None and served:
        await _stop_work(context, resource, status.work.id)
    await context.tokens.delete(resource)
    remaining = [each for each in resource.metadata.finalizers if each != names.FINALIZER]
    await context.patch(resource, {"metadata": {"finalizers": remaining}})
    if not remaining:
        context.store.remove(name, resource.metadata.uid)
    logger.info("resource released", extra={"resource": name, "session": resource.spec.session_id})
    await context.forget(name)
    return None
