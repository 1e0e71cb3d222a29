"""A change of the status that waits for the next write: who sees it, and when it is written."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

from managed_session_api.conditions import Phase, Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_operator.domain.conditions import conditions_of
from managed_session_operator.steps.context import Context

from .clock import Clock
from .contexts import context
from .examples import NOW, RUNNING, announced_run, body, session, work
from .test_status_writes import ApiServer

CLAIMED = {"work": work(), "sandbox": RUNNING}


def acknowledged(records_of: Context, resource: ManagedSession) -> None:
    """Hold back what the acknowledgement changes."""
    records_of.records.hold_status(
        resource,
        phase=Phase.PROVISIONING,
        conditions=conditions_of(Reason.STARTING_WORKER, "", SandboxState.RUNNING),
        work={"acknowledgedAt": NOW, "attempts": 1},
    )


async def test_the_next_write_has_what_was_held_back() -> None:
    server, resource = ApiServer(body(status=CLAIMED)), session(CLAIMED)
    process = context(store=server)
    acknowledged(process, resource)
    shown = process.records.shown(resource)
    assert (shown.status.work.acknowledged_at, shown.status.work.attempts) == (NOW, 1), "for this process"
    assert resource.status.work.acknowledged_at is None
    assert server.written == []
    await process.records.write_status(shown, work={"firstHeartbeatAt": NOW + timedelta(seconds=1)})
    (written,) = server.written
    assert set(written["work"]) == {"acknowledgedAt", "attempts", "firstHeartbeatAt"}
    assert {each["reason"] for each in written["conditions"]} >= {"StartingWorker"}
    assert await process.records.write_held(resource) is None, "nothing is left of it"


async def test_a_write_that_would_change_nothing_more_does_not_end_the_wait() -> None:
    server, resource = ApiServer(body(status=CLAIMED)), session(CLAIMED)
    process = context(store=server)
    acknowledged(process, resource)
    await process.records.write_status(
        process.records.shown(resource),
        conditions=conditions_of(Reason.STARTING_WORKER, "", SandboxState.RUNNING),
    )
    assert server.written == []


async def test_a_change_that_nothing_follows_is_written_when_it_is_due() -> None:
    server, resource, monotonic = ApiServer(body(status=CLAIMED)), session(CLAIMED), Clock()
    process = context(store=server, clock=SimpleNamespace(now=lambda: NOW, monotonic=monotonic))
    acknowledged(process, resource)
    due = await process.records.write_held(resource)
    assert (server.written, due) == ([], 2.0)
    monotonic.now += 2
    assert await process.records.write_held(resource) is None
    assert len(server.written) == 1


async def test_an_event_that_the_webhook_records_meanwhile_loses_nothing() -> None:
    newer = body(status={**CLAIMED, "lastEvent": announced_run()}, version=2)
    server, resource = ApiServer(newer), session(CLAIMED)
    process = context(store=server)
    acknowledged(process, resource)
    await process.records.write_status(process.records.shown(resource), work={"firstHeartbeatAt": NOW})
    (written,) = server.written
    assert set(written["work"]) == {"acknowledgedAt", "attempts", "firstHeartbeatAt"}


async def test_a_change_of_an_earlier_claim_is_dropped() -> None:
    server, resource = ApiServer(body(status=CLAIMED)), session(CLAIMED)
    process = context(store=server)
    acknowledged(process, resource)
    later = session({"work": {**work(), "claim": "later"}, "sandbox": RUNNING})
    assert process.records.shown(later) is later
    assert await process.records.write_held(later) is None
