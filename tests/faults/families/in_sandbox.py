"""What happens to the processes of ours in a sandbox: killed, frozen, out of disk, out of time."""

from __future__ import annotations

import signal
from typing import Any, Literal

from managed_session_local.conversation import Conversation
from managed_session_local.simulators.e2b.client import HostProcess, SimulatedSandbox

from ...cluster.held import let_go
from ...cluster.sessions import becomes, resource, sandboxes_of
from ...cluster.waiting import eventually
from ..arrangements import ONE_PLACE, SHORT_LIMITS
from ..row import Outcome, Play, Row
from ..scene import Scene
from .e2b_sandboxes import GATED, running_tool

FAMILY = "in the sandbox"
DAY = 86_400
SUPERVISOR = "supervisor.py"

Who = Literal["supervisor", "worker"]


def process_of(sandbox: SimulatedSandbox, who: Who) -> HostProcess | None:
    """The supervisor, or the worker that it has forked."""
    ours = {each.host_pid: each for each in sandbox.processes if SUPERVISOR in each.command}
    for process in ours.values():
        forked = process.parent_host_pid in ours
        if forked == (who == "worker"):
            return process
    return None


async def _send_signal(scene: Scene, sandbox_id: str, who: Who, number: signal.Signals) -> HostProcess:
    """Send a signal to one of our processes, as soon as it is there; returns which one it was."""
    admin = scene.system.e2b_admin

    async def look() -> HostProcess | None:
        return process_of(await admin.sandbox(sandbox_id), who)

    process = await eventually(f"the {who} is there", look)
    assert await admin.signal_processes(sandbox_id, number, host_pid=process.host_pid)
    return process


async def _gone(scene: Scene, sandbox_id: str, process: HostProcess) -> None:
    async def look() -> bool:
        sandbox = await scene.system.e2b_admin.sandbox(sandbox_id)
        return process.host_pid not in {each.host_pid for each in sandbox.processes if each.state != "Z"}

    await eventually("the process is gone", look)


async def _one_sandbox(scene: Scene, conversation: Conversation) -> SimulatedSandbox:
    (sandbox,) = await sandboxes_of(scene.system, conversation.session_id)
    return sandbox


def _killed_in_a_tool_call(who: Who) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        sandbox = await running_tool(scene, conversation)
        await _send_signal(scene, sandbox.id, who, signal.SIGKILL)
        assert "finished" in await conversation.answer()
        assert "again" in await scene.say(conversation, "Run: echo again")
        await _one_sandbox(scene, conversation)

    return play


async def _supervisor_is_killed_between_turns(scene: Scene) -> None:
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    await scene.settled(conversation)
    sandbox = await _one_sandbox(scene, conversation)
    await _send_signal(scene, sandbox.id, "supervisor", signal.SIGKILL)
    assert "kept" in await scene.say(conversation, "Run: cat file")


def _worker_is_killed_with_its_result(*, after_commit: bool) -> Play:
    """The result of a tool call is on its way, or taken, and its worker never hears of it."""

    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        admin = scene.system.anthropic_admin
        sandbox = await running_tool(scene, conversation, GATED)
        fault = await admin.add_fault(
            "events.send",
            {"status": 504, "seconds": 60, "after_commit": after_commit},
            match={"session_id": conversation.session_id},
        )
        let_go(sandbox)

        async def held() -> bool:
            return any(each["applied"] for each in await admin.faults() if each["id"] == fault)

        await eventually("the result is sent", held)
        await _send_signal(scene, sandbox.id, "worker", signal.SIGKILL)
        await admin.clear_faults()
        assert "finished" in await conversation.answer()

    return play


async def _worker_is_killed_before_its_first_heartbeat(scene: Scene) -> None:
    conversation = await scene.begin()
    admin = scene.system.anthropic_admin
    fault = await admin.add_fault(
        "work.heartbeat", {"status": 504, "seconds": 60}, match={"work_id": conversation.session_id}
    )
    await scene.send(conversation, "Run: echo served")

    async def held() -> bool:
        return any(each["applied"] for each in await admin.faults() if each["id"] == fault)

    await eventually("the first heartbeat is sent", held)
    sandbox = await _one_sandbox(scene, conversation)
    await _send_signal(scene, sandbox.id, "worker", signal.SIGKILL)
    await admin.clear_faults()
    assert "served" in await conversation.answer()


