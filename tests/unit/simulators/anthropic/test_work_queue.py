"""Offers, acknowledgement, leases and stops, through the SDK."""

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic.types.beta.environments import BetaHeartbeatPreconditionFailedError
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api


async def test_session_is_queued_at_its_creation_under_its_own_id(api: Api) -> None:
    session = await api.create()
    work = await api.poll()
    assert work is not None
    assert (work.id, work.data.id, work.state) == (session.id, session.id, "queued")
    assert work.secret is not None


async def test_setting_gives_work_items_their_own_ids(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(work={"item_ids": "work"})
    session = await api.create("hello")
    work = await api.claim()
    assert work.id.startswith("work_")
    assert work.data.id == session.id
    await api.stop(work.id, force=True)
    await api.say(session.id, "again")
    assert (await api.claim()).id == work.id


@pytest.mark.parametrize("shape", ["null", "no_content"])
async def test_empty_poll_is_answered_as_the_setting_says(
    api: Api, simulator: AnthropicSimulator, shape: str
) -> None:
    await simulator.change_settings(work={"empty_poll": shape})
    answer: Any = await api.worker.beta.environments.work.poll(api.environment_id)
    assert answer == ("" if shape == "no_content" else None)


@pytest.mark.parametrize("block_ms", [0, 1000])
async def test_block_ms_outside_its_range_is_rejected(api: Api, block_ms: int) -> None:
    with pytest.raises(anthropic.BadRequestError, match="block_ms"):
        await api.poll(block_ms=block_ms)


async def test_blocked_poll_returns_as_soon_as_work_arrives(api: Api) -> None:
    polling = asyncio.create_task(api.offered(block_ms=999))
    session = await api.create()
    assert (await polling).id == session.id


async def test_concurrent_polls_return_every_item_once(api: Api) -> None:
    created = {(await api.create()).id for _ in range(40)}
    polled = await asyncio.gather(*(api.poll(block_ms=500) for _ in range(48)))
    taken = [work.id for work in polled if work is not None]
    assert len(taken) == len(set(taken))
    assert set(taken) == created


async def test_unacknowledged_item_is_offered_again_after_the_window_with_a_fresh_secret(api: Api) -> None:
    await api.create()
    first = await api.poll()
    assert first is not None
    assert await api.poll(reclaim_older_than_ms=60_000) is None
    again = await api.offered(reclaim_older_than_ms=1)
    assert again.id == first.id
    assert again.secret != first.secret
    assert again.created_at == first.created_at


async def test_acknowledged_item_leaves_the_queue_and_cannot_be_acknowledged_again(api: Api) -> None:
    await api.create()
    work = await api.claim()
    assert await api.state(work.id) == "starting"
    assert (await api.item(work.id)).secret is None
    assert await api.poll(reclaim_older_than_ms=0) is None
    with pytest.raises(anthropic.ConflictError):
        await api.worker.beta.environments.work.ack(work.id, environment_id=api.environment_id)
    with pytest.raises(anthropic.NotFoundError):
        await api.worker.beta.environments.work.ack("work_unknown", environment_id=api.environment_id)


async def test_acknowledged_item_without_heartbeat_is_stranded_until_force_stop_and_interrupt(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(work={"stranded_after_seconds": 0})
    session = await api.create("Run: echo never")
    work = await api.claim()
    assert (await simulator.work())[1] == [work.id]
    assert (await simulator.ledger()).stranded == [work.id]
    await api.tool_use(session.id)
    await api.interrupt(session.id)
    await api.say(session.id, "Run: echo stuck")
    assert await api.poll(reclaim_older_than_ms=0) is None

    await api.stop(work.id, force=True)
    assert await api.poll(reclaim_older_than_ms=0) is None
    await api.interrupt(session.id)
    renewed = await api.claim()
    assert renewed.id == work.id
    counts = (await simulator.session(session.id)).counts
    assert counts["work_stopped_without_heartbeat"] == 1
    assert counts["turns_interrupted"] == 2


async def test_poll_answers_404_once_for_an_entry_whose_session_is_gone(api: Api) -> None:
    gone = await api.create()
    kept = await api.create()
    await api.admin.beta.sessions.delete(gone.id)
    with pytest.raises(anthropic.NotFoundError, match="EnvironmentInstance not found for session"):
        await api.poll()
    work = await api.poll()
    assert work is not None
    assert work.id == kept.id


async def test_first_heartbeat_makes_the_item_active_and_later_ones_must_echo(api: Api) -> None:
    await api.create()
    work = await api.claim()
    first = await api.beat(work)
    assert (first.state, first.lease_extended, first.ttl_seconds) == ("active", True, 300)
    second = await api.beat(work, first.last_heartbeat)
    assert second.last_heartbeat > first.last_heartbeat
    with pytest.raises(BetaHeartbeatPreconditionFailedError) as caught:
        await api.beat(work)
    assert caught.value.details.current_state.last_heartbeat == second.last_heartbeat
    assert caught.value.details.current_state.state == "active"
    item = await api.item(work.id)
    assert item.started_at == first.last_heartbeat
    assert item.latest_heartbeat_at == second.last_heartbeat


async def test_requested_ttl_is_granted_up_to_the_maximum(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(work={"max_lease_ttl_seconds": 400})
    await api.create()
    work = await api.claim()
    first = await api.beat(work, desired_ttl_seconds=20)
    assert first.ttl_seconds == 20
    assert (await api.beat(work, first.last_heartbeat, desired_ttl_seconds=4000)).ttl_seconds == 400


async def test_lease_lapses_after_its_ttl_and_the_item_can_be_claimed_again(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(work={"lease_ttl_seconds": 1})
    session = await api.create()
    work = await api.claim()
    beat = await api.beat(work)
    again = await api.offered(block_ms=500)
    assert again.id == work.id
    with pytest.raises(BetaHeartbeatPreconditionFailedError) as caught:
        await api.beat(work, beat.last_heartbeat)
    assert caught.value.details.current_state.state == "queued"
    await simulator.change_settings(work={"lease_ttl_seconds": 300})
    await api.worker.beta.environments.work.ack(again.id, environment_id=api.environment_id)
    assert (await api.beat(again)).state == "active"
    counts = (await simulator.session(session.id)).counts
    assert (counts["leases"], counts["leases_lapsed"], counts["lease_conflicts"]) == (2, 1, 1)


async def test_heartbeat_on_an_unacknowledged_item_is_refused(api: Api) -> None:
    await api.create()
    work = await api.poll()
    assert work is not None
    with pytest.raises(BetaHeartbeatPreconditionFailedError):
        await api.beat(work)


async def test_graceful_stop_waits_for_the_worker_and_heartbeats_report_it(api: Api) -> None:
    await api.create()
    work = await api.claim()
    await api.beat(work)
    assert (await api.stop(work.id)).state == "stopping"
    assert (await api.beat(work, "anything")).state == "stopping"
    assert (await api.stop(work.id, force=True)).state == "stopped"
    late = await api.beat(work, "anything")
    assert (late.state, late.lease_extended) == ("stopped", False)
    with pytest.raises(anthropic.ConflictError):
        await api.stop(work.id, force=True)


async def test_lease_that_lapses_while_stopping_ends_the_item(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await api.create()
    work = await api.claim()
    await api.beat(work)
    await api.stop(work.id)
    await simulator.lapse_lease(work.id)
    assert await api.state(work.id) == "stopped"
    assert await api.poll(reclaim_older_than_ms=0) is None


async def test_stop_mid_turn_queues_nothing_unless_the_setting_says_so(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create("Run: echo x")
    work = await api.claim()
    await api.beat(work)
    await api.tool_use(session.id)
    await api.stop(work.id, force=True)
    assert await api.poll() is None
    await api.interrupt(session.id)
    await api.say(session.id, "Run: echo y")
    work = await api.claim()
    await api.tool_use(session.id)
    await simulator.change_settings(work={"requeue_unanswered_on_stop": True})
    await api.stop(work.id, force=True)
    assert (await api.claim()).id == work.id


async def test_stats_count_waiting_items_offered_items_and_workers(api: Api) -> None:
    for _ in range(3):
        await api.create()
    await api.poll(anthropic_worker_id="worker-1")
    await api.poll(anthropic_worker_id="worker-2")
    stats = await api.admin.beta.environments.work.stats(api.environment_id)
    assert (stats.depth, stats.pending, stats.workers_polling) == (1, 2, 2)
    assert stats.oldest_queued_at is not None


async def test_work_list_pages_through_every_item(api: Api) -> None:
    created = {(await api.create()).id for _ in range(5)}
    listed = [item async for item in api.worker.beta.environments.work.list(api.environment_id, limit=2)]
    assert {item.id for item in listed} == created
    assert all(item.secret is None for item in listed)


async def test_metadata_is_merged(api: Api) -> None:
    session = await api.create()
    work = api.admin.beta.environments.work
    await work.update(session.id, environment_id=api.environment_id, metadata={"a": "1", "b": "2"})
    item = await work.update(session.id, environment_id=api.environment_id, metadata={"a": None, "c": "3"})
    assert item.metadata == {"b": "2", "c": "3"}


async def test_healthcheck_is_offered_without_session_and_ends_by_ack_and_force_stop(
    api: Api, simulator: AnthropicSimulator
) -> None:
    work_id = await simulator.add_healthcheck()
    work = await api.claim()
    assert (work.id, work.data.type) == (work_id, "healthcheck")
    assert (await api.stop(work.id, force=True)).state == "stopped"
    assert (await simulator.ledger()).healthchecks == {"enqueued": 1, "offered": 1, "acked": 1, "stopped": 1}


async def test_setting_offers_work_without_a_secret(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(work={"issue_secrets": False})
    await api.create()
    work = await api.poll()
    assert work is not None
    assert work.secret is None


async def test_session_that_is_not_queued_at_creation_is_queued_by_its_first_message(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(work={"enqueue_at_creation": False})
    session = await api.create()
    assert await api.poll() is None
    await api.say(session.id, "hello")
    assert (await api.claim()).id == session.id


async def test_an_environments_metadata_is_merged_and_null_removes_a_name(api: Api) -> None:
    update = api.admin.beta.environments.update
    await update(api.environment_id, metadata={"one": "1", "two": "2"})
    changed = await update(api.environment_id, metadata={"one": None, "two": "3"})
    assert changed.metadata == {"two": "3"}
    assert (await api.admin.beta.environments.retrieve(api.environment_id)).metadata == {"two": "3"}
