"""Gives a running sandbox the network rules of its policy, with the headers whose values are in Secrets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import EffectiveStatus, ManagedSession, PolicyField

from managed_session_operator.domain import egress, policy_record
from managed_session_operator.domain.conditions import (
    ConditionUpdate,
    secrets_applied,
    secrets_not_applied,
)
from managed_session_operator.domain.destinations import unreachable_hosts
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.sandbox import SandboxNetwork
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_REFUSALS = 3
"""Answers in a row that a running sandbox does not exist, after which E2B seems to lack the call."""


async def read_secrets(context: Context, values: EffectiveStatus, *, fresh: bool = True) -> egress.Values:
    """Return what the Secrets hold that the policy's headers come from; if not `fresh`, seconds ago.

    Raises:
        OperationError: ReferenceInvalid, or the API server did not answer.
    """
    wanted = egress.references_of(values)
    found = await asyncio.gather(*(context.values.read_version(each, fresh=fresh) for each in wanted))
    return dict(zip(wanted, found, strict=True))


async def update_network(context: Context, resource: ManagedSession) -> float | None:
    """Give the running sandbox the rules of the policy, then record that it has them.

    Until that is recorded, the status does not say which rules the sandbox has, so they are sent again. A
    Secret that is missing keeps a worker from being started; one that runs goes on with the earlier rules.
    """
    name, policy = resource.metadata.name, context.full_policy(resource)
    cache, base_url = context.cache(name), context.queue.base_url
    try:
        # A worker that is about to start must not get what a Secret held before.
        first = not egress.of_this_period(resource)
        values = await read_secrets(context, policy.values, fresh=first)
        rules = egress.network(policy, base_url, values)
    except OperationError as error:
        if error.reason is not Reason.REFERENCE_INVALID or resource.status.work.first_heartbeat_at is None:
            raise
        cache.network_checked = (egress.policy_key(policy.values), context.now())
        await context.records.write_status(
            resource, conditions=[secrets_not_applied(error.reason, f"{error.message} {_EARLIER}")]
        )
        return None
    wanted = egress.fingerprint(resource, policy, base_url, values) if policy.values.secrets else None
    conditions = [_reachable(policy, base_url)]
    if wanted != resource.status.sandbox.egress or policy_record.network_due(resource, policy):
        sent = await _send(context, resource, rules)
        if sent is None:
            return None
        resource = sent
        conditions += _policy_conditions(resource, policy)
    cache.network_checked = (egress.policy_key(policy.values), context.now())
    await context.records.write_status(resource, conditions=conditions, **_applied(resource, policy, wanted))
    return None


_EARLIER = "The running sandbox keeps the values that it has."


def _reachable(policy: Policy, base_url: str) -> ConditionUpdate:
    hosts = unreachable_hosts(policy, base_url)
    if not hosts:
        return secrets_applied()
    message = (
        f"The network policy does not let the sandbox reach {', '.join(hosts)}, so the secrets for it are of "
        "no use. Add the host to network.allow of the class, or declare the secret in the class."
    )
    return secrets_not_applied(Reason.SECRET_HOST_DENIED, message)


async def _send(context: Context, resource: ManagedSession, rules: SandboxNetwork) -> ManagedSession | None:
    """Send the rules. Return the newest resource; None if the sandbox does not run (any more)."""
    name, sandbox = resource.metadata.name, resource.status.sandbox
    cache = context.cache(name)
    if sandbox.id is None:
        return None
    unknown: dict[str, Any] = {}
    if str(PolicyField.NETWORK) in (sandbox.created_with or {}):
        unknown["createdWith"] = {str(PolicyField.NETWORK): None}
    if egress.of_this_period(resource):
        # An older fingerprint is never that of rules which are wanted, so it may stay.
        unknown["egress"] = egress.UNKNOWN
    if unknown:
        resource = await context.records.write_status(resource, sandbox=unknown)
    try:
        await context.sandboxes.update_network(sandbox.id, rules)
    except OperationError as error:
        if error.kind is not ErrorKind.NOT_FOUND and error.status not in (404, 405):
            raise
        # The sandbox no longer runs. The next steps find out whether it is paused or gone.
        await context.runs.forget(name)
        cache.disconnect()
        cache.network_refusals += 1
        if cache.network_refusals >= _REFUSALS:
            message = (
                f"E2B answers that the running sandbox {sandbox.id} does not exist when it is to get its "
                "network rules. A server that lacks this call cannot serve sessions with secrets."
            )
            raise OperationError(
                ErrorKind.USER_ACTION, Reason.SANDBOX_REQUEST_REJECTED, message, status=error.status
            ) from None
        return None
    cache.network_refusals = 0
    logger.info("network rules sent", extra={"resource": name, "sandbox": sandbox.id})
    return resource


def _applied(resource: ManagedSession, policy: Policy, wanted: str | None) -> dict[str, Any]:
    """Return the fields of the status that say which rules the sandbox has now."""
    before = resource.status.sandbox
    changed: dict[str, Any] = {} if before.egress == wanted else {"egress": wanted}
    if before.created_with is None:
        return {"sandbox": changed} if changed else {}
    applied = {str(PolicyField.NETWORK): policy.fingerprints()[PolicyField.NETWORK]}
    created = {**before.created_with, **applied}
    return {
        "sandbox": {**changed, "createdWith": applied},
        **policy_record.effective_fields(resource, policy, created),
    }


def _policy_conditions(resource: ManagedSession, policy: Policy) -> list[ConditionUpdate]:
    if resource.status.sandbox.created_with is None:
        return []
    return [policy_record.policy_condition(resource, policy)]
