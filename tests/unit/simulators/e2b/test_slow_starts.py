"""Slow creates, resumes and pauses, and clients that do not wait for them."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from e2b import E2B, SandboxException, ServiceBusyException
from e2b.exceptions import SandboxNotFoundException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]
SLOW = {"mean_ms": 4000}


async def _counted(control: E2BSimulatorClient, until: Until, event: str) -> None:
    async def counted() -> bool:
        return (await control.ledger()).events.get(event, 0) == 1

    await until(counted)


async def test_client_that_leaves_a_create_cancels_it_and_it_is_never_listed(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    await control.change_settings(latencies={"create": SLOW})
    with pytest.raises(httpx.TimeoutException):
        await e2b.AsyncSandbox.create("base", request_timeout=1.5, retries=0)
    assert await e2b.AsyncSandbox.list().next_items() == []
    await _counted(control, until, "create_cancelled")
    assert await control.sandboxes("running") == []


async def test_client_that_leaves_a_resume_cancels_it(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    await control.change_settings(latencies={"connect": SLOW})
    with pytest.raises(httpx.TimeoutException):
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60, request_timeout=1.5, retries=0)
    await _counted(control, until, "connect_cancelled")
    assert (await sandbox.get_info()).state == "paused"


async def test_client_that_leaves_a_pause_cancels_it_and_loses_the_machine(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    saved = await e2b.AsyncSandbox.create("base")
    await saved.pause()
    good = await saved.get_info()
    await e2b.AsyncSandbox.connect(saved.sandbox_id, timeout=60)
    new = await e2b.AsyncSandbox.create("base")
    await control.change_settings(latencies={"pause": SLOW})
    for sandbox in (saved, new):
        with pytest.raises(httpx.TimeoutException):
            await sandbox.pause(request_timeout=1.5, retries=0)

    async def cancelled() -> bool:
        return (await control.ledger()).events.get("pause_cancelled", 0) == 2

    await until(cancelled)
    info = await saved.get_info()
    assert (info.state, info.end_at) == ("paused", good.end_at)
    with pytest.raises(SandboxNotFoundException):
        await new.get_info()


async def test_api_cancels_calls_that_exceed_its_budget(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(latencies={"create": SLOW}, api_budget_seconds=0.3)
    with pytest.raises(SandboxException) as refused:
        await e2b.AsyncSandbox.create("base", retries=0)
    assert refused.value.status_code == 500
    assert await control.sandboxes("running") == []


async def test_node_limits_concurrent_starts_and_a_resume_waits_a_limited_time(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    await control.change_settings(latencies={"create": SLOW}, starts_at_once=1, resume_queue_seconds=0.2)
    create = asyncio.create_task(e2b.AsyncSandbox.create("base"))

    async def starts() -> bool:
        return (await control.ledger()).concurrent == 1

    await until(starts)
    with pytest.raises(ServiceBusyException):
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60, retries=0)
    await control.change_settings(resume_queue_seconds=60)
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60, retries=0)
    await create
