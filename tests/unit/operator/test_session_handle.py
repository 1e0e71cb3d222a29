"""The handle of a shared sandbox."""

from managed_session_operator.clients.e2b.handle import sdk_sandbox
from managed_session_operator.domain.session_handle import SessionHandle, session_key_of

from .in_memory_clouds import Handle


def test_a_session_of_a_shared_sandbox_has_a_handle_of_its_own() -> None:
    connected = Handle("i1")
    shared = SessionHandle(connected, "a1")
    assert shared.sandbox_id == "i1"
    assert sdk_sandbox(shared) is sdk_sandbox(connected)
    assert (session_key_of(shared), session_key_of(connected)) == ("a1", None)
