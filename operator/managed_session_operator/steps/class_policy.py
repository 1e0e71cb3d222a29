"""Records which class serves a session and what that means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from managed_session_api.resource import ManagedSession

from managed_session_operator.domain import kept_snapshots, policy_record
from managed_session_operator.domain.class_choice import turn_of
from managed_session_operator.domain.conditions import ConditionUpdate
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.policy import policy_of, policy_without_class
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.steps.context import Context

_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class NextPolicy:
    """The policy of a session's next claim or sandbox, and what to write about it.

    Attributes:
        policy: the policy.
        fields: top-level fields of the status.
        sandbox: the part of `status.sandbox`.
        conditions: conditions to write; none for a session without a class.
        decided: whether the class is certain. If not, no claim and no sandbox may begin.
    """

    policy: Policy
    fields: dict[str, Any]
    sandbox: dict[str, Any]
    conditions: list[ConditionUpdate]
    decided: bool = True


def next_policy(context: Context, resource: ManagedSession) -> NextPolicy:
    """Choose the class anew, and return what follows. In a running claim a tie leaves the class as it is."""
    choice, settings = context.choice(resource), context.settings
    without = policy_without_class(resource, settings)
    if choice.tied or choice.undecided:
        policy, of_class = context.full_policy(resource), {}
    else:
        policy = policy_of(resource, settings, choice.chosen) if choice.chosen is not None else without
        of_class = policy_record.class_fields(resource, choice.chosen)
    sandbox = policy_record.created_with(resource, policy, without)
    conditions = list[ConditionUpdate]()
    if policy.classed or policy_record.is_classed(resource):
        conditions.append(policy_record.policy_condition(resource, policy, sandbox.get("createdWith")))
    created = sandbox.get("createdWith")
    fields = {**of_class, **policy_record.effective_fields(resource, policy, created, without)}
    return NextPolicy(policy, fields, sandbox, conditions, not (choice.tied or choice.undecided))


def policy_when_found(context: Context, resource: ManagedSession, sandbox_id: str) -> NextPolicy:
    """Return the policy in force, and what to write about it with the sandbox of the recorded attempt.

    The attempt's request may be from before the session's class.
    """
    policy, without = context.full_policy(resource), policy_without_class(resource, context.settings)
    resource = kept_snapshots.with_sandbox(resource, sandbox_id)
    sandbox = policy_record.created_with(resource, policy, without)
    if not sandbox:
        return NextPolicy(policy, {}, {}, [])
    created = sandbox["createdWith"]
    fields = policy_record.effective_fields(resource, policy, created, without)
    return NextPolicy(policy, fields, sandbox, [policy_record.policy_condition(resource, policy, created)])


async def learn_session(context: Context, resource: ManagedSession) -> float | None:
    """Read the session, because the choice of its class depends on its agent or its metadata."""
    cache = context.cache(resource.metadata.name)
    cache.session = await context.sessions.session(resource.spec.session_id)
    if cache.session is not None:
        cache.metadata_read_for = turn_of(resource)
        return None
    cache.end_check_due = True
    return _AGAIN_SECONDS * context.settings.retry_scale


async def record_policy(context: Context, resource: ManagedSession) -> float | None:
    """Record the policy in force, after the class or the spec has changed.

    A class may have thousands of idle sessions, which are written a few at a time.
    """
    if not claim_active(resource):
        wait = context.policy_pace.wait(resource.metadata.name, context.clock.monotonic())
        if wait is not None:
            return wait
    policy, serving = context.full_policy(resource), context.serving(resource)
    await context.records.write_status(
        resource,
        conditions=[policy_record.policy_condition(resource, policy)],
        **(policy_record.class_fields(resource, serving) if serving is not None else {}),
        **policy_record.effective_fields(resource, policy),
    )
    return None


async def prepared_attempt(
    context: Context, resource: ManagedSession, *, certainly_first: bool
) -> ManagedSession | None:
    """Make sure that the status has the values with which the attempt's sandbox is about to be created.

    The class may have changed since the attempt was recorded. If a request may have been sent with the older
    values, the attempt is ended, because a sandbox of it may exist; the next attempt has the new ones.

    Returns:
        The newest resource; None if the attempt was ended.
    """
    recorded = resource.status.sandbox.created_with
    policy = context.full_policy(resource)
    if recorded == policy.fingerprints() or (recorded is None and not policy.classed):
        return resource
    if not certainly_first:
        await context.records.write_status(resource, sandbox={"state": None})
        return None
    return await context.records.write_status(
        resource,
        sandbox={
            "createdWith": policy.fingerprints(),
            **(
                {}
                if kept_snapshots.is_restoring(resource)
                else kept_snapshots.source_fields(resource, policy.values)
            ),
        },
        conditions=[policy_record.policy_condition(resource, policy)],
        **policy_record.effective_fields(resource, policy, policy.fingerprints()),
    )
