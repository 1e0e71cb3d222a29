"""Prepares the sandbox for its session, after each create and each resume, before a worker is started."""

from __future__ import annotations

import asyncio
import logging

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import EffectiveStatus, ManagedSession, SandboxState

from managed_session_operator.domain.conditions import (
    conditions_of,
    phase_of,
    preparation_passed,
    preparation_warning,
    sandbox_ready,
)
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError, UnderWayError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.preparation import (
    Report,
    StepFailure,
    equips,
    plan_of,
    preparation_key,
    reason_of,
    references_of,
    warning_reason_of,
)
from managed_session_operator.domain.session_setup import RefusedMetadataError, asked_of, with_session_setup
from managed_session_operator.domain.values import MissingValue, Reference
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox import pause
from managed_session_operator.steps.sandbox_connection import handle_no_answer

logger = logging.getLogger(__name__)

_PREPARING = "The sandbox is being prepared."
_PATIENCE = 3
"""Failed reads of the session after which its turn goes on without what its metadata may ask for."""
_TRIES_WHILE_RUNNING = 3
"""Failed preparations in a row from which on the sandbox is paused between the tries."""
_CONDITIONS = {
    Reason.SETUP_FAILED: ConditionType.SETUP_FAILED,
    Reason.HOOK_FAILED: ConditionType.HOOK_FAILED,
}
"""The conditions of what did not stop the session, by reason."""
_PAUSED = "The sandbox is paused until the next try."


async def prepare(context: Context, resource: ManagedSession) -> float | None:
    """Run what the policy asks for inside the sandbox. It is safe to repeat.

    Under a worker that serves the session, a failure is only reported, because the session must go on.
    Otherwise the session waits until somebody has corrected its policy. After a few tries its sandbox waits
    paused and without a slot, and each further try resumes it. The work stays in the queue meanwhile.
    """
    cache = context.cache(resource.metadata.name)
    if cache.sandbox is None:
        return None
    if cache.unprepared is None or _may_have_worker(resource):
        try:
            await _prepare(context, resource, cache.sandbox)
        except OperationError as error:
            if error.kind is not ErrorKind.USER_ACTION or cache.sandbox is None:
                raise
            cache.preparation_failures += 1
            if cache.preparation_failures < _TRIES_WHILE_RUNNING or _may_have_worker(resource):
                raise
            cache.unprepared = error
        else:
            cache.preparation_failures = 0
            return None
    await _pause_unprepared(context, resource, cache.unprepared)
    return None


def _may_have_worker(resource: ManagedSession) -> bool:
    """Return whether a worker of the present claim may have been started in the sandbox."""
    return claim_active(resource) and resource.status.work.acknowledged_at is not None


async def _pause_unprepared(context: Context, resource: ManagedSession, error: OperationError) -> None:
    """Pause the sandbox and free its slot, then raise the error with which its preparation failed."""
    name = resource.metadata.name
    await pause(context, context.records.cache.get(name) or resource)
    newest = context.records.cache.get(name) or resource
    if newest.status.sandbox.state is SandboxState.PAUSED:
        await context.records.write_status(
            newest, conditions=[sandbox_ready(ConditionStatus.TRUE, Reason.SANDBOX_PAUSED)]
        )
        error.message = f"{error.message} {_PAUSED}"
    raise error


async def _prepare(context: Context, resource: ManagedSession, sandbox: SandboxHandle) -> None:
    cache = context.cache(resource.metadata.name)
    served = claim_active(resource) and resource.status.work.first_heartbeat_at is not None
    policy = await _policy(context, resource, served=served)
    key = preparation_key(policy, equipped=bool(resource.status.sandbox.equipped))
    if key is None:
        cache.prepared = None  # The policy no longer asks for anything.
        await _report_warnings(context, resource, Report(), served=served)
        return
    if equips(policy) and not resource.status.sandbox.equipped:
        resource = await context.records.write_status(resource, sandbox={"equipped": True})
    plan = plan_of(resource, policy, await _values(context, policy), served=served)
    try:
        report = await context.preparations.prepare(sandbox, plan, purpose=key)
    except UnderWayError:
        await _report_preparing(context, resource, served=served)
        raise
    except OperationError as error:
        # The sandbox may not be running any more. The next step connects to it again first.
        await handle_no_answer(context, resource, error)
        raise
    cache.unanswered = 0
    resource = await _report_warnings(context, resource, report, served=served)
    if report.failed is not None:
        _report_failure(context, resource, report.failed, served=served)
    elif resource.status.sandbox.equipped and not equips(policy):
        await context.records.write_status(resource, sandbox={"equipped": None})
        key = preparation_key(policy)
    cache.prepared = key


