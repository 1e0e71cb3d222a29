"""What `doctor` concludes about webhook events from the operator's Lease."""

from __future__ import annotations

from managed_session_api import names
from managed_session_cli.diagnosis import CheckResult
from managed_session_cli.webhook_events import webhook_events

HEARD = {names.ANNOTATION_WEBHOOK_HEARD: "2026-11-29T09:00:00.000000Z"}
SILENT = {
    names.ANNOTATION_WEBHOOK_SILENT: "2026-11-29T09:10:00.000000Z",
    names.ANNOTATION_POLLED_TURNS: "12",
}


def said(annotations: dict[str, str] | None) -> tuple[CheckResult, str, str]:
    [check] = webhook_events({"metadata": {"annotations": annotations}})
    return check.result, check.detail, check.remedy


def test_missing_events_fail_with_a_remedy() -> None:
    result, detail, remedy = said(HEARD | SILENT)
    assert result is CheckResult.FAILED
    assert "missing since 2026-11-29T09:10:00.000000Z: polling has found the newest 12 turns" in detail
    assert "Claude Console" in remedy


def test_events_that_arrive_or_never_did_are_well() -> None:
    assert said(HEARD)[0] is CheckResult.OK
    assert said(None) == (CheckResult.OK, "none seen yet: turns are found by polling", "")


def test_without_an_operator_or_a_webhook_nothing_is_said() -> None:
    assert webhook_events(None) == []
    assert webhook_events({"metadata": {"annotations": SILENT}}, webhook_wanted=False) == []
