"""Reads what the worker and the agent's commands get of Secrets and ConfigMaps, with the start request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from managed_session_api.resource import EffectiveStatus

from managed_session_operator.domain import trust
from managed_session_operator.domain.policy import commands_env
from managed_session_operator.domain.references import unusable
from managed_session_operator.domain.values import Reference, secret_key
from managed_session_operator.steps.context import Context

_MOST_BYTES = 32768


@dataclass(frozen=True)
class Surroundings:
    """What a worker starts with.

    Attributes:
        variables: what only the agent's commands get.
        proxy: the proxy of the worker's own connection, with its credential; None if it is direct.
        authorities: certificates that the worker trusts beside the usual ones, PEM; None for no others.
    """

    variables: dict[str, str] = field(repr=False)
    proxy: str | None = field(repr=False)
    authorities: str | None


async def surroundings(context: Context, policy: EffectiveStatus) -> Surroundings:
    """Return what the next worker starts with.

    Raises:
        OperationError: a Secret or ConfigMap is missing, or its value is of no use. The text has no value.
    """
    needed = trust.references_of(policy)
    found = dict(zip(needed, await _read(context, needed), strict=True))
    credential = trust.credential(policy, found)
    variables = trust.variables(policy, credential) | commands_env(policy)
    wanted = policy.env_from or ()
    references = [secret_key(each.secret_ref) for each in wanted]
    for each, value in zip(wanted, await _read(context, references), strict=True):
        if "\0" in value or len(value.encode()) > _MOST_BYTES:
            raise unusable(
                each.secret_ref, f"a variable has at most {_MOST_BYTES} bytes, and none of them is zero"
            )
        variables[each.name] = value
    return Surroundings(
        variables,
        trust.workers_proxy(policy, credential, context.queue.base_url),
        trust.authorities(policy, found) or None,
    )


async def _read(context: Context, references: list[Reference]) -> list[str]:
    values = await asyncio.gather(*(context.values.read(each) for each in references))
    return [each.get_secret_value() for each in values]