def _report_failure(context: Context, resource: ManagedSession, failed: StepFailure, *, served: bool) -> None:
    """Post a warning Event if a worker serves the session.

    Raises:
        OperationError: no worker does, so none is started before this is corrected.
    """
    cache, reason, message = (
        context.cache(resource.metadata.name),
        reason_of(failed.section),
        failed.message(),
    )
    if served:
        context.event(resource, reason, message, warning=True)
        return
    if asked_of(cache.session.metadata if cache.session is not None else {}):
        cache.session = None  # Its metadata may be corrected meanwhile.
    raise OperationError(ErrorKind.USER_ACTION, reason, message)


async def _values(context: Context, policy: EffectiveStatus) -> dict[Reference, str]:
    """Read the values of Secrets and ConfigMaps that the plan needs.

    Raises:
        OperationError: one of them does not exist.
    """

    async def read(reference: Reference, can_be_missing: bool) -> str:
        try:
            return (await context.values.read(reference)).get_secret_value()
        except OperationError as error:
            if can_be_missing and error.reason is Reason.REFERENCE_INVALID:
                return MissingValue(error.message.removesuffix("."))
            raise

    wanted = references_of(policy)
    found = await asyncio.gather(*(read(*each) for each in wanted.items()))
    return dict(zip(wanted, found, strict=True))


async def _policy(context: Context, resource: ManagedSession, *, served: bool) -> EffectiveStatus:
    """Return the policy with what the session's metadata ask for.

    Raises:
        OperationError: the session could not be read, or asks for something that is refused.
    """
    policy, cache = context.policy(resource), context.cache(resource.metadata.name)
    if cache.session is None and not served:
        try:
            cache.session = await context.sessions.session(resource.spec.session_id)
        except OperationError as error:
            if cache.failures < _PATIENCE and error.kind in (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED):
                raise
            logger.warning(
                "metadata not read", extra={"session": resource.spec.session_id, "cause": str(error)}
            )
        cache.metadata_waived = cache.session is None
    try:
        return with_session_setup(policy, cache.session.metadata if cache.session is not None else None)
    except RefusedMetadataError as error:
        if served:
            return policy
        cache.session = None  # They may be corrected meanwhile.
        raise OperationError(
            ErrorKind.USER_ACTION, Reason.SETUP_FAILED, f"{error.step}: {error.why}."
        ) from None


async def _report_warnings(
    context: Context, resource: ManagedSession, report: Report, *, served: bool
) -> ManagedSession:
    """Report what did not stop the session, and which conditions of earlier times do not hold any more."""
    for warning in report.warnings:
        context.event(resource, warning_reason_of(warning.section), warning.message(), warning=True)
    updates = []
    for reason, type_ in _CONDITIONS.items():
        failed = [each for each in report.warnings if warning_reason_of(each.section) is reason]
        if failed:
            updates.append(preparation_warning(type_, reason, failed[-1].message()))
        elif resource.status.condition(type_) is not None and not (served and reason is Reason.SETUP_FAILED):
            # The setup is not part of a preparation under a worker.
            updates.append(preparation_passed(type_))
    return await context.records.write_status(resource, conditions=updates) if updates else resource


async def _report_preparing(context: Context, resource: ManagedSession, *, served: bool) -> None:
    """Report a preparation that takes long."""
    if not served:
        await context.records.write_status(
            resource,
            phase=phase_of(Reason.PREPARING),
            conditions=conditions_of(Reason.PREPARING, _PREPARING, SandboxState.RUNNING),
        )
