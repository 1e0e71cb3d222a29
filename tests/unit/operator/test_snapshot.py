"""Whether a pause has saved what was done since the one before."""

from __future__ import annotations

from datetime import timedelta

from managed_session_api.times import to_wire
from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.steps.snapshot import rolled_back, saved_sandbox

from .examples import NOW, PAUSED, ago, session


def _view(seconds_ago: float) -> SandboxView:
    return SandboxView("isandbox", True, "template", {}, started_at=ago(seconds_ago), end_at=NOW)


def test_a_pause_that_shows_the_period_of_the_pause_before_went_back_to_it() -> None:
    resource = session({"sandbox": {**PAUSED, "savedPeriodStartedAt": to_wire(ago(500))}})
    assert rolled_back(resource, _view(500))
    assert rolled_back(resource, _view(900))
    assert not rolled_back(resource, _view(20))


def test_a_first_pause_has_nothing_to_go_back_to() -> None:
    assert not rolled_back(session({"sandbox": PAUSED}), _view(500))


def test_a_pause_records_whose_period_it_saved() -> None:
    view = _view(20)
    assert saved_sandbox(view)["savedPeriodStartedAt"] == NOW - timedelta(seconds=20)
