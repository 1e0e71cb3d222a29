"""Heartbeats that took effect, and whose answers were lost."""

from datetime import UTC, datetime, timedelta

import pytest

from .worker_sandbox import Sandbox
from .worker_wire import Wire


def serves(sandbox: Sandbox, wire: Wire) -> None:
    """Assert that the worker has its lease, serves a call and ends cleanly."""
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    assert wire.run("echo served") == ("served", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


@pytest.mark.parametrize("lost", [{0}, {0, 2}], ids=["once", "and the one after it"])
def test_a_first_heartbeat_whose_answer_was_lost_is_this_workers_own(
    sandbox: Sandbox, wire: Wire, lost: set[int]
) -> None:
    wire.compare_beats, wire.lose_beats = True, lost
    serves(sandbox, wire)


def test_a_first_heartbeat_answered_with_an_error_after_its_effect_is_this_workers_own(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.compare_beats, wire.failed_beats = True, {0}
    serves(sandbox, wire)


def test_a_later_heartbeat_whose_answer_was_lost_is_this_workers_own(sandbox: Sandbox, wire: Wire) -> None:
    wire.compare_beats, wire.lose_beats, wire.lease_seconds = True, {1, 2}, 4
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    assert wire.run("sleep 3; echo served") == ("served", False)
    wire.wait_for(lambda: wire.count("POST", "/heartbeat") > max(wire.lose_beats) + 1)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


@pytest.mark.parametrize("minutes", [-1, 1], ids=["before", "after"])
def test_a_heartbeat_at_another_time_than_the_lost_call_is_another_workers(
    sandbox: Sandbox, wire: Wire, minutes: int
) -> None:
    wire.compare_beats, wire.lose_beats = True, {0}
    client = sandbox.start()
    wire.wait_for(lambda: wire.stored_beat is not None)
    wire.stored_beat = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    record = client.record()
    assert (record["reason"], record["firstHeartbeatAt"]) == ("LeaseLost", None)
    assert wire.count("POST", "/stop") == 0


def test_a_lease_held_before_the_first_call_is_another_workers(sandbox: Sandbox, wire: Wire) -> None:
    wire.compare_beats, wire.stored_beat = True, datetime.now(UTC).isoformat()
    assert sandbox.start().record()["reason"] == "LeaseLost"
