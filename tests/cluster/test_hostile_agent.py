"""A hostile agent: real tool calls, after which its session, the others and the credentials are unharmed.

The attempts are data (`tests/hostile`), and a table in docs/security.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from managed_session_api.credentials import Credential
from managed_session_cli.conversation import Conversation, NoAnswerError
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.anthropic.client import ControlError
from managed_session_devkit.simulators.anthropic.credentials import TOKEN_PREFIX
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from ..hostile.attempt import Attempt, Group
from ..hostile.limits import RESOURCES
from ..hostile.next_turn import NEXT_TURN
from ..hostile.table import GROUPS
from ..support.classes import apply_class, class_becomes
from ..support.sessions import QUICK, begin, begin_with_store, condition, sandboxes_of, written_down
from ..support.systems import local_system
from ..support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="one user only: nobody to be kept from root")

STORE = "memstore_victim"
"""The memory store of the other session."""
_READ_BYTES = 1 << 20


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def put_settings(system: LocalSystem, text: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"text": text}}
    await system.kubectl("apply", "--filename=-", input=json.dumps(body))


async def prepare(system: LocalSystem) -> None:
    """Give every sandbox something to be prepared with, at each resume."""
    await put_settings(system, "first")
    file = {"path": "settings.json", "configMap": {"name": "settings", "key": "text"}}
    sandbox = {
        "setup": {"files": [file], "rerunOnChange": True},
        "hooks": {"afterResume": {"command": "true"}, "beforePause": {"command": "true"}},
    }
    spec = {"selector": {"agentIDs": [system.agent_id]}, "session": {"sandbox": sandbox}}
    await apply_class(system, "hostile", spec)
    await class_becomes(system, "hostile", "Ready")


def token_in_memory(sandbox: SimulatedSandbox) -> str | None:
    """Find the session's token as root can: in the memory of its worker."""
    for process in sandbox.processes:
        folder = Path("/proc") / str(process.host_pid)
        with suppress(OSError):
            if (folder / "comm").read_text().strip() == "session-worker" and (found := _search(folder)):
                return found
    return None


def _search(folder: Path) -> str | None:
    pattern = re.compile(TOKEN_PREFIX.encode() + rb"[\w-]{43}")
    with (folder / "mem").open("rb", buffering=0) as memory:
        for line in (folder / "maps").read_text().splitlines():
            first, last = (int(each, 16) for each in line.split()[0].split("-"))
            if "rw" not in line.split()[1]:
                continue
            for place in range(first, last, _READ_BYTES):
                with suppress(OSError):
                    memory.seek(place)
                    if found := pattern.search(memory.read(min(_READ_BYTES, last - place))):
                        return found[0].decode()
    return None


async def own_token(system: LocalSystem, conversation: Conversation) -> str:
    """Return the token with which a worker of the session works while it runs a command."""
    await conversation.send("Run: until test -e /tmp/go; do sleep 0.1; done")

    async def look() -> tuple[SimulatedSandbox, str] | None:
        for sandbox in await sandboxes_of(system, conversation.session_id, "running"):
            if token := token_in_memory(sandbox):
                return sandbox, token
        return None

    sandbox, token = await eventually("the worker has its token in its memory", look)
    sandbox.path("/tmp/go").touch()
    await conversation.answer()
    return token


def results(events: list[dict[str, Any]]) -> list[str]:
    """The results of all tool calls, in the order in which these were requested."""
    texts = {
        event["tool_use_id"]: "\n".join(each.get("text", "") for each in event["content"])
        for event in events
        if event["type"].endswith("tool_result")
    }
    return [texts[event["id"]].strip() for event in events if event["type"] == "agent.tool_use"]


async def play(
    system: LocalSystem, conversation: Conversation, calls: list[dict[str, Any]], seconds: float = 60
) -> list[str]:
    """Have the agent make these calls in one turn, and return their results."""
    script = {"script": [*calls, {"say": "done"}]}
    try:
        await conversation.say(json.dumps(script), timeout_seconds=seconds)
    except NoAnswerError as error:
        error.add_note(str(await condition(system, conversation.session_id)))
        raise
    report = await system.anthropic_admin.session(conversation.session_id)
    return results(report.events)[-len(calls) :]


