"""The policy in force, the body of a create, and its key."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api import names
from managed_session_api.resource import OnSandboxLost
from managed_session_operator.policy import effective_policy, idempotency_key, sandbox_wishes

from .examples import POLICY, session, settings


def test_without_wishes_the_installations_settings_apply() -> None:
    policy = effective_policy(session(), settings(max_idle_seconds=33, template="mine:1"))
    assert (policy.max_idle_seconds, policy.template) == (33, "mine:1")


def test_the_documented_defaults_apply_to_an_untouched_installation() -> None:
    policy = effective_policy(session(), settings())
    assert policy.timeout_seconds == 900
    assert policy.max_idle_seconds == 10
    assert policy.attach_timeout_seconds == 60
    assert policy.idle_ttl_seconds == 0
    assert policy.ttl_seconds_after_end == 3600
    assert policy.on_sandbox_lost is OnSandboxLost.RECREATE


def test_each_wish_of_a_resource_goes_before_the_setting_zero_included() -> None:
    wishes = {
        "sandbox": {"template": "own:2", "timeoutSeconds": 61},
        "worker": {"maxIdleSeconds": 1, "attachTimeoutSeconds": 2, "logLevel": "DEBUG"},
        "lifecycle": {"idleTTLSeconds": 0, "ttlSecondsAfterEnd": 0, "onSandboxLost": "Fail"},
    }
    policy = effective_policy(session(spec=wishes), settings(idle_ttl_seconds=99))
    assert policy.to_json() == {
        "template": "own:2",
        "timeoutSeconds": 61,
        "maxIdleSeconds": 1,
        "attachTimeoutSeconds": 2,
        "logLevel": "DEBUG",
        "idleTTLSeconds": 0,
        "ttlSecondsAfterEnd": 0,
        "onSandboxLost": "Fail",
    }


def test_a_create_says_whose_sandbox_it_is_and_users_metadata_cannot_change_that() -> None:
    forged = {"sandbox": {"metadata": {"team": "a", names.METADATA_RESOURCE_UID: "someone-else"}}}
    wishes = sandbox_wishes(session(spec=forged), POLICY, 3, "installation-1")
    assert wishes.metadata == {
        "team": "a",
        names.METADATA_INSTALLATION: "installation-1",
        names.METADATA_RESOURCE_UID: "uid-1",
        names.METADATA_SESSION: "sesn_01AbC",
        names.METADATA_ATTEMPT: "3",
    }


def test_a_create_is_closed_unless_the_resource_opens_it() -> None:
    closed = sandbox_wishes(session(), POLICY, 1, "i")
    assert (closed.auto_resume, closed.allow_public_traffic, closed.allow, closed.deny) == (
        False,
        False,
        (),
        (),
    )
    wished = {
        "sandbox": {
            "autoResume": True,
            "allowPublicTraffic": True,
            "env": {"A": "1"},
            "network": {"allow": ["a.example"], "deny": ["0.0.0.0/0"]},
        }
    }
    opened = sandbox_wishes(session(spec=wished), POLICY, 1, "i")
    assert (opened.auto_resume, opened.allow_public_traffic, opened.env) == (True, True, {"A": "1"})
    assert (opened.allow, opened.deny) == (("a.example",), ("0.0.0.0/0",))


def test_the_same_attempt_has_the_same_body_as_its_key_requires() -> None:
    assert sandbox_wishes(session(), POLICY, 2, "i") == sandbox_wishes(session(), POLICY, 2, "i")


@given(st.uuids().map(str), st.integers(1, 10_000))
def test_a_key_is_what_every_server_takes(uid: str, attempt: int) -> None:
    assert re.fullmatch(r"[a-z0-9]{64}", idempotency_key(uid, attempt))
    assert idempotency_key(uid, attempt) == idempotency_key(uid, attempt)


@pytest.mark.parametrize("other", [("uid-1", 2), ("uid-11", 1), ("uid-2", 1)])
def test_another_attempt_or_resource_has_another_key(other: tuple[str, int]) -> None:
    assert idempotency_key(*other) != idempotency_key("uid-1", 1)