async def _worker_is_killed_while_it_waits_for_a_message(scene: Scene) -> None:
    """Nothing is unanswered: the abandoned work comes again, and a new worker ends it in order."""
    conversation = await scene.begin()
    assert "one" in await scene.say(conversation, "Run: echo one")
    sandbox = await _one_sandbox(scene, conversation)
    await _send_signal(scene, sandbox.id, "worker", signal.SIGKILL)
    await scene.settled(conversation)
    assert "two" in await scene.say(conversation, "Run: echo two")


async def _worker_is_frozen_and_superseded(scene: Scene) -> None:
    conversation = await scene.begin()
    sandbox = await running_tool(scene, conversation)
    frozen = await _send_signal(scene, sandbox.id, "worker", signal.SIGSTOP)
    assert "finished" in await conversation.answer()
    await _gone(scene, sandbox.id, frozen)


async def _worker_is_frozen_in_the_only_place(scene: Scene) -> None:
    """There is no room to ask the queue for anything, the abandoned work included."""
    conversation, other = await scene.begin(), await scene.begin()
    sandbox = await running_tool(scene, conversation)
    frozen = await _send_signal(scene, sandbox.id, "worker", signal.SIGSTOP)
    assert "served" in await scene.say(other, "Run: echo served")
    await _gone(scene, sandbox.id, frozen)
    assert "finished" in await conversation.answer()


async def _frozen_worker_thaws_after_its_lease(scene: Scene) -> None:
    """Nobody has taken over yet when it thaws: it ends itself before it does anything."""
    conversation = await scene.begin()
    sandbox = await running_tool(scene, conversation)
    await scene.system.anthropic_admin.add_fault("work.poll", {"status": 503}, times=None)
    frozen = await _send_signal(scene, sandbox.id, "worker", signal.SIGSTOP)

    async def lapsed() -> bool:
        report = await scene.system.anthropic_admin.session(conversation.session_id)
        return report.counts["leases_lapsed"] > 0

    await eventually("the lease has lapsed", lapsed)
    await scene.system.e2b_admin.signal_processes(sandbox.id, signal.SIGCONT, host_pid=frozen.host_pid)
    await _gone(scene, sandbox.id, frozen)
    report = await scene.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["results"] == 0
    await scene.calm()
    assert "finished" in await conversation.answer()


async def _supervisor_is_frozen_in_a_tool_call(scene: Scene) -> None:
    """Its worker finishes the turn; nobody in the sandbox tells of its end, and it is noticed."""
    conversation = await scene.begin()
    sandbox = await running_tool(scene, conversation, GATED)
    await _send_signal(scene, sandbox.id, "supervisor", signal.SIGSTOP)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await scene.settled(conversation)
    assert "two" in await scene.say(conversation, "Run: echo two")


async def _supervisor_is_frozen_between_turns(scene: Scene) -> None:
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    sandbox = await _one_sandbox(scene, conversation)
    await _send_signal(scene, sandbox.id, "supervisor", signal.SIGSTOP)
    await scene.settled(conversation)
    assert "kept" in await scene.say(conversation, "Run: cat file")


async def _disk_is_full(scene: Scene) -> None:
    """The agent fills the disk, is served again all the same, and makes room."""
    await scene.e2b_settings(disk_megabytes=64)
    conversation = await scene.begin()
    assert "full" in await scene.say(conversation, "Run: cat /dev/zero > fill 2>/dev/null; echo full")
    await scene.settled(conversation)
    assert "left" in await scene.say(conversation, "Run: echo left; rm fill")
    await scene.settled(conversation)
    assert "kept" in await scene.say(conversation, "Run: echo kept > file; cat file")


