"""Snapshots outlive their sandbox, and new sandboxes start with their files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from e2b import E2B, SandboxException, SandboxQuery
from e2b.exceptions import SandboxNotFoundException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]


async def test_a_sandbox_from_a_snapshot_has_the_files_and_the_start_command(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str, until: Until
) -> None:
    source = await e2b.AsyncSandbox.create(worker_name)
    await source.files.write("/mnt/session/kept.txt", "one", user="root")
    await source.commands.run("mkfifo /tmp/pipe")
    await source.commands.run(
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/tmp/socket\")'"
    )
    taken = await source.create_snapshot(name="first-of-all")
    assert taken.snapshot_id == "team/first-of-all:default"
    await source.files.write("/mnt/session/kept.txt", "two", user="root")
    await source.kill()

    made = await e2b.AsyncSandbox.create(taken.snapshot_id, metadata={"own": "yes"})
    assert await made.files.read("/mnt/session/kept.txt", user="root") == "one"
    seen = await control.sandbox(made.sandbox_id)
    assert seen.metadata == {"own": "yes"}
    await until(lambda: made.files.exists("/tmp/count"))

    with pytest.raises(SandboxException, match="400"):
        await e2b.AsyncSandbox.delete_snapshot(taken.snapshot_id)
    used = e2b.AsyncSandbox.list(query=SandboxQuery(template="first-of-all"))
    assert [each.sandbox_id for each in await used.next_items()] == [made.sandbox_id]
    await made.kill()
    assert await e2b.AsyncSandbox.delete_snapshot(taken.snapshot_id)
    assert not await e2b.AsyncSandbox.delete_snapshot(taken.snapshot_id)
    with pytest.raises(SandboxException, match="404"):
        await e2b.AsyncSandbox.create(taken.snapshot_id)


async def test_without_memory_no_process_runs_and_tmp_is_empty(e2b: E2B, worker_name: str) -> None:
    source = await e2b.AsyncSandbox.create(worker_name)
    taken = await source.create_snapshot(mode="filesystem")
    made = await e2b.AsyncSandbox.create(taken.snapshot_id)
    assert not await made.files.exists("/tmp/count")


async def test_snapshots_are_listed_by_name_and_sandbox_and_a_name_is_used_once(
    e2b: E2B, worker_name: str
) -> None:
    one, two = await asyncio.gather(*(e2b.AsyncSandbox.create(worker_name) for _ in range(2)))
    await one.create_snapshot(name="one")
    again = await one.create_snapshot(name="one")
    await two.create_snapshot(name="two")
    assert [each.names for each in await e2b.AsyncSandbox.list_snapshots(name="one").next_items()] == [
        again.names
    ]
    of_two = await e2b.AsyncSandbox.list_snapshots(sandbox_id=two.sandbox_id).next_items()
    assert [each.snapshot_id for each in of_two] == ["team/two:default"]
    pages = e2b.AsyncSandbox.list_snapshots(limit=1)
    seen = []
    while pages.has_next:
        seen += await pages.next_items()
    assert {"team/one:default", "team/two:default"} <= {each.snapshot_id for each in seen}
    assert len(seen) == len({each.snapshot_id for each in seen})


async def test_a_paused_or_missing_sandbox_has_no_snapshot_and_lists_lack_it_meanwhile(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str
) -> None:
    sandbox = await e2b.AsyncSandbox.create(worker_name)
    await control.change_settings(latencies={"snapshot": {"mean_ms": 1500}})
    taking = asyncio.create_task(sandbox.create_snapshot())
    while await e2b.AsyncSandbox.list().next_items():
        assert not taking.done(), "the list lacks it while its snapshot is taken"
    await taking
    assert await e2b.AsyncSandbox.list().next_items()
    await sandbox.pause()
    with pytest.raises(SandboxException, match="409"):
        await sandbox.create_snapshot()
    await sandbox.kill()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.create_snapshot()
