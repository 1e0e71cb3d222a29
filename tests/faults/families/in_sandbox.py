"""What happens to the processes of ours in a sandbox: killed, frozen, out of disk, out of time."""

from __future__ import annotations

import signal
from typing import Any, Literal

from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import HostProcess, SimulatedSandbox

from ...support.arrangements import ONE_PLACE, SHORT_LIMITS
from ...support.held import let_go
from ...support.sessions import becomes, resource, sandboxes_of
from ...support.waiting import eventually
from ..kubectl_actions import wait_long_for_messages
from ..row import Outcome, Play, Row
from ..scenario import Scenario
from .e2b_sandboxes import GATED, running_tool

FAMILY = "in the sandbox"
DAY = 86_400
SUPERVISOR = "supervisor.py"

Who = Literal["supervisor", "worker", "shell host"]
FORKED = {"session-worker": "worker", "shell-host": "shell host"}


def process_of(sandbox: SimulatedSandbox, who: Who) -> HostProcess | None:
    """The supervisor, or one of the processes that it has forked."""
    ours = (each for each in sandbox.processes if SUPERVISOR in each.command)
    return next((each for each in ours if FORKED.get(each.name, "supervisor") == who), None)


async def _send_signal(scenario: Scenario, sandbox_id: str, who: Who, number: signal.Signals) -> HostProcess:
    """Send a signal to one of our processes, as soon as it is there; returns which one it was."""
    admin = scenario.system.e2b_admin

    async def look() -> HostProcess | None:
        return process_of(await admin.sandbox(sandbox_id), who)

    process = await eventually(f"the {who} is there", look)
    assert await admin.signal_processes(sandbox_id, number, host_pid=process.host_pid)
    return process


async def _gone(scenario: Scenario, sandbox_id: str, process: HostProcess) -> None:
    async def look() -> bool:
        sandbox = await scenario.system.e2b_admin.sandbox(sandbox_id)
        return process.host_pid not in {each.host_pid for each in sandbox.processes if each.state != "Z"}

    await eventually("the process is gone", look)


async def _one_sandbox(scenario: Scenario, conversation: Conversation) -> SimulatedSandbox:
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    return sandbox


def _killed_in_a_tool_call(who: Who) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        sandbox = await running_tool(scenario, conversation)
        await _send_signal(scenario, sandbox.id, who, signal.SIGKILL)
        assert "finished" in await conversation.answer()
        assert "again" in await scenario.say(conversation, "Run: echo again")
        await _one_sandbox(scenario, conversation)

    return play