async def play_until_it_ends(
    system: LocalSystem, conversation: Conversation, attempt: Attempt, values: dict[str, str]
) -> str:
    """Play an attempt that costs its worker, and let its lease lapse, as it does in five minutes."""
    turn = asyncio.create_task(play(system, conversation, [attempt.call(values)]))

    async def begun() -> SimulatedSandbox | None:
        running = await sandboxes_of(system, conversation.session_id, "running")
        return next((each for each in running if each.path("/mnt/session/begun").exists()), None)

    sandbox = await eventually("the attempt runs", begun)
    patience = 2.0
    while not turn.done():
        await asyncio.wait({turn}, timeout=patience)
        if sandbox.path("/mnt/session/begun").exists():
            with suppress(ControlError):
                await system.anthropic_admin.lapse_lease(conversation.session_id)
                # The next worker keeps its lease until it has made the call again.
                patience = 20.0
    return (await turn)[0]


def judge(attempt: Attempt, text: str, expected: str, wrong: list[str]) -> None:
    if not re.fullmatch(expected, text):
        wrong.append(f"{attempt.name}: {text[-800:]!r}")


async def attack(
    system: LocalSystem, group: Group, conversation: Conversation, token: str, other: str
) -> None:
    """Play a group in one session, and see that its next turn is served."""
    values = {
        "api": system.clouds.environment["ANTHROPIC_BASE_URL"],
        "e2b": system.clouds.e2b_variables["E2B_API_URL"],
        "other": other,
        "store": STORE,
        "token": token,
    }
    wrong: list[str] = []
    if group.costs_the_turn:
        for attempt in group.attempts:
            text = await play_until_it_ends(system, conversation, attempt, values)
            judge(attempt, text, attempt.sees, wrong)
    else:
        seen = await play(system, conversation, [each.call(values) for each in group.attempts])
        for attempt, text in zip(group.attempts, seen, strict=True):
            judge(attempt, text, attempt.sees, wrong)
    if group is NEXT_TURN:
        await put_settings(system, "second")
    await eventually("the sandbox is paused", lambda: written_down(system, conversation.session_id))
    later = [each for each in group.attempts if each.later]
    calls = [each.call(values, later=True) for each in later]
    *held, last = await play(
        system, conversation, [*calls, {"tool": "bash", "input": {"command": "echo on"}}]
    )
    for attempt, text in zip(later, held, strict=True):
        judge(attempt, text, attempt.holds, wrong)
    assert last.endswith("on")
    assert not wrong, "\n".join(wrong)


async def printed_nothing_secret(system: LocalSystem, session_id: str, token: str) -> None:
    """None of the credentials is in what the agent printed, but for the token that the test gave away."""
    keys = system.clouds.only((Credential.ANTHROPIC_ENVIRONMENT_KEY, Credential.E2B_API_KEY)).values()
    report = await system.anthropic_admin.session(session_id)
    text = "\n".join(results(report.events))
    for secret in (token, *keys):
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode().rstrip("=")[:40] not in text
    assert TOKEN_PREFIX not in text


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
async def test_hostile_agent_harms_only_its_own_turn(system: LocalSystem, group: Group) -> None:
    await prepare(system)
    disk = {"disk_megabytes": 160} if group is RESOURCES else {"disk_megabytes": None}
    await system.e2b_admin.change_settings(**disk)
    async with begin_with_store(system, STORE) as victim, begin(system) as hostile:
        token = await own_token(system, hostile)
        assert await victim.say("Run: echo one > /mnt/session/kept; cat /mnt/session/kept") == "one"
        await attack(system, group, hostile, token, victim.session_id)
        assert await victim.say("Run: cat /mnt/session/kept") == "one"
        await printed_nothing_secret(system, hostile.session_id, token)
        assert len(await sandboxes_of(system, hostile.session_id)) == 1
