"""A request to try a session again is served once, whatever state the session is in."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import PASSING_REASONS, Reason
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.retry import conditions_of_retry
from managed_session_operator.domain.step import Step

from .examples import ago, observation, session

STATUSES: list[dict[str, Any]] = [
    {},
    {"sandbox": {"id": "i1", "state": "Paused"}},
    {"recovery": {"suspectedAt": ago(100), "attempts": 3}},
    {"requests": {"retry": "before"}},
]


def asked(status: dict[str, Any], **more: Any) -> ManagedSession:
    return session(status, spec={"requests": {"retry": "now"}}, **more)


def ready(status: str, reason: str) -> dict[str, Any]:
    now = {"type": "Ready", "status": status, "reason": reason, "message": "as it was"}
    return {"conditions": [{**now, "lastTransitionTime": ago(60)}]}


@pytest.mark.parametrize("status", STATUSES)
def test_a_new_request_is_served_before_anything_else(status: dict[str, Any]) -> None:
    assert decide(asked(status), observation()).step is Step.TRY_AGAIN


@pytest.mark.parametrize("status", STATUSES)
def test_a_served_request_changes_nothing(status: dict[str, Any]) -> None:
    served = {**status, "requests": {"retry": "now"}}
    assert decide(asked(served), observation()).step is decide(session(status), observation()).step


def test_a_session_that_has_ended_or_is_deleted_is_not_tried_again() -> None:
    ended = asked({"endedAt": ago(5)})
    assert decide(ended, observation()).step is not Step.TRY_AGAIN
    deleted = asked({}, deletionTimestamp="2026-11-23T16:30:00Z")
    assert decide(deleted, observation()).step is Step.FINALIZE


def test_only_a_session_that_is_not_ready_says_that_it_is_tried_again() -> None:
    assert conditions_of_retry(session(ready("True", "Idle"))) == []
    [update] = conditions_of_retry(session(ready("False", "SessionStuck")))
    assert (update.reason, "SessionStuck: as it was" in update.message) == (Reason.RETRYING, True)
    assert update.reason in PASSING_REASONS
