"""The effective policy, the body of a create, and its idempotency key."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api import names
from managed_session_api.resource import OnSandboxLost, PolicyField
from managed_session_operator.domain.policy import (
    commands_env,
    idempotency_key,
    policy_of,
    policy_without_class,
    sandbox_request,
)
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.sandbox import SandboxRequest

from .examples import session, session_class, settings

RECORDED_CLASS = {"class": {"name": "gold", "uid": "uid-gold", "generation": 7}}


def request(spec: dict[str, Any], attempt: int = 1) -> SandboxRequest:
    resource = session(spec=spec)
    return sandbox_request(
        resource, policy_of(resource, settings()), attempt, "i", "https://api.anthropic.com"
    )


def classed(spec: dict[str, Any], of_class: dict[str, Any], *, locked: list[str] | None = None) -> Policy:
    serving = session_class(spec={"session": of_class, "locked": locked or []})
    return policy_of(session(spec=spec), settings(), serving)


def test_without_options_the_installations_settings_apply() -> None:
    policy = policy_of(session(), settings(max_idle_seconds=33, template="mine:1")).values
    assert (policy.max_idle_seconds, policy.template) == (33, "mine:1")


def test_the_documented_defaults_apply_to_an_untouched_installation() -> None:
    policy = policy_of(session(), settings()).values
    assert policy.timeout_seconds == 900
    assert policy.max_idle_seconds == 10
    assert policy.attach_timeout_seconds == 60
    assert policy.idle_ttl_seconds == 0
    assert policy.ttl_seconds_after_end == 3600
    assert policy.on_sandbox_lost is OnSandboxLost.RECREATE


def test_each_option_of_a_resource_overrides_the_setting_even_with_zero() -> None:
    options = {
        "sandbox": {"template": "own:2", "timeoutSeconds": 61},
        "worker": {"maxIdleSeconds": 1, "attachTimeoutSeconds": 2, "logLevel": "DEBUG"},
        "lifecycle": {"idleTTLSeconds": 0, "ttlSecondsAfterEnd": 0, "onSandboxLost": "Fail"},
    }
    policy = policy_of(session(spec=options), settings(idle_ttl_seconds=99))
    assert policy.recorded() == {
        "template": "own:2",
        "timeoutSeconds": 61,
        "maxIdleSeconds": 1,
        "attachTimeoutSeconds": 2,
        "logLevel": "DEBUG",
        "idleTTLSeconds": 0,
        "ttlSecondsAfterEnd": 0,
        "onSandboxLost": "Fail",
    }


def test_a_creates_metadata_identifies_the_sandbox_and_users_cannot_change_it() -> None:
    forged = {"sandbox": {"metadata": {"team": "a", names.METADATA_RESOURCE_UID: "someone-else"}}}
    options = request(forged, 3)
    assert options.metadata == {
        "team": "a",
        names.METADATA_INSTALLATION: "i",
        names.METADATA_RESOURCE_UID: "uid-1",
        names.METADATA_SESSION: "sesn_01AbC",
        names.METADATA_ATTEMPT: "3",
    }


def test_a_sandbox_is_private_unless_the_resource_opens_it() -> None:
    closed = request({})
    assert (closed.auto_resume, closed.allow_public_traffic, closed.allow, closed.deny) == (
        False,
        False,
        (),
        (),
    )
    requested = {
        "sandbox": {
            "autoResume": True,
            "allowPublicTraffic": True,
            "env": {"A": "1"},
            "network": {"allow": ["a.example"], "deny": ["0.0.0.0/0"]},
        }
    }
    opened = request(requested)
    assert (opened.auto_resume, opened.allow_public_traffic, opened.env) == (True, True, {"A": "1"})
    assert (opened.allow, opened.deny) == (("a.example",), ("0.0.0.0/0",))


def test_the_same_attempt_has_the_same_body_as_its_key_requires() -> None:
    assert request({}, 2) == request({}, 2)


@given(st.uuids().map(str), st.integers(1, 10_000))
def test_an_idempotency_key_is_valid_for_every_server(uid: str, attempt: int) -> None:
    assert re.fullmatch(r"[a-z0-9]{64}", idempotency_key(uid, attempt))
    assert idempotency_key(uid, attempt) == idempotency_key(uid, attempt)


@pytest.mark.parametrize("other", [("uid-1", 2), ("uid-11", 1), ("uid-2", 1)])
def test_another_attempt_or_resource_has_another_key(other: tuple[str, int]) -> None:
    assert idempotency_key(*other) != idempotency_key("uid-1", 1)


def test_variables_that_affect_root_reach_only_the_agents_commands() -> None:
    harmless = {"HTTPS_PROXY": "http://proxy", "MY_PATH": "x", "TZ": "UTC"}
    steering = dict.fromkeys(
        (
            "PATH",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "BASH_ENV",
            "PYTHONPATH",
            "OPENSSL_CONF",
            "MANAGED_SESSION_ROOT",
        ),
        "/mnt/session/x",
    )
    requested = {"sandbox": {"env": {**harmless, **steering}}}
    assert request(requested).env == harmless
    assert commands_env(policy_of(session(spec=requested), settings()).values) == steering


SECTIONS: list[tuple[str, str, Any, Any]] = [
    ("sandbox", "template", "own:1", "class:1"),
    ("sandbox", "timeoutSeconds", 61, 62),
    ("sandbox", "network", {"allow": [], "deny": ["0.0.0.0/0"]}, {"allow": ["1.1.1.1"], "deny": []}),
    ("sandbox", "autoResume", False, True),
    ("sandbox", "allowPublicTraffic", False, True),
    ("worker", "maxIdleSeconds", 3, 4),
    ("worker", "minIdleSeconds", 3, 4),
    ("worker", "attachTimeoutSeconds", 3, 4),
    ("worker", "maxParallelCalls", 1, 20),
    ("worker", "logLevel", "DEBUG", "ERROR"),
    ("lifecycle", "idleTTLSeconds", 0, 60),
    ("lifecycle", "ttlSecondsAfterEnd", 0, 60),
    ("lifecycle", "onSandboxLost", "Recreate", "Fail"),
]


@pytest.mark.parametrize(("part", "name", "own", "of_class"), SECTIONS, ids=[each[1] for each in SECTIONS])
def test_a_session_overrides_its_class_and_the_class_the_settings(
    part: str, name: str, own: Any, of_class: Any
) -> None:
    both = classed({part: {name: own}}, {part: {name: of_class}}).recorded()
    assert (both[name], both["origins"][name]) == (own, "session")
    alone = classed({}, {part: {name: of_class}}).recorded()
    assert (alone[name], alone["origins"][name]) == (of_class, "class/gold@7")
    neither = classed({}, {}).recorded()
    assert neither["origins"][name] == "settings"


@pytest.mark.parametrize(("part", "name", "own", "of_class"), SECTIONS, ids=[each[1] for each in SECTIONS])
def test_a_locked_field_is_not_taken_from_the_session(part: str, name: str, own: Any, of_class: Any) -> None:
    policy = classed({part: {name: own}}, {part: {name: of_class}}, locked=[name])
    assert policy.recorded()[name] == of_class
    assert policy.refused == (PolicyField(name),)
    assert not classed({}, {part: {name: of_class}}, locked=[name]).refused


def test_a_locked_field_that_the_class_does_not_set_has_the_settings_value() -> None:
    policy = classed({"sandbox": {"template": "own:1"}}, {}, locked=["template"])
    assert policy.values.template == settings().template
    assert policy.recorded()["origins"]["template"] == "settings"


@pytest.mark.parametrize("name", ["metadata", "env"])
def test_entries_of_session_and_class_are_merged(name: str) -> None:
    policy = classed({"sandbox": {name: {"A": "own", "B": "own"}}}, {"sandbox": {name: {"B": "c", "C": "c"}}})
    recorded = policy.recorded()
    assert recorded[name] == {"A": "own", "B": "own", "C": "c"}
    assert recorded["origins"][name] == "session+class/gold@7"
    locked = classed({"sandbox": {name: {"A": "own"}}}, {"sandbox": {name: {"C": "c"}}}, locked=[name])
    assert locked.recorded()[name] == {"C": "c"}
    assert locked.refused == (PolicyField(name),)


def test_without_a_class_the_status_records_what_it_always_has() -> None:
    requested = session(spec={"sandbox": {"env": {"A": "1"}, "network": {"deny": ["0.0.0.0/0"]}}})
    assert "origins" not in policy_of(requested, settings()).recorded()
    assert "env" not in policy_of(requested, settings()).recorded()


def test_a_class_that_is_gone_applies_as_recorded_until_the_next_turn() -> None:
    serving = session_class(
        spec={
            "session": {"worker": {"maxIdleSeconds": 44}, "sandbox": {"env": {"C": "c"}, "template": "c:1"}},
            "locked": ["template"],
        }
    )
    spec = {"sandbox": {"template": "own:1", "env": {"A": "own"}}}
    in_force = policy_of(session(spec=spec), settings(), serving)
    later = session(spec=spec, status={**RECORDED_CLASS, "effective": in_force.recorded()})
    kept = policy_of(later, settings())
    assert kept.recorded() == in_force.recorded()
    assert policy_without_class(later, settings()).values.template == "own:1"


@given(st.sets(st.sampled_from([each[1] for each in SECTIONS])), st.sets(st.sampled_from(list(PolicyField))))
def test_each_value_is_that_of_the_layer_that_its_origin_names(
    own: set[str], locked: set[PolicyField]
) -> None:
    spec: dict[str, Any] = {}
    of_class: dict[str, Any] = {}
    for part, name, mine, theirs in SECTIONS:
        if name in own:
            spec.setdefault(part, {})[name] = mine
        of_class.setdefault(part, {})[name] = theirs
    policy = classed(spec, of_class, locked=[str(each) for each in locked])
    recorded = policy.recorded()
    for _, name, mine, theirs in SECTIONS:
        obeyed = name in own and name not in locked
        assert recorded["origins"][name] == ("session" if obeyed else "class/gold@7")
        assert recorded[name] == (mine if obeyed else theirs)
    assert set(policy.refused) == {PolicyField(name) for name in own if name in locked}
