"""Anthropic's own worker when leases, streams and connections fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import pytest
from anthropic.lib.environments import EnvironmentWorker
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api, serve, until


@contextlib.asynccontextmanager
async def background(task: "asyncio.Task[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def attached(simulator: AnthropicSimulator, session_id: str) -> None:
    async def streams_and_beats() -> bool:
        report = await simulator.session(session_id)
        return report.worker_streams == 1 and (report.work or {}).get("state") == "active"

    await until(streams_and_beats)


async def test_second_worker_for_the_same_lease_leaves_harmlessly(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    session = await api.create("Run: echo one")
    work = await api.claim()
    first = asyncio.create_task(serve(api, work, tmp_path, max_idle=30))
    async with background(first):
        await attached(simulator, session.id)
        await asyncio.wait_for(serve(api, work, tmp_path), 30)
        assert not first.done()
        assert await api.state(work.id) == "active"
        assert (await simulator.session(session.id)).counts["lease_conflicts"] == 1


async def test_worker_leaves_a_lapsed_item_to_the_queue(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    await simulator.change_settings(work={"lease_ttl_seconds": 6})
    session = await api.create("Good morning")
    work = await api.claim()
    worker = asyncio.create_task(serve(api, work, tmp_path, max_idle=60))
    async with background(worker):
        await attached(simulator, session.id)
        await simulator.lapse_lease(work.id)
        await asyncio.wait_for(worker, 30)
    assert await api.state(work.id) == "queued"
    assert (await api.offered()).id == work.id


async def test_worker_ends_when_its_item_is_stopping(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    await simulator.change_settings(work={"lease_ttl_seconds": 6})
    session = await api.create("Good morning")
    work = await api.claim()
    worker = asyncio.create_task(serve(api, work, tmp_path, max_idle=60))
    async with background(worker):
        await attached(simulator, session.id)
        assert (await api.stop(work.id)).state == "stopping"
        await asyncio.wait_for(worker, 30)
    assert await api.state(work.id) == "stopped"


async def test_worker_reconnects_after_a_cut_stream_and_misses_no_call(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    await simulator.add_fault("events.stream", {"action": "sever", "after_events": 1})
    session = await api.create()
    worker = asyncio.create_task(serve(api, await api.claim(), tmp_path, max_idle=30))
    async with background(worker):
        await attached(simulator, session.id)
        await api.say(session.id, "Run: echo still here")
        assert await api.answer(session.id) == "still here"
    assert (await simulator.session(session.id)).counts["results"] == 1


async def test_result_whose_answer_was_lost_is_counted_once_and_not_run_twice(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    await simulator.add_fault(
        "events.send", {"action": "drop_after_commit"}, match={"credential": "sessions_token"}
    )
    session = await api.create("Run: echo x >> runs; cat runs")
    worker = asyncio.create_task(serve(api, await api.claim(), tmp_path, max_idle=1))
    async with background(worker):
        assert await api.answer(session.id) == "x"
        await asyncio.wait_for(worker, 30)
    assert (tmp_path / "runs").read_text() == "x\n"
    assert (await simulator.session(session.id)).counts["turns_answered"] == 1


async def test_polling_sdk_worker_serves_sessions_and_skips_health_checks(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    check = await simulator.add_healthcheck()
    session = await api.create("Use bash to echo hello. Answer only with that text.")
    worker = EnvironmentWorker(
        api.client(None),
        environment_id=api.environment_id,
        environment_key=api.worker.auth_token,
        workdir=tmp_path,
        max_idle=0.1,
    )
    async with background(asyncio.create_task(worker.run())):
        assert await api.answer(session.id) == "hello"

        async def both_stopped() -> bool:
            return [await api.state(check), await api.state(session.id)] == ["stopped", "stopped"]

        await until(both_stopped)


async def test_polling_sdk_worker_dies_of_a_deleted_session(api: Api, tmp_path: Path) -> None:
    session = await api.create()
    await api.admin.beta.sessions.delete(session.id)
    worker = EnvironmentWorker(
        api.client(None),
        environment_id=api.environment_id,
        environment_key=api.worker.auth_token,
        workdir=tmp_path,
    )
    with pytest.raises(anthropic.NotFoundError, match="EnvironmentInstance not found"):
        await asyncio.wait_for(worker.run(), 30)


async def test_next_worker_runs_an_interrupted_call_again_and_its_result_is_refused(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    session = await api.create("Run: echo x >> runs")
    work = await api.claim()
    await api.tool_use(session.id)
    await api.stop(work.id, force=True)
    await api.interrupt(session.id)
    worker = asyncio.create_task(serve(api, await api.claim(), tmp_path, max_idle=0.1))
    async with background(worker):

        async def refused() -> bool:
            return (await simulator.session(session.id)).counts["results_rejected"] == 1

        await until(refused)
        assert (tmp_path / "runs").read_text() == "x\n"
        await api.say(session.id, "Run: cat runs")
        assert await api.answer(session.id) == "x"
        await asyncio.wait_for(worker, 30)
