"""What the operator's metrics show before anything has happened, and after it has led."""

from __future__ import annotations

from managed_session_operator.metrics import Metrics
from managed_session_worker.protocol import ExitReason
from prometheus_client import Gauge

OF_EVERY_PROCESS = {"managed_sessions_last_resync_timestamp_seconds", "managed_sessions_credential_line"}
"""Gauges whose old value misleads nobody: alerts use the newest one, or that of the leader."""


def _gauges(metrics: Metrics) -> dict[str, float]:
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in metrics.registry.collect()
        if family.type == "gauge" and family.name not in OF_EVERY_PROCESS
        for sample in family.samples
    }


def test_a_former_leader_reports_nothing_that_was_true_once() -> None:
    metrics = Metrics()
    at_first = _gauges(metrics)
    plain = [each for each in vars(metrics).values() if isinstance(each, Gauge) and not each._labelnames]
    for gauge in plain:
        gauge.set(7)
    metrics.set_classes({"gold"}, {"gold": 1}, {"gold": 2})
    metrics.resources.set(1, {("Failed", "SessionStuck"): 1})
    metrics.user_waits.set({"more": 3}, paused=2, oldest_seconds=90_000.0)
    assert len([value for value in _gauges(metrics).values() if value]) > len(plain)
    metrics.stand_by()
    assert _gauges(metrics) == at_first


def test_reasons_that_no_resource_has_any_more_are_forgotten() -> None:
    metrics = Metrics()
    metrics.resources.set(1, {("Failed", "SessionStuck"): 1})
    metrics.resources.set(4, {("Idle", "Idle"): 4})
    found = {name: value for name, value in _gauges(metrics).items() if "by_reason" in name}
    assert found == {"managed_sessions_resources_by_reason{'phase': 'Idle', 'reason': 'Idle'}": 4}


def test_counters_of_which_an_alert_must_see_the_first_step_begin_at_zero() -> None:
    registry = Metrics().registry
    for action in ("stopped", "interrupted"):
        assert registry.get_sample_value("managed_sessions_recoveries_total", {"action": action}) == 0
    for reason in ExitReason:
        assert registry.get_sample_value("managed_sessions_turns_total", {"reason": reason.value}) == 0
