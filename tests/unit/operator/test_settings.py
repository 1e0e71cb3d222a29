"""The operator's settings: invalid and contradictory values are named."""

from __future__ import annotations

import pytest
from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.settings import describe_settings, load_settings

from .examples import settings

BAD = [
    ("INSTALLATION_ID", "not allowed!"),
    ("SANDBOX_TIMEOUT_SECONDS", "0"),
    ("E2B_PLAN", "enterprise"),
    ("SANDBOX_MAX_LIFETIME_SECONDS", "0"),
    ("MAX_ACTIVE_SANDBOXES", "0"),
    ("MAX_ACTIVE_SANDBOXES", "many"),
    ("PREWARM_CAPACITY_PERCENT", "101"),
    ("SANDBOX_CREATION_RATE", "0"),
    ("POLL_CONCURRENCY", "0"),
    ("POLL_BLOCK_MILLISECONDS", "1000"),
    ("RECLAIM_SECONDS", "0"),
    ("RECONCILE_CONCURRENCY", "0"),
    ("RESYNC_INTERVAL_SECONDS", "0"),
    ("ON_SANDBOX_LOST", "Ignore"),
    ("WORKER_LOG_LEVEL", "LOUD"),
    ("AUDIT", "stderr"),
    ("AUDIT", "relative/path"),
    ("IDLE_TTL_SECONDS", "-1"),
    ("RETRY_SCALE", "0"),
    ("ALLOW_ENVIRONMENT_KEY_IN_SANDBOX", "perhaps"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_invalid_value_ends_the_process_and_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MANAGED_SESSIONS_{name}", value)
    with pytest.raises(SystemExit) as raised:
        load_settings(OperatorSettings)
    assert raised.value.code == 2
    assert f"MANAGED_SESSIONS_{name}" in capsys.readouterr().err


def test_a_lease_shorter_than_its_renewal_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_LEASE_DURATION_SECONDS", "5")
    monkeypatch.setenv("MANAGED_SESSIONS_LEASE_RENEW_SECONDS", "3")
    with pytest.raises(SystemExit):
        load_settings(OperatorSettings)
    assert "MANAGED_SESSIONS_LEASE_RENEW_SECONDS" in capsys.readouterr().err


def test_the_defaults_are_as_documented() -> None:
    known = settings()
    assert known.max_active_sandboxes == 20
    assert known.sandbox_creation_rate == 1.0
    assert known.prewarm_capacity_percent == 80
    assert known.on_sandbox_lost == "Recreate"
    assert known.allow_environment_key_in_sandbox is False
    assert known.installation_id is None


def test_the_plan_sets_the_limits_and_each_can_be_set_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits() -> tuple[int, float, int]:
        known = load_settings(OperatorSettings)
        return known.max_active_sandboxes, known.sandbox_creation_rate, known.sandbox_max_lifetime_seconds

    assert limits() == (20, 1.0, 3600)
    monkeypatch.setenv("MANAGED_SESSIONS_E2B_PLAN", "hobby")
    assert limits() == (20, 1.0, 3600)
    monkeypatch.setenv("MANAGED_SESSIONS_E2B_PLAN", "pro")
    assert limits() == (100, 5.0, 86400)
    monkeypatch.setenv("MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES", "300")
    assert limits() == (300, 5.0, 86400)


def test_offers_are_not_requested_again_before_a_create_can_have_ended() -> None:
    known = settings()
    assert known.reclaim_seconds > OPEN_SECONDS > known.create_timeout_seconds


def test_every_setting_has_a_description() -> None:
    assert all(row.description for row in describe_settings(OperatorSettings))


def test_a_call_as_long_as_the_lease_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("REQUEST_TIMEOUT_SECONDS", "CREATE_TIMEOUT_SECONDS", "KUBERNETES_TIMEOUT_SECONDS"):
        with monkeypatch.context() as patch:
            patch.setenv(f"MANAGED_SESSIONS_{name}", "15")
            with pytest.raises(SystemExit):
                load_settings(OperatorSettings)
        errors = capsys.readouterr().err
        assert f"MANAGED_SESSIONS_{name} must be shorter than" in errors
        assert "MANAGED_SESSIONS_LEASE_DURATION_SECONDS (15)" in errors


def test_a_short_lease_shortens_default_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_LEASE_DURATION_SECONDS", "6")
    known = load_settings(OperatorSettings)
    assert known.request_timeout_seconds == known.create_timeout_seconds == 4
    assert known.kubernetes_timeout_seconds == 4


RENAMED = [
    ("HINT_CAPACITY_PERCENT", "PREWARM_CAPACITY_PERCENT", "prewarm_capacity_percent"),
    ("SWEEP_SECONDS", "RESYNC_INTERVAL_SECONDS", "resync_interval_seconds"),
]


@pytest.mark.parametrize(("old", "new", "field"), RENAMED)
def test_an_old_name_still_works_with_one_warning_that_names_the_new_one(
    old: str, new: str, field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MANAGED_SESSIONS_{old}", "42")
    assert getattr(load_settings(OperatorSettings), field) == 42
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"MANAGED_SESSIONS_{old} is now called MANAGED_SESSIONS_{new}" in warning


@pytest.mark.parametrize(("old", "new", "field"), RENAMED)
def test_a_new_name_wins_over_its_old_one_and_has_no_warning_of_its_own(
    old: str, new: str, field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MANAGED_SESSIONS_{new}", "43")
    assert getattr(load_settings(OperatorSettings), field) == 43
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(f"MANAGED_SESSIONS_{old}", "42")
    assert getattr(load_settings(OperatorSettings), field) == 43
    (warning,) = capsys.readouterr().err.splitlines()
    assert "has no effect" in warning


def test_an_empty_variable_of_an_old_name_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_SWEEP_SECONDS", "")
    assert load_settings(OperatorSettings).resync_interval_seconds == 30
    assert capsys.readouterr().err == ""


def test_an_invalid_value_under_an_old_name_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_SWEEP_SECONDS", "0")
    with pytest.raises(SystemExit):
        load_settings(OperatorSettings)
    message = capsys.readouterr().err
    assert "MANAGED_SESSIONS_SWEEP_SECONDS is now called MANAGED_SESSIONS_RESYNC_INTERVAL_SECONDS" in message
    assert "MANAGED_SESSIONS_RESYNC_INTERVAL_SECONDS: " in message
