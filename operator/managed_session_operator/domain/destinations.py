"""Says which hosts a sandbox may reach. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from managed_session_api.resource import NetworkPreset, NetworkSpec, PolicyField

from managed_session_operator.domain.policy_layers import SESSION, Policy
from managed_session_operator.domain.trust import proxy_hosts

EVERYTHING = "0.0.0.0/0"
"""E2B's range for all destinations."""


def anthropic_host(base_url: str) -> str:
    """Return the host at which workers reach Anthropic; "" if the URL has none."""
    return urlsplit(base_url).hostname or ""


def destinations(policy: Policy, base_url: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the sandbox may reach, and what it may not.

    Args:
        policy: the session's policy.
        base_url: the URL at which its worker reaches Anthropic.
    """
    values = policy.values
    network = values.network or NetworkSpec()
    needed = [anthropic_host(base_url), *proxy_hosts(values.proxy)]
    match network.preset:
        case NetworkPreset.CLOSED:
            return _unique(needed), (EVERYTHING,)
        case NetworkPreset.ALLOWLIST:
            return _unique([*network.allow, *_hosts(policy), *needed]), (EVERYTHING,)
        case NetworkPreset.OPEN | None:
            denies_all = EVERYTHING in network.deny
            return _unique([*network.allow, *(_hosts(policy) if denies_all else ())]), tuple(network.deny)


def _hosts(policy: Policy) -> list[str]:
    """Return the hosts of secrets that are to be reachable.

    Where the class locks the network, a session cannot open a host by declaring a secret for it.
    """
    origin = (policy.values.origins or {}).get(PolicyField.SECRETS, "")
    if PolicyField.NETWORK in policy.locked and origin == SESSION:
        return []
    return [each.host for each in policy.values.secrets or ()]


def _unique(hosts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in hosts if each))


def unreachable_hosts(policy: Policy, base_url: str) -> list[str]:
    """Return the hosts of secrets that the network policy does not let the sandbox reach."""
    allow, deny = destinations(policy, base_url)
    hosts = _unique([each.host for each in policy.values.secrets or ()])
    return [each for each in hosts if EVERYTHING in deny and not _allowed(each, allow)]


def _allowed(host: str, allow: Sequence[str]) -> bool:
    return any(host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in allow)
