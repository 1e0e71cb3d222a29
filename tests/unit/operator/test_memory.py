"""What the process remembers of a sandbox, and which changes a write in flight survives."""

from __future__ import annotations

from datetime import timedelta

import e2b
from managed_session_operator.context import Memory, _same_ground

from .examples import NOW, PAUSED, hint, session, work


def _sandbox() -> e2b.AsyncSandbox:
    return e2b.AsyncSandbox.__new__(e2b.AsyncSandbox)


def test_a_connected_sandbox_is_extended_long_before_its_countdown_ends() -> None:
    memory = Memory()
    memory.connect(_sandbox(), 900, NOW)
    assert memory.sandbox is not None
    assert memory.extend_at is not None
    assert NOW < memory.extend_at <= NOW + timedelta(seconds=450)


def test_a_disconnected_sandbox_is_neither_extended_nor_taken_for_running() -> None:
    memory = Memory(running_unexpectedly=True, started_at=NOW)
    memory.connect(_sandbox(), 900, NOW)
    memory.disconnect()
    assert (memory.sandbox, memory.extend_at, memory.started_at) == (None, None, None)
    assert not memory.running_unexpectedly


def test_the_webhooks_event_and_a_persons_spec_do_not_stop_a_write_of_the_operator() -> None:
    before = session({"sandbox": PAUSED})
    assert _same_ground(before, session({"sandbox": PAUSED, "lastEvent": hint()}, version=2))
    assert _same_ground(
        before, session({"sandbox": PAUSED}, spec={"lifecycle": {"suspend": True}}, version=2)
    )


def test_what_another_operator_wrote_and_another_resource_of_the_name_do() -> None:
    before = session({"sandbox": PAUSED})
    assert not _same_ground(before, session({"sandbox": PAUSED, "work": work()}, version=2))
    assert not _same_ground(before, session({"sandbox": PAUSED}, uid="uid-2", version=2))
