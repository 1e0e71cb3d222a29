"""Which credentials go to which process, which are kept, and which signing keys are invalid."""

from __future__ import annotations

import base64

import pytest
from managed_session_cli import keys
from managed_session_cli.cluster import Object

GIVEN = {
    "anthropic-environment-id": "env_1",
    "anthropic-environment-key": "key-1",
    "e2b-api-key": "e2b_1",
}
SIGNING_KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()


def secret(**values: str) -> Object:
    data = {name.replace("_", "-"): value for name, value in values.items()}
    return {"data": keys.encoded(data)}


def test_new_installation_gives_each_process_its_own_keys() -> None:
    given = {**GIVEN, "anthropic-webhook-signing-key": SIGNING_KEY}
    operator, webhook = keys.plan_writes(given, {})
    assert (operator.exists, dict(operator.values)) == (False, GIVEN)
    assert dict(webhook.values) == {"anthropic-webhook-signing-key": SIGNING_KEY}


def test_only_changed_values_are_written() -> None:
    present = {
        "managed-session-operator": secret(
            anthropic_environment_id="env_1", anthropic_environment_key="old", e2b_api_key="e2b_kept"
        )
    }
    given = {"anthropic-environment-id": "env_1", "anthropic-environment-key": "new"}
    operator, webhook = keys.plan_writes(given, present)
    assert dict(operator.values) == {"anthropic-environment-key": "new"}
    assert operator.kept == ("anthropic-environment-id", "e2b-api-key")
    assert not webhook.values


def test_trailing_newline_of_a_value_is_no_difference() -> None:
    present = {"managed-session-operator": secret(e2b_api_key="e2b_1\n")}
    operator, _ = keys.plan_writes({"e2b-api-key": "e2b_1"}, present)
    assert not operator.values


def test_plan_does_not_show_values() -> None:
    assert all("key-1" not in repr(write) for write in keys.plan_writes(GIVEN, {}))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (SIGNING_KEY, None),
        (f"{SIGNING_KEY}\n{SIGNING_KEY}", None),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), None),
        ("c2VjcmV0", "does not begin with whsec_"),
        ("whsec_not base64!", "is not base64"),
        ("whsec_c2hvcnQ=", "is too short"),
        (f"{SIGNING_KEY}\nother", "does not begin with whsec_"),
    ],
)
def test_signing_key_is_checked_for_its_format(value: str, problem: str | None) -> None:
    found = keys.signing_key_problem(value)
    assert found is None if problem is None else found is not None and problem in found
