"""The optional API key."""

from __future__ import annotations

from pathlib import Path

from managed_session_api.credentials import Credential
from managed_session_operator.clients.anthropic.workspace_sessions import WorkspaceSessions
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_runtime.credentials import CredentialDirectory


def test_an_unreadable_api_key_is_absent_until_it_can_be_read(tmp_path: Path) -> None:
    credentials = CredentialDirectory(tmp_path, {})
    key = RotatingKey("an API key", lambda: credentials.get_all(Credential.ANTHROPIC_API_KEY))
    sessions = WorkspaceSessions(key, fence=lambda: None, timeout=1)
    assert not sessions.possible
    file = credentials.file(Credential.ANTHROPIC_API_KEY)
    file.write_bytes(b"\xff\xfe")
    assert not sessions.possible
    file.write_text("sk-key-of-an-administrator")
    assert sessions.possible
