"""Which sandboxes of E2B's list belong to a resource."""

from __future__ import annotations

import pytest
from managed_session_api import names
from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.sweep import Sweep

from .examples import CREATING, LOST, NOW, PAUSED, RUNNING, session


def _view(sandbox_id: str) -> SandboxView:
    metadata = {names.METADATA_RESOURCE_UID: "uid-1"}
    return SandboxView(sandbox_id, False, "template", metadata, started_at=NOW, end_at=NOW)


@pytest.mark.parametrize("recorded", [RUNNING, PAUSED])
def test_the_recorded_sandbox_is_the_resources_and_any_other_is_surplus(recorded: dict[str, object]) -> None:
    resource = session({"sandbox": recorded})
    assert not Sweep._is_surplus(resource, _view("isandbox"))
    assert Sweep._is_surplus(resource, _view("iother"))


def test_a_sandbox_of_a_create_under_way_is_never_surplus() -> None:
    assert not Sweep._is_surplus(session({"sandbox": CREATING}), _view("inew"))
    assert not Sweep._is_stray(session({"sandbox": CREATING}))


@pytest.mark.parametrize("status", [None, {"sandbox": LOST}])
def test_a_sandbox_that_turns_up_where_none_is_recorded_may_still_be_adopted(
    status: dict[str, object] | None,
) -> None:
    assert not Sweep._is_surplus(session(status), _view("inew"))
    assert Sweep._is_stray(session(status))
