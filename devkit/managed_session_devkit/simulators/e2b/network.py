"""A sandbox's network: the port of its agent, and the rules that E2B checks."""

from typing import Any

from managed_session_devkit.simulators.e2b.errors import ApiError

ENVD_PORT = 49983


def check_network(network: dict[str, Any]) -> None:
    """Check a network policy by E2B's rules. Raises ApiError 400."""
    allowed = network.get("allowOut") or []
    domains = [
        host for host in allowed if any(character.isalpha() for character in host) and "::" not in host
    ]
    if domains and "0.0.0.0/0" not in (network.get("denyOut") or []):
        raise ApiError(
            400,
            "When specifying allowed domains in allowOut, you must include '0.0.0.0/0' in denyOut",
        )
