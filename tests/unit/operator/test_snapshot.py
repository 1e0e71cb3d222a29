"""Whether a pause has saved what happened since the previous pause."""

from __future__ import annotations

from datetime import timedelta

from managed_session_api.times import to_wire
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.steps.snapshot import rolled_back, saved_sandbox

from .examples import NOW, PAUSED, ago, session


def _view(started: float, ended: float = 0) -> SandboxView:
    """Return a paused sandbox, with the start and the end of its period in seconds before NOW."""
    return SandboxView("isandbox", True, "template", {}, started_at=ago(started), end_at=ago(ended))


def test_a_pause_whose_end_is_older_than_its_start_was_rolled_back() -> None:
    assert rolled_back(session({"sandbox": PAUSED}), _view(20, 300))


def test_a_pause_with_the_previous_pauses_end_was_rolled_back_to_it() -> None:
    resource = session({"sandbox": {**PAUSED, "savedAt": to_wire(ago(300))}})
    assert rolled_back(resource, _view(400, 300))
    assert rolled_back(resource, _view(900, 800))
    assert not rolled_back(resource, _view(20, 1))


def test_a_pause_with_the_previous_pauses_period_was_rolled_back_to_it() -> None:
    """The resource was written by the previous version, which records no more."""
    resource = session({"sandbox": {**PAUSED, "savedPeriodStartedAt": to_wire(ago(500))}})
    assert rolled_back(resource, _view(500))
    assert rolled_back(resource, _view(900))
    assert rolled_back(resource, _view(20, 400))
    assert not rolled_back(resource, _view(20))


def test_a_first_pause_cannot_be_rolled_back() -> None:
    assert not rolled_back(session({"sandbox": PAUSED}), _view(500))


def test_a_pause_records_its_time_and_its_period() -> None:
    saved = saved_sandbox(_view(20, 5), NOW)
    assert saved["savedPeriodStartedAt"] == ago(20)
    assert saved["savedAt"] == ago(5)


def test_the_end_of_a_countdown_is_not_the_time_of_a_pause() -> None:
    """E2B shows it until the pause is finished."""
    view = SandboxView("i", True, "t", {}, started_at=ago(20), end_at=NOW + timedelta(days=3650))
    assert saved_sandbox(view, NOW)["savedAt"] == NOW
