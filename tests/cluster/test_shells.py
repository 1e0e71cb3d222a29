"""The agent's shell goes on from turn to turn, as long as its sandbox lives."""

from __future__ import annotations

from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import begin, paused, sandboxes_of
from ..support.waiting import eventually

PREPARE = 'Run: mkdir -p here; cd here; x=kept; f() { echo "of f: $x"; }; sleep 1000 >/dev/null 2>&1 &'
ASK = "Run: pwd; f; jobs"


async def test_shell_goes_on_after_a_workers_end_a_pause_and_an_operator_restart(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say(PREPARE)
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        answer = await conversation.say(ASK)
        assert "/mnt/session/here\nof f: kept" in answer
        assert "Running" in answer
        assert "a new shell" not in answer
        await eventually("the sandbox is paused again", lambda: paused(system, conversation.session_id))
        await system.operator.restart()
        assert "/mnt/session/here\nof f: kept" in await conversation.say(ASK)


async def test_shell_of_a_new_sandbox_is_said_to_be_new(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        assert "a new shell" not in await conversation.say(PREPARE)
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        (sandbox,) = await sandboxes_of(system, conversation.session_id)
        await system.e2b_admin.vanish(sandbox.id)
        answer = await conversation.say('Run: pwd; echo "x is $x"')
        assert "a new shell in /mnt/session: the one before has ended (it is gone with" in answer
        assert answer.rstrip().endswith("/mnt/session\nx is")
        assert "a new shell" not in await conversation.say("Run: pwd")
