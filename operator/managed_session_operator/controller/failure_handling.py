"""Handles failed steps: sets a condition, posts an Event, counts a metric and chooses a growing delay."""

from __future__ import annotations

import logging

from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.events import END_TYPES
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain.conditions import ConditionUpdate, not_ready
from managed_session_operator.domain.errors import (
    ConflictError,
    ErrorKind,
    NotLeadingError,
    OperationError,
    ResourceGoneError,
    retry_delay,
)
from managed_session_operator.domain.observe import findings_for
from managed_session_operator.domain.step import Step
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


class FailureHandling:
    """Handles the failed steps of all resources. While one waits for its next try, the others go on."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def begins(self, resource: ManagedSession, step: Step) -> None:
        """Note that the step is about to be taken."""
        self._context.cache(resource.metadata.name).trying = step.name

    def succeeded(self, resource: ManagedSession, step: Step, *, settled: bool) -> None:
        """Note that the step succeeded.

        The count of failures starts again at 0 once the step that failed has succeeded, or if nothing is left
        to do.
        """
        cache = self._context.cache(resource.metadata.name)
        if settled or cache.failing == step.name:
            cache.failures, cache.failing = 0, None

    def resting(self, resource: ManagedSession) -> float | None:
        """Return the seconds left before a failed step may be tried again; None if it may be tried now."""
        backoff = self._context.cache(resource.metadata.name).backoff
        if backoff is None or backoff[1] != self._retry_fingerprint(resource):
            return None
        left = backoff[0] - self._context.clock.monotonic()
        return left if left > 0 else None

    async def failed(self, resource: ManagedSession, error: OperationError) -> float:
        """Report the error. Return the seconds after which to try the step again."""
        context, name = self._context, resource.metadata.name
        cache = context.cache(name)
        cache.failures += 1
        cache.failing = cache.trying
        context.metrics.failures.labels(str(error.reason)).inc()
        delay = retry_delay(error, cache.failures, context.settings.retry_scale)
        logger.warning(
            "step failed",
            extra={"resource": name, "reason": str(error.reason), "cause": error.message, "again": delay},
        )
        if error.kind is ErrorKind.NOT_FOUND:
            cache.disconnect()
        state = (context.records.cache.get(name) or resource).status.sandbox.state
        running = state in (SandboxState.RUNNING, SandboxState.CREATING)
        limited = error.reason in (Reason.SANDBOX_QUOTA_EXCEEDED, Reason.SANDBOX_RATE_LIMITED)
        refused = limited and context.capacity.waits(name)
        context.creation.leave(name)
        if refused:
            # The resource is in the wait queue again, and the capacity knows when to try next.
            delay = context.capacity.wait_seconds()
        elif cache.sandbox is None and not (running and context.capacity.holds(name)):
            # Its sandbox does not run, so it must not keep a slot from other sessions.
            context.capacity.release(name)
        if error.reason is not Reason.KUBERNETES_CALL_FAILED:
            await self._report(resource, error)
        newest = context.records.cache.get(name) or resource
        if not refused:
            cache.backoff = (context.clock.monotonic() + delay, self._retry_fingerprint(newest))
        return delay

    async def _report(self, resource: ManagedSession, error: OperationError) -> None:
        context = self._context
        phase = Phase.FAILED if error.kind is ErrorKind.USER_ACTION else None
        reason = error.reason
        if resource.metadata.deletion_timestamp is not None:
            phase, reason = Phase.TERMINATING, Reason.CLEANUP_BLOCKED
        conditions = [not_ready(reason, error.message)]
        if str(error.reason).startswith(("Sandbox", "Template")):
            conditions.append(
                ConditionUpdate(
                    ConditionType.SANDBOX_READY, ConditionStatus.FALSE, error.reason, error.message
                )
            )
        before = resource.status.condition(ConditionType.READY)
        try:
            newest = context.records.cache.get(resource.metadata.name) or resource
            await context.records.write_status(newest, phase=phase, conditions=conditions)
        except (ConflictError, ResourceGoneError, NotLeadingError, OperationError) as write_error:
            logger.info("condition not written", extra={"cause": str(write_error)})
        if before is None or before.reason != conditions[0].reason:
            context.event(resource, Reason(error.reason), error.message, warning=True)

    def _retry_fingerprint(self, resource: ManagedSession) -> tuple[object, ...]:
        """Return what a failed step depended on. If any of it changes, the step is tried again at once."""
        context, name = self._context, resource.metadata.name
        run = context.runs.get(name, resource.status.work.claim)
        event = resource.status.last_event
        classes = (context.serving(resource), context.choice(resource).chosen)
        return (
            resource.metadata.generation,
            tuple((each.metadata.uid, each.metadata.generation) for each in classes if each is not None),
            resource.metadata.deletion_timestamp,
            context.inbox.get(resource.spec.session_id),
            (run.heartbeat, run.record is None, run.live) if run is not None else None,
            event.id if event is not None and event.type in END_TYPES else None,
            self._is_missing(name),
            context.queue.key_lines(),
            context.sandboxes.key_lines(),
        )

    def _is_missing(self, name: str) -> bool:
        """Return whether the resource's sandbox seems to have vanished."""
        cache = self._context.cache(name)
        return cache.gone or name in findings_for(cache, self._context.listings).missing