async def _supervisor_is_killed_between_turns(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await scenario.settled(conversation)
    sandbox = await _one_sandbox(scenario, conversation)
    await _send_signal(scenario, sandbox.id, "supervisor", signal.SIGKILL)
    assert "kept" in await scenario.say(conversation, "Run: cat file")


async def _shell_host_is_killed_between_turns(scenario: Scenario) -> None:
    """What a command has left in the background lives on, and the next shell is said to be new."""
    conversation = await scenario.begin()
    await scenario.say(conversation, "Run: x=lost; sleep 1000 >/dev/null 2>&1 & echo $! > pid")
    await scenario.settled(conversation)
    sandbox = await _one_sandbox(scenario, conversation)
    await _send_signal(scenario, sandbox.id, "shell host", signal.SIGKILL)
    answer = await scenario.say(conversation, "Run: kill -0 $(cat pid) && echo lives$x")
    assert "a new shell in /mnt/session" in answer
    assert answer.rstrip().endswith("lives")


async def _shell_host_is_killed_in_a_tool_call(scenario: Scenario) -> None:
    """The call is answered, its command is dead, and the turn goes on."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await _send_signal(scenario, sandbox.id, "shell host", signal.SIGKILL)
    assert "the shell has ended" in await conversation.answer()
    assert "again" in await scenario.say(conversation, "Run: echo again")
    await _one_sandbox(scenario, conversation)


async def _shell_host_is_frozen_in_a_tool_call(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await _send_signal(scenario, sandbox.id, "shell host", signal.SIGSTOP)
    let_go(sandbox)
    assert "finished" in await conversation.answer()


def _worker_is_killed_with_its_result(*, after_commit: bool) -> Play:
    """The result of a tool call is on its way, or taken, and its worker never hears of it."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        admin = scenario.system.anthropic_admin
        sandbox = await running_tool(scenario, conversation, GATED)
        fault = await admin.add_fault(
            "events.send",
            {"status": 504, "seconds": 60, "after_commit": after_commit},
            match={"session_id": conversation.session_id},
        )
        let_go(sandbox)

        async def held() -> bool:
            return any(each["applied"] for each in await admin.faults() if each["id"] == fault)

        await eventually("the result is sent", held)
        await _send_signal(scenario, sandbox.id, "worker", signal.SIGKILL)
        await admin.clear_faults()
        assert "finished" in await conversation.answer()

    return play


async def _worker_is_killed_before_its_first_heartbeat(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    admin = scenario.system.anthropic_admin
    fault = await admin.add_fault(
        "work.heartbeat", {"status": 504, "seconds": 60}, match={"work_id": conversation.session_id}
    )
    await scenario.send(conversation, "Run: echo served")

    async def held() -> bool:
        return any(each["applied"] for each in await admin.faults() if each["id"] == fault)

    await eventually("the first heartbeat is sent", held)
    sandbox = await _one_sandbox(scenario, conversation)
    await _send_signal(scenario, sandbox.id, "worker", signal.SIGKILL)
    await admin.clear_faults()
    assert "served" in await conversation.answer()


async def _worker_is_killed_while_it_waits_for_a_message(scenario: Scenario) -> None:
    """Nothing is unanswered: the abandoned work comes again, and a new worker ends it in order."""
    conversation = await scenario.begin()
    await wait_long_for_messages(scenario, conversation)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    sandbox = await _one_sandbox(scenario, conversation)
    await _send_signal(scenario, sandbox.id, "worker", signal.SIGKILL)
    await scenario.settled(conversation)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _worker_is_frozen_and_superseded(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation)
    frozen = await _send_signal(scenario, sandbox.id, "worker", signal.SIGSTOP)
    assert "finished" in await conversation.answer()
    await _gone(scenario, sandbox.id, frozen)


async def _worker_is_frozen_in_the_only_place(scenario: Scenario) -> None:
    """There is no room to ask the queue for anything, the abandoned work included."""
    conversation, other = await scenario.begin(), await scenario.begin()
    sandbox = await running_tool(scenario, conversation)
    frozen = await _send_signal(scenario, sandbox.id, "worker", signal.SIGSTOP)
    assert "served" in await scenario.say(other, "Run: echo served")
    await _gone(scenario, sandbox.id, frozen)
    assert "finished" in await conversation.answer()


async def _frozen_worker_thaws_after_its_lease(scenario: Scenario) -> None:
    """Nobody has taken over yet when it thaws: it ends itself before it does anything."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation)
    await scenario.system.anthropic_admin.add_fault("work.poll", {"status": 503}, times=None)
    frozen = await _send_signal(scenario, sandbox.id, "worker", signal.SIGSTOP)

    async def lapsed() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.counts["leases_lapsed"] > 0

    await eventually("the lease has lapsed", lapsed)
    await scenario.system.e2b_admin.signal_processes(sandbox.id, signal.SIGCONT, host_pid=frozen.host_pid)
    await _gone(scenario, sandbox.id, frozen)
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["results"] == 0
    await scenario.calm()
    assert "finished" in await conversation.answer()


async def _supervisor_is_frozen_in_a_tool_call(scenario: Scenario) -> None:
    """Its worker finishes the turn; nobody in the sandbox tells of its end, and it is noticed."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await _send_signal(scenario, sandbox.id, "supervisor", signal.SIGSTOP)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await scenario.settled(conversation)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _supervisor_is_frozen_between_turns(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    sandbox = await _one_sandbox(scenario, conversation)
    await _send_signal(scenario, sandbox.id, "supervisor", signal.SIGSTOP)
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat file")


async def _everything_of_ours_is_frozen(scenario: Scenario) -> None:
    """Nothing of ours in the sandbox moves or answers any more."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation)
    assert await scenario.system.e2b_admin.signal_processes(sandbox.id, signal.SIGSTOP, "python")
    assert "finished" in await conversation.answer()
    await scenario.settled(conversation)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _everything_of_ours_is_frozen_while_it_waits(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    await wait_long_for_messages(scenario, conversation)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    sandbox = await _one_sandbox(scenario, conversation)
    assert await scenario.system.e2b_admin.signal_processes(sandbox.id, signal.SIGSTOP, "python")
    await scenario.settled(conversation)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _disk_is_full(scenario: Scenario) -> None:
    """The agent fills the disk, is served again all the same, and makes room."""
    await scenario.e2b_settings(disk_megabytes=64)
    conversation = await scenario.begin()
    assert "full" in await scenario.say(conversation, "Run: cat /dev/zero > fill 2>/dev/null; echo full")
    await scenario.settled(conversation)
    assert "left" in await scenario.say(conversation, "Run: echo left; rm fill")
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: echo kept > file; cat file")


async def _disk_is_full_to_the_last_byte(scenario: Scenario) -> None:
    """The room that is kept for us is used up too: said, and served when there is room again."""
    await scenario.e2b_settings(disk_megabytes=64)
    conversation = await scenario.begin()
    reserve = "/opt/anthropic-managed-agents/reserve"
    wait = f"touch ready; while test -e {reserve}; do sleep 0.05; done"
    await scenario.send(conversation, f"Run: {wait}; cat /dev/zero > fill 2>/dev/null; echo full")

    async def ready() -> SimulatedSandbox | None:
        running = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return next((each for each in running if each.path("/mnt/session/ready").exists()), None)

    # The room is root's, and no agent can take it: somebody else has used it up.
    (await eventually("the command runs", ready)).path(reserve).unlink()
    assert "full" in await conversation.answer()
    await scenario.settled(conversation)
    await scenario.send(conversation, "Run: echo served")
    await becomes(scenario.system, conversation.session_id, "SandboxDiskFull")
    sandbox = await _one_sandbox(scenario, conversation)
    sandbox.path("/mnt/session/fill").unlink()
    assert "served" in await conversation.answer()
    connects = (await scenario.system.e2b_admin.ledger(operation="connect", sandbox_id=sandbox.id)).calls
    assert len(connects) < 15, "tries come further and further apart"


def _clock_is_wrong_by(seconds: int) -> Play:
    async def play(scenario: Scenario) -> None:
        await scenario.e2b_settings(clock_offset_seconds=seconds)
        conversation = await scenario.begin()
        assert "one" in await scenario.say(conversation, "Run: echo one")
        await scenario.settled(conversation)
        assert "two" in await scenario.say(conversation, "Run: echo two")
        await scenario.settled(conversation)
        work = (await resource(scenario.system, conversation.session_id))["status"]["work"]
        assert work["exitReason"] == "Idle"

    return play


async def _agent_kills_everything_of_its_user(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    once = "test -e begun && echo finished || { touch begun; kill -9 -1; }"
    assert "finished" in await scenario.say(conversation, f"Run: {once}")
    assert "again" in await scenario.say(conversation, "Run: echo again")
    await _one_sandbox(scenario, conversation)


async def _agent_changes_what_root_runs(scenario: Scenario) -> None:
    """E2B leaves the image's Python writable for all; root starts the next worker."""
    conversation = await scenario.begin()
    spread = (
        'for f in /usr/local/lib/python3.*/struct.py; do echo \'open("/tmp/by-root", "w")\' >> $f; done; '
        "for f in bin sbin; do printf '#!/bin/sh\\ntouch /tmp/by-root' > /usr/local/$f/id; done; echo tried"
    )
    assert "tried" in await scenario.say(conversation, f"Run: {{ {spread}; }} 2>/dev/null")
    await scenario.settled(conversation)
    assert "safe" in await scenario.say(conversation, "Run: test -e /tmp/by-root || echo safe")


async def _operator_is_away_when_the_worker_is_killed(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation)
    await scenario.system.operator.kill()
    await _send_signal(scenario, sandbox.id, "worker", signal.SIGKILL)
    await scenario.system.operator.restart()
    assert "finished" in await conversation.answer()
    await _one_sandbox(scenario, conversation)


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


ROWS = [
    _row("the worker is killed in a tool call", _killed_in_a_tool_call("worker")),
    _row("the supervisor is killed in a tool call", _killed_in_a_tool_call("supervisor")),
    _row("the supervisor is killed between two turns", _supervisor_is_killed_between_turns),
    _row("the shell host is killed in a tool call", _shell_host_is_killed_in_a_tool_call),
    _row("the shell host is killed between two turns", _shell_host_is_killed_between_turns),
    _row("the shell host is frozen in a tool call", _shell_host_is_frozen_in_a_tool_call),
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
        "the worker is frozen and has the only slot",
        _worker_is_frozen_in_the_only_place,
        arrangement=ONE_PLACE,
    ),
    _row("the worker is frozen and thaws after its lease", _frozen_worker_thaws_after_its_lease),
    _row("the supervisor is frozen in a tool call", _supervisor_is_frozen_in_a_tool_call),
    _row("the supervisor is frozen between two turns", _supervisor_is_frozen_between_turns),
    _row("all of ours is frozen in a tool call", _everything_of_ours_is_frozen),
    _row("all of ours is frozen while the worker waits", _everything_of_ours_is_frozen_while_it_waits),
    _row("the agent fills the disk", _disk_is_full),
    _row("the agent fills the disk and the room kept for us", _disk_is_full_to_the_last_byte),
    _row("the sandbox's clock is a day ahead", _clock_is_wrong_by(DAY)),
    _row("the sandbox's clock is a day behind", _clock_is_wrong_by(-DAY)),
    _row("the agent kills every process of its user", _agent_kills_everything_of_its_user),
    _row("the agent changes what it can of the programs that root runs", _agent_changes_what_root_runs),
]
