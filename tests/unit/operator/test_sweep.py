"""Which sandboxes of E2B's list belong to a resource."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api import names
from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.store import ResourceStore
from managed_session_operator.sweep import Sweep
from managed_session_operator.work_list import WorkItem

from .examples import CREATING, LOST, NOW, PAUSED, RUNNING, SESSION, ago, body, session


def _view(sandbox_id: str, attempt: int = 0) -> SandboxView:
    metadata = {
        names.METADATA_RESOURCE_UID: "uid-1",
        names.METADATA_SESSION: SESSION,
        names.METADATA_ATTEMPT: str(attempt),
    }
    return SandboxView(sandbox_id, False, "template", metadata, started_at=NOW, end_at=NOW)


@pytest.mark.parametrize("recorded", [RUNNING, PAUSED])
def test_the_recorded_sandbox_is_the_resources_and_any_other_is_surplus(recorded: dict[str, object]) -> None:
    resource = session({"sandbox": recorded})
    assert not Sweep._is_surplus(resource, _view("isandbox"))
    assert Sweep._is_surplus(resource, _view("iother"))


def test_a_sandbox_of_a_create_under_way_is_never_surplus() -> None:
    assert not Sweep._is_surplus(session({"sandbox": CREATING}), _view("inew"))
    assert not Sweep._is_stray(session({"sandbox": CREATING}), _view("inew"))


@pytest.mark.parametrize("status", [None, {"sandbox": LOST}])
def test_a_sandbox_that_turns_up_where_none_is_recorded_may_still_be_adopted(
    status: dict[str, object] | None,
) -> None:
    assert not Sweep._is_surplus(session(status), _view("inew"))
    assert Sweep._is_stray(session(status), _view("inew"))


def _sweep(*bodies: dict[str, Any]) -> Sweep:
    store = ResourceStore()
    for each in bodies:
        store.observe(each)
    return Sweep(SimpleNamespace(store=store, settings=OperatorSettings.model_validate({})), lambda _: None)  # type: ignore[arg-type]


def test_the_sandbox_of_a_resource_that_another_version_wrote_is_let_alone() -> None:
    odd = _sweep(body(status={"sandbox": {"state": "FromAnotherVersion"}}))
    assert odd._understood([_view("isandbox")]) == []
    assert len(_sweep(body())._understood([_view("isandbox")])) == 1
    assert len(_sweep()._understood([_view("isandbox")])) == 1


@pytest.mark.parametrize(
    ("work", "elsewhere"),
    [
        (None, True),
        ({"claim": "c", "finishedAt": ago(40), "exitReason": "Idle"}, True),
        ({"claim": "c", "finishedAt": ago(10), "exitReason": "Idle"}, False),
        ({"claim": "c", "finishedAt": ago(40), "exitReason": "LeaseLost"}, False),
        ({"claim": "c"}, False),
    ],
)
def test_work_that_was_ours_when_it_was_listed_is_nobody_elses(
    work: dict[str, Any] | None, elsewhere: bool
) -> None:
    item = WorkItem(SESSION, SESSION, "active", ago(60), latest_heartbeat_at=ago(25))
    assert _sweep(body(status={"work": work or {}}))._is_served_elsewhere(item, ago(20)) is elsewhere


def test_a_sandbox_of_an_attempt_that_the_status_knows_nothing_of_is_forgotten_and_no_stray() -> None:
    wiped, view = session(None), _view("iold", attempt=1)
    assert Sweep._is_forgotten(wiped, view)
    assert not Sweep._is_stray(wiped, view)
    assert not Sweep._is_surplus(wiped, view)
    lost = session({"sandbox": {**LOST, "attempt": 1}})
    assert not Sweep._is_forgotten(lost, view)
    assert Sweep._is_stray(lost, view)
