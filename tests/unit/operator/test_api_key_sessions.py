"""The optional API key."""

from __future__ import annotations

from pathlib import Path

from managed_session_operator.clients.api_key_sessions import ApiKeySessions
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_runtime.credentials import Credential, CredentialDirectory


def test_an_api_key_that_cannot_be_read_is_none_until_it_can(tmp_path: Path) -> None:
    credentials = CredentialDirectory(tmp_path, {})
    key = RotatingKey("an API key", lambda: credentials.get_all(Credential.ANTHROPIC_API_KEY))
    sessions = ApiKeySessions(key, fence=lambda: None, timeout=1)
    assert not sessions.possible
    file = credentials.file(Credential.ANTHROPIC_API_KEY)
    file.write_bytes(b"\xff\xfe")
    assert not sessions.possible
    file.write_text("sk-key-of-an-administrator")
    assert sessions.possible
