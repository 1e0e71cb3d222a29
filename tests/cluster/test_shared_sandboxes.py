"""The sessions of one agent share a sandbox: one machine, but a workspace and a shell for each of them."""

from __future__ import annotations

import asyncio
from functools import partial

from managed_session_api import names
from managed_session_api.resource import ManagedSession
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.command_line import run_command
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_worker.paths import SESSIONS, Paths

from ..support.classes import make_class
from ..support.sessions import QUICK, begin, resource, written_down
from ..support.shared_sandboxes import GATE, UNTIL_LET_GO, lost, owners, shared_sandboxes
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def all_paused(system: LocalSystem) -> bool:
    """All that is alive is paused, and the ManagedSandbox says so."""
    alive = {each.state for each in await shared_sandboxes(system)} - {"killed"}
    return alive == {"paused"} and [each["status"]["state"] for each in await owners(system)] == ["Paused"]


async def say(text: str, *conversations: Conversation) -> list[str]:
    """Say the same in all conversations at once. Return the answers."""
    return await asyncio.gather(*(each.say(text) for each in conversations))


async def downloaded(system: LocalSystem, session_id: str) -> dict[str, str]:
    """The session's outputs, by name, as `managed-sessions outputs` downloads them."""
    folder = system.folder / "results" / session_id
    command = ("outputs", session_id, "--wake", "--download", str(folder))
    code, printed = await run_command(system, *command, f"--namespace={system.namespace}")
    assert code == 0, printed
    return {each.name: each.read_text() for each in folder.iterdir()}


async def test_two_sessions_of_an_agent_share_a_sandbox_from_its_creation_to_its_end(
    start_system: StartSystem,
) -> None:
    # Each session gets a mount namespace, for which root has to be allowed to mount.
    # The resync pauses what runs for nobody, and must leave a download the time that it needs.
    settings = {**QUICK, "resync_interval_seconds": "10"}
    system = await start_system(operator_settings=settings, e2b_settings={"fuse": True})
    shared = {"selector": {"agentIDs": [system.agent_id]}, "session": {"routing": {"scope": "agent"}}}
    await make_class(system, "team", shared)
    async with begin(system) as one, begin(system) as two:
        both = one, two
        await asyncio.gather(
            one.say("Run: echo 1 > of-one; mkdir a; cd a; x=one"),
            two.say("Run: echo 2 > of-two; mkdir b; cd b; x=two"),
        )
        assert len(await shared_sandboxes(system)) == 1, "two that begin at once get one sandbox"
        assert "/mnt/session/a\n" in (answers := await say("Run: pwd; ls ..; echo is $x", *both))[0]
        assert "of-one" in answers[0]
        assert "of-two" not in answers[0]
        assert answers[0].endswith("is one")
        assert answers[1].endswith("is two")
        await eventually("nobody works: the sandbox is paused", partial(all_paused, system))

        # One ends its turn while the other works.
        await two.send(f"Run: {UNTIL_LET_GO}; echo went on")
        await eventually("it runs", lambda: shared_sandboxes(system, "running"))
        pauses = len((await system.e2b_admin.ledger(operation="pause")).calls)
        assert (await one.say("Run: echo is $x")).endswith("is one")
        await eventually("its turn's end is recorded", partial(written_down, system, one.session_id))
        [sandbox] = await shared_sandboxes(system, "running")
        assert len((await system.e2b_admin.ledger(operation="pause")).calls) == pauses
        [owner] = await owners(system)
        assert (owner["status"]["state"], owner["status"]["sessions"]) == ("Running", 2)
        assert owner["status"]["id"] == sandbox.id
        sandbox.path(GATE).touch()
        assert "went on" in await two.answer()
        await eventually("both are idle: it is paused", partial(all_paused, system))

        # The sandbox is lost with the files of both.
        await system.e2b_admin.vanish(sandbox.id)
        for answer in await say("Run: ls -A | grep -c of-; pwd", *both):
            assert answer.rstrip().endswith("0\n/mnt/session")
        for each in both:
            await eventually("the loss is reported", lost(system, each))
        [new] = [each for each in await shared_sandboxes(system) if each.id != sandbox.id]
        await eventually("the new one is paused", partial(all_paused, system))
        [owner] = await owners(system)
        assert (owner["status"]["id"], owner["status"]["attempt"]) == (new.id, 2)

        # The first session goes.
        await two.say("Run: echo kept > kept; echo two > outputs/report")
        await one.say("Run: echo mine > mine; echo one > outputs/report")
        await eventually("both are idle", partial(all_paused, system))
        assert await downloaded(system, one.session_id) == {"report": "one\n"}
        assert await downloaded(system, two.session_id) == {"report": "two\n"}
        name = names.resource_name(one.session_id)
        await system.kubectl("delete", names.PLURAL, name, "--wait=true", "--timeout=60s")
        assert "kept" in (answer := await two.say("Run: ls"))
        assert "mine" not in answer
        [owner] = await owners(system)
        assert owner["status"]["sessions"] == 1
        assert "departed" not in owner["status"] or not owner["status"]["departed"]
        left = ManagedSession.model_validate(await resource(system, two.session_id))
        folders = [each.name for each in new.path(f"{Paths().home}/{SESSIONS}").iterdir()]
        assert folders == [left.session_key], "the files of the deleted session are gone"

        # So does the last.
        assert left.status.sandbox.shared_by == owner["metadata"]["name"]
        name = names.resource_name(two.session_id)
        await system.kubectl("delete", names.PLURAL, name, "--wait=true", "--timeout=60s")
        assert {each.state for each in await shared_sandboxes(system) if each.id == new.id} == {"killed"}
        assert await owners(system) == []
