"""Records which class serves a session and what that means, and applies network rules that have changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from managed_session_api.resource import ManagedSession, NetworkSpec, PolicyField

from managed_session_operator.domain import policy_record
from managed_session_operator.domain.class_choice import turn_of
from managed_session_operator.domain.conditions import ConditionUpdate
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
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


async def update_network(context: Context, resource: ManagedSession) -> float | None:
    """Give the running sandbox the network rules of the policy, then record that it has them.

    Until that is recorded, the status does not say which rules the sandbox has, so they are sent again.
    """
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    if sandbox_id is None:
        return None
    if str(PolicyField.NETWORK) in (resource.status.sandbox.created_with or {}):
        unknown = {"createdWith": {str(PolicyField.NETWORK): None}}
        resource = await context.records.write_status(resource, sandbox=unknown)
    policy = context.full_policy(resource)
    network = policy.values.network or NetworkSpec()
    try:
        await context.sandboxes.update_network(sandbox_id, network.allow, network.deny)
    except OperationError as error:
        if error.kind is not ErrorKind.NOT_FOUND and error.status != 404:
            raise
        # The sandbox no longer runs. The next steps find out whether it is paused or gone.
        await context.runs.forget(name)
        context.cache(name).disconnect()
        return None
    applied = {str(PolicyField.NETWORK): policy.fingerprints()[PolicyField.NETWORK]}
    created = {**(resource.status.sandbox.created_with or {}), **applied}
    await context.records.write_status(
        resource,
        sandbox={"createdWith": applied},
        conditions=[policy_record.policy_condition(resource, policy)],
        **policy_record.effective_fields(resource, policy, created),
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
    if recorded is None or recorded == policy.fingerprints():
        return resource
    if not certainly_first:
        await context.records.write_status(resource, sandbox={"state": None})
        return None
    return await context.records.write_status(
        resource,
        sandbox={"createdWith": policy.fingerprints()},
        conditions=[policy_record.policy_condition(resource, policy)],
        **policy_record.effective_fields(resource, policy),
    )