async def _disk_is_full_to_the_last_byte(scene: Scene) -> None:
    """The room that is kept for us is used up too: said, and served when there is room again."""
    await scene.e2b_settings(disk_megabytes=64)
    conversation = await scene.begin()
    fill = "rm -f /opt/anthropic-managed-agents/reserve; cat /dev/zero > fill 2>/dev/null; echo full"
    assert "full" in await scene.say(conversation, f"Run: {fill}")
    await scene.settled(conversation)
    await scene.send(conversation, "Run: echo served")
    await becomes(scene.system, conversation.session_id, "SandboxDiskFull")
    sandbox = await _one_sandbox(scene, conversation)
    sandbox.path("/mnt/session/fill").unlink()
    assert "served" in await conversation.answer()
    connects = (await scene.system.e2b_admin.ledger(operation="connect", sandbox_id=sandbox.id)).calls
    assert len(connects) < 15, "tries come further and further apart"


def _clock_is_wrong_by(seconds: int) -> Play:
    async def play(scene: Scene) -> None:
        await scene.e2b_settings(clock_offset_seconds=seconds)
        conversation = await scene.begin()
        assert "one" in await scene.say(conversation, "Run: echo one")
        await scene.settled(conversation)
        assert "two" in await scene.say(conversation, "Run: echo two")
        await scene.settled(conversation)
        work = (await resource(scene.system, conversation.session_id))["status"]["work"]
        assert work["exitReason"] == "Idle"

    return play


async def _agent_kills_everything_of_its_user(scene: Scene) -> None:
    conversation = await scene.begin()
    once = "test -e begun && echo finished || { touch begun; kill -9 -1; }"
    assert "finished" in await scene.say(conversation, f"Run: {once}")
    assert "again" in await scene.say(conversation, "Run: echo again")
    await _one_sandbox(scene, conversation)


async def _operator_is_away_when_the_worker_is_killed(scene: Scene) -> None:
    conversation = await scene.begin()
    sandbox = await running_tool(scene, conversation)
    await scene.system.operator.kill()
    await _send_signal(scene, sandbox.id, "worker", signal.SIGKILL)
    await scene.system.operator.restart()
    assert "finished" in await conversation.answer()
    await _one_sandbox(scene, conversation)


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


ROWS = [
    _row("the worker is killed in a tool call", _killed_in_a_tool_call("worker")),
    _row("the supervisor is killed in a tool call", _killed_in_a_tool_call("supervisor")),
    _row("the supervisor is killed between two turns", _supervisor_is_killed_between_turns),
    _row(
        "the worker is killed between its tool call and its result",
        _worker_is_killed_with_its_result(after_commit=False),
    ),
    _row(
        "the worker is killed when its result was taken",
        _worker_is_killed_with_its_result(after_commit=True),
    ),
    _row("the worker is killed before its first heartbeat", _worker_is_killed_before_its_first_heartbeat),
    _row("the worker is killed while it waits", _worker_is_killed_while_it_waits_for_a_message),
    _row("the worker is killed while no operator is there", _operator_is_away_when_the_worker_is_killed),
    _row("the worker is frozen and another one takes over", _worker_is_frozen_and_superseded),
    Row(
        FAMILY,
        "the worker is frozen and has the only place",
        _worker_is_frozen_in_the_only_place,
        arrangement=ONE_PLACE,
    ),
    _row("the worker is frozen and thaws after its lease", _frozen_worker_thaws_after_its_lease),
    _row("the supervisor is frozen in a tool call", _supervisor_is_frozen_in_a_tool_call),
    _row("the supervisor is frozen between two turns", _supervisor_is_frozen_between_turns),
    _row("the agent fills the disk", _disk_is_full),
    _row("the agent fills the disk and the room kept for us", _disk_is_full_to_the_last_byte),
    _row("the sandbox's clock is a day ahead", _clock_is_wrong_by(DAY)),
    _row("the sandbox's clock is a day behind", _clock_is_wrong_by(-DAY)),
    _row("the agent kills every process of its user", _agent_kills_everything_of_its_user),
]
