"""What a row says of a resource, and what it leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from managed_session_dashboard.board import Table
from managed_session_dashboard.rows import COLUMNS, class_row, selects, session_row, shared_row, waiting_since
from managed_session_dashboard.session_details import compact

NOON = "2026-03-18T12:00:00.000000Z"
LATER = "2026-03-18T12:00:30.000000Z"
T0 = 1773835200.0


def resource(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "sesn-1", "uid": "u", "creationTimestamp": "2026-03-18T12:00:00Z"},
        "spec": {
            "sessionID": "sesn_1",
            "sandbox": {"env": {"KEY": "secret-value"}, "metadata": {"a": "secret-value"}},
        },
        "status": status,
    }


def not_ready(reason: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": LATER}
    return {"conditions": [condition]}


def shown(body: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(COLUMNS[Table.SESSIONS], session_row(body), strict=True))


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (Table.SESSIONS, session_row(resource())),
        (Table.CLASSES, class_row({"metadata": {"name": "gold"}})),
        (Table.SHARED, shared_row({"metadata": {"name": "agent-1"}})),
    ],
)
def test_resource_without_a_status_has_a_row_with_all_columns(table: Table, row: list[Any]) -> None:
    assert len(row) == len(COLUMNS[table])


def test_row_and_details_have_no_variables_and_no_metadata() -> None:
    assert "secret-value" not in json.dumps(session_row(resource())) + compact(resource())


def test_deleted_resource_is_terminating_whatever_its_phase() -> None:
    body = resource(phase="Running")
    body["metadata"]["deletionTimestamp"] = NOON
    assert shown(body)["phase"] == "Terminating"


def test_wait_begins_with_the_offer_or_an_earlier_announcement() -> None:
    waiting = not_ready("AwaitingCapacity")
    assert waiting_since({**waiting, "work": {"offeredAt": NOON}}) == T0
    announced = {"type": "session.status_run_started", "createdAt": NOON}
    assert waiting_since({**waiting, "work": {"offeredAt": LATER}, "lastEvent": announced}) == T0
    assert waiting_since(waiting) == T0 + 30, "nothing else is known"


def test_wait_of_a_finished_turn_does_not_count() -> None:
    work = {"offeredAt": NOON, "finishedAt": "2026-03-18T12:00:10.000000Z"}
    assert waiting_since({**not_ready("AwaitingClaim"), "work": work}) == T0 + 30


@pytest.mark.parametrize("reason", ["Running", "Idle", "AwaitingUser", "AwaitingMessage", "TemplateNotFound"])
def test_session_for_which_nothing_is_to_be_started_does_not_wait(reason: str) -> None:
    assert waiting_since({**not_ready(reason), "work": {"offeredAt": NOON}}) is None


def test_long_messages_are_cut() -> None:
    condition = {"type": "Ready", "status": "False", "reason": "Idle", "message": "x" * 5000}
    assert len(shown(resource(conditions=[condition]))["message"]) == 200


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        (None, "all others"),
        ({"agentIDs": ["a", "b"], "environmentID": "env"}, "agent a, b; environment env"),
        (
            {"sessionMetadata": {"matchLabels": {"tier": "gold"},
                                 "matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]}},
            "tier=gold; x In (1, 2)",
        ),
    ],
)  # fmt: skip
def test_selector_is_described_in_words(selector: Any, words: str) -> None:
    assert selects(selector) == words
