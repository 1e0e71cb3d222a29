"""A sandbox's network: the port of its agent, the rules that E2B checks, and what they mean for a request."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from managed_session_devkit.simulators.e2b.errors import ApiError

ENVD_PORT = 49983
_EVERYTHING: Final = "0.0.0.0/0"
_MOST_DOMAINS: Final = 10
_MOST_HEADERS: Final = 20
_LONGEST: Final = {"domain": 128, "header name": 64, "header value": 2048}
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def check_network(network: dict[str, Any]) -> None:
    """Check a network policy by E2B's rules. Raises ApiError 400."""
    allowed = network.get("allowOut") or []
    domains = [
        host for host in allowed if any(character.isalpha() for character in host) and "::" not in host
    ]
    if domains and _EVERYTHING not in (network.get("denyOut") or []):
        raise ApiError(
            400,
            "When specifying allowed domains in allowOut, you must include '0.0.0.0/0' in denyOut",
        )
    _check_rules(network.get("rules") or {})


def _check_rules(rules: object) -> None:
    if not isinstance(rules, dict):
        raise ApiError(400, "rules must be an object")
    if len(rules) > _MOST_DOMAINS:
        raise ApiError(400, f"Too many rule domains: {len(rules)}, at most {_MOST_DOMAINS}")
    for domain, transforms in rules.items():
        _check_length("domain", domain)
        if not isinstance(transforms, list) or len(transforms) > 1:
            raise ApiError(400, f"Only one transform is supported for domain '{domain}'")
        for each in transforms:
            _check_headers(domain, ((each or {}).get("transform") or {}).get("headers") or {})


def _check_headers(domain: str, headers: Mapping[str, object]) -> None:
    if len(headers) > _MOST_HEADERS:
        raise ApiError(400, f"Too many headers for domain '{domain}': at most {_MOST_HEADERS}")
    for name, value in headers.items():
        if not isinstance(value, str):
            raise ApiError(400, f"The header '{name}' must be a string")
        _check_length("header name", name)
        _check_length("header value", value)
        if not _HEADER_NAME.fullmatch(name) or any(each in value for each in "\r\n\0"):
            raise ApiError(400, f"The header '{name}' is invalid")


def _check_length(what: str, text: str) -> None:
    if not 0 < len(text) <= _LONGEST[what]:
        raise ApiError(400, f"Invalid {what}: it must have 1 to {_LONGEST[what]} characters")


def reachable(network: Mapping[str, Any], host: str) -> bool:
    """Return whether a sandbox with this policy reaches the host. What is allowed is so even if denied."""
    denied = network.get("denyOut") or []
    return _matches(host, network.get("allowOut") or []) or not _matches(host, denied)


def _matches(host: str, entries: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        wild = (each[1:] for each in entries if each.startswith("*."))
        return host in entries or _EVERYTHING in entries or any(host.endswith(each) for each in wild)
    for each in entries:
        try:
            if address in ipaddress.ip_network(each, strict=False):
                return True
        except ValueError:
            continue
    return False


def added_headers(network: Mapping[str, Any], host: str) -> dict[str, str]:
    """Return the headers that E2B adds to requests to the host."""
    added = dict[str, str]()
    for each in (network.get("rules") or {}).get(host) or []:
        added |= (each.get("transform") or {}).get("headers") or {}
    return added
