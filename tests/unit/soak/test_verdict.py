"""The verdict on a soak, for hand-made evidence."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from ...soak.evidence import Evidence, SandboxEvidence, SessionEvidence, judge, leaks

SESSION = SessionEvidence("sesn_1", sent=3, messages=3)
SANDBOX = SandboxEvidence("sbx1", "sesn_1", "uid1", "killed", worked=True)


def texts(**evidence: Any) -> list[str]:
    return [finding.text for finding in judge(replace(Evidence(), **evidence))]


def test_nothing_lost_leaked_or_doubled_passes() -> None:
    assert (
        texts(sessions=(SESSION,), sandboxes=(SANDBOX, replace(SANDBOX, sandbox_id="sbx2", worked=False)))
        == []
    )


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        ({"messages": 4}, "Anthropic has 4"),
        ({"messages": 2}, "Anthropic has 2"),
        ({"open": 1}, "1 messages are not answered"),
        ({"overlapping": 1}, "two workers at a time"),
        ({"repeated": 2}, "2 results were posted twice"),
        ({"complaints": ("files are gone",)}, "files are gone"),
    ],
)
def test_session_with_a_broken_promise_is_found(wrong: dict[str, Any], finding: str) -> None:
    findings = judge(Evidence(sessions=(SESSION, replace(SESSION, session_id="sesn_2", **wrong))))
    assert [finding.session_id for finding in findings] == ["sesn_2"]
    assert finding in findings[0].text


def test_second_sandbox_with_a_worker_is_found() -> None:
    (text,) = texts(sandboxes=(SANDBOX, replace(SANDBOX, sandbox_id="sbx2")))
    assert "uid1" in text
    assert "sbx1, sbx2" in text


def test_second_sandbox_is_fine_after_a_fault_destroyed_the_first() -> None:
    assert texts(sandboxes=(replace(SANDBOX, destroyed=True), replace(SANDBOX, sandbox_id="sbx2"))) == []


def test_sandboxes_of_two_resources_of_one_session_are_fine() -> None:
    other = replace(SANDBOX, sandbox_id="sbx2", resource_uid="uid2")
    assert texts(sandboxes=(SANDBOX, other)) == []


@pytest.mark.parametrize("state", ["running", "pausing"])
def test_sandbox_that_still_runs_is_found(state: str) -> None:
    assert texts(sandboxes=(replace(SANDBOX, state=state),)) == [f"sandbox sbx1 is {state}"]


def test_stranded_work_leftovers_leaks_and_missing_secrets_are_found() -> None:
    assert texts(
        stranded=("sesn_1",),
        left=("secret/x-token",),
        leaks=("the log of webhook: session token",),
        unauthorized=2,
    ) == [
        "acknowledged work has no worker",
        "left after everything was deleted: secret/x-token",
        "a secret is in the log of webhook: session token",
        "2 requests lacked the secret",
    ]


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_secret_is_found_as_it_is_and_in_base64_wherever_it_stands(before: str) -> None:
    secret = "token-0123456789"
    plain, encoded = f"{before}{secret}.", base64.b64encode(f"{before}{secret}.".encode()).decode()
    texts = {"the log": plain, "an Event": encoded, "a resource": "token-01234 and nothing more"}
    assert leaks(texts, {"the token": secret}) == ("the log: the token", "an Event: the token")
