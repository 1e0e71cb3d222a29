"""`managed-sessions logs`: a sandbox's worker.log, and a paused sandbox that stays asleep."""

from __future__ import annotations

import asyncio

import pytest
from managed_session_api.names import METADATA_SESSION, resource_name
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import begin, resource
from ..support.waiting import eventually
from .command_line import Site


@pytest.fixture(scope="module")
async def resting(serving: LocalSystem) -> str:
    """A session whose turn is over and whose sandbox is paused."""
    async with begin(serving) as conversation:
        assert await conversation.say("Run: echo hello") == "hello"
        session_id = conversation.session_id

    async def rests() -> bool:
        return bool(
            (await resource(serving, session_id))["status"].get("sandbox", {}).get("state") == "Paused"
        )

    await eventually("the sandbox is paused", rests)
    return session_id


async def connects(site: Site, session_id: str) -> list[str]:
    """Operations that E2B was asked for the session's sandbox."""
    [sandbox] = await site.sandboxes_of(session_id)
    return [call["operation"] for call in (await site.e2b.ledger(sandbox_id=sandbox.id)).calls]


async def test_paused_sandbox_stays_paused_and_its_newest_worker_is_described(
    site: Site, resting: str
) -> None:
    await site.e2b.clear_ledger()
    ended = await site.run("logs", resting, keys={})
    assert ended.code == 1
    assert "is paused, so its log was not read. Use --wake" in ended.errors
    assert "Turns        1 served" in ended.output
    assert "ended " in ended.output
    assert set(await connects(site, resting)) <= {"get"}
    [sandbox] = [s for s in await site.e2b.sandboxes("paused") if s.metadata.get(METADATA_SESSION) == resting]
    assert sandbox.resumes == 0


async def test_wake_prints_the_log_and_pauses_again(site: Site, resting: str) -> None:
    ended = await site.run("logs", resource_name(resting), "--wake", keys={})
    assert ended.code == 0, ended.text
    assert "executing tool tool=bash" in ended.output
    assert "paused again" in ended.errors
    [sandbox] = [s for s in await site.e2b.sandboxes() if s.metadata.get(METADATA_SESSION) == resting]
    assert (sandbox.state, sandbox.resumes) == ("paused", 1)


async def test_log_of_a_working_sandbox_is_followed_beside_its_worker(
    site: Site, serving: LocalSystem
) -> None:
    await site.e2b.clear_ledger()
    async with begin(serving) as conversation:
        session_id = conversation.session_id
        await conversation.send(f"Run: {WAIT}; echo done")

        async def works() -> bool:
            found = await resource(serving, session_id)
            return "firstHeartbeatAt" in found.get("status", {}).get("work", {})

        await eventually("the worker works", works)
        following = await site.start("logs", session_id, "--follow", keys={})
        try:
            assert following.stdout is not None
            lines = [await asyncio.wait_for(following.stdout.readline(), 60)]
            [sandbox] = await site.sandboxes_of(session_id)
            let_go(sandbox)
            while b"posted result" not in lines[-1]:
                lines.append(await asyncio.wait_for(following.stdout.readline(), 60))
                assert lines[-1], "the command has ended"
        finally:
            following.terminate()
            _, errors = await asyncio.wait_for(following.communicate(), 30)
        reads = (await site.e2b.ledger(operation="files_read", sandbox_id=sandbox.id)).calls
        # The newest may have had no answer when the command was ended.
        answered = [call["status"] for call in reads if call.get("status") not in (None, "dropped")]
        assert answered == [200] + [206] * (len(answered) - 1)
        assert b"worker starts" in lines[0]
        assert len(lines) == len(set(lines))
        assert b"Traceback" not in errors
        assert await conversation.answer() == "done"


async def test_unknown_session_is_named(site: Site) -> None:
    ended = await site.run("logs", "sesn_unknown", keys={})
    assert ended.code == 1
    assert "there is no ManagedSession for sesn_unknown" in ended.errors
