"""How much of a large installation one resync works on."""

from __future__ import annotations

from typing import Any

from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.resource_summary import is_at_rest
from managed_session_operator.resync.pace import ALL_AT_ONCE, READ_AT_ONCE, ListPace, ReconcileRound

from .examples import PAUSED, RUNNING, announced_run, body, session, work

IDLE = {
    "phase": "Idle",
    "observedGeneration": 1,
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Idle", "lastTransitionTime": "2026-11-23T16:00:00Z"}
    ],
}


def store(resting: int, **moving: dict[str, Any]) -> ResourceCache:
    """Return a cache with resources at rest, and others with the given status."""
    cache = ResourceCache()
    for number in range(resting):
        cache.observe(body(f"rests-{number}", uid=f"uid-{number}", status={**IDLE, "sandbox": PAUSED}))
    for name, status in moving.items():
        cache.observe(body(name, uid=f"uid-{name}", status={**IDLE, **status}))
    return cache


def test_a_small_installation_is_reconciled_as_a_whole_by_every_resync() -> None:
    cache, rounds = store(ALL_AT_ONCE), ReconcileRound()
    for _ in range(2):
        assert sorted(rounds.choose(cache, set(), "env")) == sorted(cache.names())


def test_a_large_one_is_reconciled_in_parts_and_what_moves_every_time() -> None:
    cache, rounds = store(2000, works={"sandbox": RUNNING, "work": work(acknowledged=9)}), ReconcileRound()
    rounds.choose(cache, set(), "env")
    parts = [rounds.choose(cache, {"rests-7", "gone"}, "env") for _ in range(21)]
    assert all({"works", "rests-7"} <= set(each) for each in parts)
    assert all(len(each) < len(cache) / 4 for each in parts)
    assert set().union(*parts) == set(cache.names())


def test_another_environment_has_every_resource_reconciled() -> None:
    cache, rounds = store(2000), ReconcileRound()
    rounds.choose(cache, set(), "env")
    assert len(rounds.choose(cache, set(), "env")) < len(cache)
    assert len(rounds.choose(cache, set(), "other")) == len(cache)


def test_a_long_list_is_not_read_in_every_resync() -> None:
    pace = ListPace()
    assert pace.is_due()
    pace.note(READ_AT_ONCE)
    assert pace.is_due()
    pace.note(3 * READ_AT_ONCE)
    assert [pace.is_due() for _ in range(3)] == [False, False, True]
    assert pace.is_due(), "a list that could not be read stays due"
    pace.note(1000 * READ_AT_ONCE)
    assert any(pace.is_due() for _ in range(20)), "ten minutes at most"


def test_whoever_waits_for_something_is_not_at_rest() -> None:
    rests = {**IDLE, "sandbox": PAUSED}
    assert is_at_rest(session(rests))
    for status in (
        {**rests, "lastEvent": announced_run(5)},
        {**rests, "work": work(acknowledged=9)},
        {**rests, "sandbox": RUNNING},
        {**rests, "recovery": {"suspectedAt": "2026-11-23T16:00:00Z"}},
        {**rests, "endedAt": "2026-11-23T16:00:00Z"},
        {**rests, "observedGeneration": 0},
        {**rests, "phase": "Pending"},
    ):
        assert not is_at_rest(session(status))
    assert not is_at_rest(session(rests, deletionTimestamp="2026-11-23T16:00:00Z"))
