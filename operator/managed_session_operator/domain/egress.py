"""Says which hosts a sandbox may reach, and with which headers E2B sends its requests there. Pure.

E2B replaces all rules at once, so destinations and headers always go together. What a sandbox has is recorded
as a fingerprint of the rules and of the Secrets' versions. No value of a Secret goes into it, so that nothing
can be guessed from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from managed_session_api.conditions import ConditionType
from managed_session_api.resource import EffectiveStatus, ManagedSession
from pydantic import SecretStr

from managed_session_operator.domain.destinations import destinations
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.references import ReferencedValue, unusable
from managed_session_operator.domain.sandbox import SandboxNetwork
from managed_session_operator.domain.values import Reference, secret_key

MOST_CHARACTERS = 2048
"""The longest header value that E2B takes."""
UNKNOWN = ""
"""Recorded while it is not known which rules the sandbox has."""
_PLACEHOLDER = "${"

Values = Mapping[Reference, ReferencedValue]
"""What Secrets hold."""


def references_of(values: EffectiveStatus) -> list[Reference]:
    """Return the Secrets' keys that the headers come from, each once."""
    return sorted({secret_key(each.secret_ref) for each in values.secrets or ()})


def network(policy: Policy, base_url: str, secrets: Values) -> SandboxNetwork:
    """Return the rules for egress.

    Raises:
        OperationError: a value cannot be a header's. The text names the Secret and no value.
    """
    allow, deny = destinations(policy, base_url)
    headers = dict[str, dict[str, SecretStr]]()
    for each in policy.values.secrets or ():
        reference = each.secret_ref
        value = secrets[secret_key(each.secret_ref)].value.get_secret_value().rstrip("\r\n")
        whole = each.prefix + value
        if not value:
            raise unusable(reference, "it is empty")
        if not all(" " <= character <= "~" for character in whole):
            raise unusable(reference, "a header may only have printable ASCII characters and no line break")
        if len(whole) > MOST_CHARACTERS:
            raise unusable(reference, f"a header has at most {MOST_CHARACTERS} characters with its prefix")
        if _PLACEHOLDER in whole:
            raise unusable(reference, f'it contains "{_PLACEHOLDER}", with which E2B\'s placeholders begin')
        headers.setdefault(each.host, {})[each.header] = SecretStr(whole)
    return SandboxNetwork(allow, deny, headers)


def fingerprint(resource: ManagedSession, policy: Policy, base_url: str, secrets: Values) -> str:
    """Return what `status.sandbox.egress` has once the rules are in force.

    It changes with each pause, because a sandbox that E2B rolls back may have the rules of an earlier time.
    """
    rules = [
        destinations(policy, base_url),
        [
            [*each.to_json().items(), secrets[secret_key(each.secret_ref)].version]
            for each in policy.values.secrets or ()
        ],
    ]
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:32]
    return f"{_period(resource)}.{digest}"


def of_this_period(resource: ManagedSession) -> bool:
    """Return whether the recorded fingerprint is of the sandbox as it has run since its newest pause."""
    recorded = resource.status.sandbox.egress
    return recorded is not None and recorded.startswith(f"{_period(resource)}.")


def _period(resource: ManagedSession) -> str:
    sandbox = resource.status.sandbox
    return hashlib.sha256(f"{sandbox.id}|{sandbox.saved_at}".encode()).hexdigest()[:12]


def policy_key(values: EffectiveStatus) -> str:
    """Return what tells two policies apart that lead to different rules."""
    parts = [each.to_json() if each else None for each in (values.network, values.proxy)]
    return json.dumps([parts, [each.to_json() for each in values.secrets or ()]], sort_keys=True)


def checked_at(checked: tuple[str, datetime] | None, values: EffectiveStatus) -> datetime | None:
    """Return when the rules were last compared for this policy; None if they were not."""
    return checked[1] if checked is not None and checked[0] == policy_key(values) else None


def is_due(
    resource: ManagedSession,
    values: EffectiveStatus,
    checked_at: datetime | None,
    now: datetime,
    interval: timedelta,
) -> bool:
    """Return whether the rules have to be compared with those that the running sandbox has.

    Args:
        resource: the session.
        values: its policy.
        checked_at: when this process last compared them for this policy; None if it has not.
        now: the time.
        interval: how often to look whether a Secret has changed. Nothing announces that.
    """
    if not values.secrets:
        said = resource.status.condition(ConditionType.SECRETS_APPLIED) is not None
        return said or resource.status.sandbox.egress is not None
    return not of_this_period(resource) or checked_at is None or now >= checked_at + interval
