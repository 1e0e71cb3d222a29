"""The audit of a whole system, written by two leaders into one file and verified by the real command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.credentials import OPERATOR_CREDENTIALS
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.leaders import leader
from ..support.sessions import QUICK, begin, resource, sandboxes_of, written_down
from ..support.systems import local_system
from ..support.waiting import eventually

CANARY = "canary-of-content"
USER = "somebody@example.com"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def system(control_plane: ControlPlane, file: Path) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "audit": str(file)}
    async with local_system(control_plane, operators=2, operator_settings=settings) as running:
        yield running


async def run(*arguments: str, text: str | None = None) -> tuple[int, str]:
    """Run the command line as a user does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "managed_session_cli.main", "audit", "verify", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate((text or "").encode())
    return process.returncode or 0, output.decode()


def recorded(file: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [each for each in found if each["event"] == event]


async def access(system: LocalSystem, session_id: str) -> None:
    """Leave an Event as the command line does."""
    about = (await resource(system, session_id))["metadata"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "access.", "namespace": system.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION, "kind": names.KIND, "name": about["name"],
            "namespace": system.namespace, "uid": about["uid"],
        },
        "reason": "SandboxAccessed",
        "action": "Shell",
        "message": f"{USER} opened a shell in the sandbox.",
        "firstTimestamp": "2026-11-23T17:00:00Z",
        "reportingComponent": "managed-sessions-cli",
        "type": "Normal",
    }  # fmt: skip
    await system.kubectl("create", "--filename=-", input=json.dumps(event))


async def test_audit_of_two_leaders_is_whole_and_has_no_content(system: LocalSystem, file: Path) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        first = await leader(system)
        turn = asyncio.create_task(
            conversation.say(f"Run: echo {CANARY}; touch begun; {WAIT}", timeout_seconds=120)
        )

        async def begun() -> bool:
            running = await sandboxes_of(system, session_id, "running")
            return bool(running and running[0].path("/mnt/session/begun").exists())

        await eventually("the command runs", begun)
        await first.process.stop(kill=True)
        await leader(system, other_than=first)
        (sandbox,) = await sandboxes_of(system, session_id)
        let_go(sandbox)
        await turn
        await eventually("the turn is over", lambda: written_down(system, session_id))
        work = (await resource(system, session_id))["status"]["work"]
        await access(system, session_id)

        async def accessed() -> bool:
            return bool(recorded(file, "SandboxAccessed"))

        await eventually("the access is recorded", accessed)
        await system.kubectl("delete", names.PLURAL, names.resource_name(session_id))

    async def deleted() -> bool:
        return bool(recorded(file, "Deleted"))

    await eventually("the deletion is recorded", deleted)
    assert recorded(file, "Claimed")[0]["claim"] == work["claim"]
    assert [each["claim"] for each in recorded(file, "ClaimFound")] == [work["claim"]]
    (call,) = recorded(file, "ToolCalled")
    assert (call["session"], call["tool"], call["isError"]) == (session_id, "bash", False)
    assert call["input"].startswith("sha256:")
    (ended,) = recorded(file, "TurnEnded")
    assert (ended["exitReason"], ended["epoch"]) == ("Idle", recorded(file, "LeaderStarted")[-1]["epoch"])
    assert {each["sandbox"] for each in recorded(file, "SandboxKilled")} == {sandbox.id}
    assert USER in recorded(file, "SandboxAccessed")[0]["message"]
    secrets = {*system.clouds.only(OPERATOR_CREDENTIALS).values(), system.api_key, CANARY}
    for secret in secrets - {system.clouds.environment_id}:
        assert secret not in file.read_text()

    code, output = await run(str(file))
    assert code == 0, output
    assert "in 2 chains: intact." in output
    newest = recorded(file, "Deleted")[-1]["hash"]
    assert (await run("-", "--includes", newest, text=file.read_text()))[0] == 0
    lines = file.read_text().splitlines(keepends=True)
    code, output = await run("-", text="".join(lines[:2] + lines[3:]))
    assert (code, "line 3: record 2 of chain" in output, "NOT intact: 1 finding" in output) == (1, True, True)
    shorter = "".join(lines[: -len(lines) // 4])
    assert (await run("-", text=shorter))[0] == 0, "the end is missing, which no chain shows"
    assert (await run("-", "--includes", newest, text=shorter))[0] == 1
    assert (await run("-", text="no records\n"))[0] == 2
    assert (await run(str(file.with_name("missing"))))[0] == 2
