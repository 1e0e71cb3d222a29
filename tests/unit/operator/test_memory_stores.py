"""The condition MemoryStoreFailed, from what a worker's exit record says."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.memory_stores import memory_conditions
from managed_session_operator.domain.worker_run import ExitRecord

FAILURE = {"store": "memstore_1", "why": "'a.md' could not be uploaded"}


def a_resource(*, failed: bool = False) -> ManagedSession:
    condition = {
        "type": "MemoryStoreFailed",
        "status": "True",
        "reason": "MemoryStoreFailed",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {
        "metadata": {"name": "sesn-1"},
        "spec": {"sessionID": "sesn_1"},
        "status": {"conditions": [condition] if failed else []},
    }
    return ManagedSession.model_validate(body)


def ended(**fields: Any) -> ExitRecord:
    record = {"claim": "c", "reason": "Idle", "firstHeartbeatAt": "2026-01-01T00:00:00Z", **fields}
    return ExitRecord.model_validate(record)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (ended(memoryFailures=[FAILURE]), "Memory store memstore_1: 'a.md' could not be uploaded."),
        (ended(memoryFailures=[FAILURE] * 5), "And 2 more."),
        (ended(unsynchronised=["/mnt/session/x/a.md"]), "such as /mnt/session/x/a.md"),
        (ended(reason="Error", message="SessionMemoryError: no store"), "could not be mounted"),
        (ended(memoryFailures=[{"odd": 1}]), "Memory store None"),
    ],
)
def test_failure_is_a_condition_that_says_what_failed(record: ExitRecord, said: str) -> None:
    [update] = memory_conditions(a_resource(), record)
    assert (update.type, update.reason) == (ConditionType.MEMORY_STORE_FAILED, Reason.MEMORY_STORE_FAILED)
    assert update.announced
    assert said in update.message


@pytest.mark.parametrize(
    "record",
    [
        None,
        ended(reason="Killed"),
        ended(firstHeartbeatAt=None),
    ],
)
def test_condition_stays_while_no_worker_has_synced_everything(record: ExitRecord | None) -> None:
    assert memory_conditions(a_resource(failed=True), record) == []


def test_condition_goes_with_the_next_turn_in_which_everything_is_synced() -> None:
    [update] = memory_conditions(a_resource(failed=True), ended())
    assert update.removed
    assert memory_conditions(a_resource(), ended()) == []


def test_record_of_an_earlier_template_says_nothing_of_memory() -> None:
    assert memory_conditions(a_resource(), ExitRecord.model_validate({"claim": "c", "reason": "Idle"})) == []
