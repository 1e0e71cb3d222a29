"""What a sandbox may reach, which headers E2B adds, and what is recorded of them."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.domain import egress
from managed_session_operator.domain.destinations import destinations, unreachable_hosts
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.policy import policy_of
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.references import ReferencedValue
from managed_session_operator.domain.values import Reference
from pydantic import SecretStr

from .examples import session, session_class, settings

URL = "https://api.anthropic.com"
ANTHROPIC = "api.anthropic.com"
ALL = "0.0.0.0/0"


def secret(host: str = "api.example.com", header: str = "Authorization", **more: Any) -> dict[str, Any]:
    return {"host": host, "header": header, "secretRef": {"name": "github", "key": "token"}, **more}


def policy(sandbox: dict[str, Any], of_class: dict[str, Any] | None = None, *locked: str) -> Policy:
    serving = (
        session_class(spec={"session": {"sandbox": of_class}, "locked": list(locked)}) if of_class else None
    )
    return policy_of(session(spec={"sandbox": sandbox}), settings(), serving)


def held(value: str, version: str = "1") -> egress.Values:
    return {Reference("Secret", "github", "token"): ReferencedValue(SecretStr(value), version)}


@pytest.mark.parametrize(
    ("network", "allow", "deny"),
    [
        (None, [], []),
        ({"preset": "open", "deny": ["10.0.0.0/8"]}, [], ["10.0.0.0/8"]),
        ({"preset": "closed"}, [ANTHROPIC], [ALL]),
        ({"preset": "allowlist"}, ["api.example.com", ANTHROPIC], [ALL]),
        (
            {"preset": "allowlist", "allow": ["pypi.org", "api.example.com"]},
            ["pypi.org", "api.example.com", ANTHROPIC],
            [ALL],
        ),
        ({"allow": ["pypi.org"], "deny": [ALL]}, ["pypi.org", "api.example.com"], [ALL]),
    ],
)
def test_a_preset_decides_what_is_reachable(
    network: dict[str, Any] | None, allow: list[str], deny: list[str]
) -> None:
    sandbox: dict[str, Any] = {"secrets": [secret()]}
    if network is not None:
        sandbox["network"] = network
    assert destinations(policy(sandbox), URL) == (tuple(allow), tuple(deny))


def test_a_session_opens_no_host_where_its_class_locks_the_network() -> None:
    closed = {"network": {"preset": "allowlist", "allow": ["*.example.com"]}}
    own = policy({"secrets": [secret("evil.example")]}, closed, "network")
    assert destinations(own, URL) == (("*.example.com", ANTHROPIC), (ALL,))
    assert unreachable_hosts(own, URL) == ["evil.example"]
    allowed = policy({"secrets": [secret()]}, closed, "network")
    assert unreachable_hosts(allowed, URL) == []
    of_class = policy({}, {**closed, "secrets": [secret("evil.example")]}, "network")
    assert unreachable_hosts(of_class, URL) == []


def test_the_headers_of_one_host_are_merged() -> None:
    both = policy({"secrets": [secret(prefix="Bearer "), secret(header="X-Key"), secret("b.example")]})
    rules = egress.network(both, URL, held("abc\n"))
    assert {
        (host, name): value.get_secret_value()
        for host, added in rules.headers.items()
        for name, value in added.items()
    } == {
        ("api.example.com", "Authorization"): "Bearer abc",
        ("api.example.com", "X-Key"): "abc",
        ("b.example", "Authorization"): "abc",
    }


@pytest.mark.parametrize(
    "value", ["", "\n", "a\nb", "a\r\nX-Other: b", "ä", "x" * 2049, "${e2b.secrets.other}"]
)
def test_a_value_that_no_header_can_have_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(OperationError) as refused:
        egress.network(policy({"secrets": [secret()]}), URL, held(value))
    assert refused.value.reason is Reason.REFERENCE_INVALID
    assert "github" in str(refused.value)
    assert not value.strip() or value not in str(refused.value)


def test_the_fingerprint_depends_on_versions_and_never_on_values() -> None:
    resource, one = session(), policy({"secrets": [secret()]})
    first = egress.fingerprint(resource, one, URL, held("a", "1"))
    assert egress.fingerprint(resource, one, URL, held("b", "1")) == first
    assert egress.fingerprint(resource, one, URL, held("a", "2")) != first
    other = policy({"secrets": [secret(prefix="Bearer ")]})
    assert egress.fingerprint(resource, other, URL, held("a", "1")) != first
    paused = session(status={"sandbox": {"id": "i1", "savedAt": "2026-11-30T00:00:00Z"}})
    assert egress.fingerprint(paused, one, URL, held("a", "1")) != first
