"""Settings from the environment."""

from __future__ import annotations

import pytest
from managed_session_runtime.log import LogFormat
from managed_session_runtime.settings import Settings, describe_settings, load_settings


def test_variables_with_the_prefix_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_NAMESPACE", "elsewhere")
    monkeypatch.setenv("MANAGED_SESSIONS_LOG_FORMAT", "text")
    monkeypatch.setenv("MANAGED_SESSIONS_PROBE_PORT", "0")
    settings = load_settings(Settings)
    assert (settings.namespace, settings.log_format, settings.probe_port) == ("elsewhere", LogFormat.TEXT, 0)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_NAMESPACE", "")
    assert load_settings(Settings).namespace == "managed-sessions"


def test_each_invalid_variable_is_named_with_its_rule_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_LOG_FORMAT", "sk-ant-pasted-by-mistake")
    monkeypatch.setenv("MANAGED_SESSIONS_PROBE_PORT", "65536")
    with pytest.raises(SystemExit) as raised:
        load_settings(Settings)
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert "MANAGED_SESSIONS_LOG_FORMAT" in message
    assert "json or text" in message
    assert "MANAGED_SESSIONS_PROBE_PORT" in message
    assert "at most 65535" in message
    assert "pasted-by-mistake" not in message


def test_every_setting_is_documented() -> None:
    rows = describe_settings(Settings)
    assert "MANAGED_SESSIONS_CREDENTIALS_DIR" in [row.variable for row in rows]
    assert all(row.description and row.kind for row in rows)
