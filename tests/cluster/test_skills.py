"""Skills of a session's agent in its sandbox: modes, versions, bounds, and what is said of missing ones."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, condition, resource, warned
from ..support.skill_archives import bomb, zipped
from ..support.systems import local_system
from ..support.waiting import eventually

BOUNDS = {"skill_max_bytes": "3000000", "skill_max_unpacked_bytes": "5000000", "skill_max_files": "50"}


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings={**QUICK, **BOUNDS}) as running:
        yield running


def with_link(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo(f"{name}/way-out")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(f"{name}/SKILL.md", "read me")
    return buffer.getvalue()


async def agent_with(system: LocalSystem, *versions: dict[str, Any]) -> str:
    """An agent with the newest version of these skills."""
    return await system.anthropic_admin.add_agent(
        skills=[{"type": "custom", "skill_id": each["skill_id"], "version": "latest"} for each in versions]
    )


def begin_with(system: LocalSystem, agent: str) -> AbstractAsyncContextManager[Conversation]:
    return Conversation.begin(system.user, agent_id=agent, environment_id=system.clouds.environment_id)


async def test_files_have_the_modes_of_the_archive_reduced_to_two(system: LocalSystem) -> None:
    skill = await system.anthropic_admin.add_skill(
        "tool", {"SKILL.md": "# Run it", "scripts/run.sh": "#!/bin/sh\necho it runs"}
    )
    async with begin_with(system, await agent_with(system, skill)) as conversation:
        assert await conversation.say("Run: ./skills/tool/scripts/run.sh") == "it runs"
        modes = await conversation.say(
            "Run: stat -c %a skills/tool skills/tool/SKILL.md skills/tool/scripts/run.sh"
        )
        assert modes.split() == ["700", "644", "755"]
        assert await conversation.say("Run: stat -c %U skills skills/tool/SKILL.md") == "agent\nagent"
        assert await conversation.say("Run: echo kindly >> skills/tool/SKILL.md; echo said")
        assert "kindly" in await conversation.say("Run: cat skills/tool/SKILL.md")


async def test_new_version_reaches_a_living_sandbox_with_the_next_turn(system: LocalSystem) -> None:
    admin = system.anthropic_admin
    first = await admin.add_skill("changing", {"SKILL.md": "one", "old.txt": "old"})
    async with begin_with(system, await agent_with(system, first)) as conversation:
        assert await conversation.say("Run: cat skills/changing/SKILL.md") == "one"
        await _turn_over(system, conversation)
        await admin.add_skill("renamed", {"SKILL.md": "two\n"}, skill_id=first["skill_id"])
        answer = await conversation.say("Run: ls skills; cat skills/renamed/SKILL.md; ls skills/renamed")
        assert answer.split() == ["renamed", "two", "SKILL.md"]
        assert "missingSkills" not in (await resource(system, conversation.session_id))["status"]["sandbox"]


async def test_name_with_quotes_and_percent_signs_is_the_directory(system: LocalSystem) -> None:
    name = "say \"hi\" 100%22 'now' $HOME"
    skill = await system.anthropic_admin.add_skill(name, {'a "b".md': "quoted", "SKILL.md": "x"})
    async with begin_with(system, await agent_with(system, skill)) as conversation:
        answer = await conversation.say("Run: ls skills; cat skills/*/a*")
        assert answer.splitlines() == [name, "quoted"]


def _tar_with_device() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        device = tarfile.TarInfo("tarred/null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(device)
        member = tarfile.TarInfo("tarred/SKILL.md")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"tar\n"))
    return buffer.getvalue()


async def test_links_and_devices_are_passed_over(system: LocalSystem) -> None:
    admin = system.anthropic_admin
    linked = await admin.add_skill("linked", archive=with_link("linked"))
    tarred = await admin.add_skill("tarred", archive=_tar_with_device())
    async with begin_with(system, await agent_with(system, linked, tarred)) as conversation:
        answer = await conversation.say("Run: cd skills; ls linked tarred; cat */SKILL.md")
        assert answer.split() == ["linked:", "SKILL.md", "tarred:", "SKILL.md", "read", "metar"]


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (zipped(("x/SKILL.md", b"x"), ("x/../../../up", b"out")), "outside its directory"),
        (zipped(("/etc/cron.d/evil", b"out"), ("x/SKILL.md", b"x")), "outside its directory"),
        (bomb(2), "unpacks to more than 5000000 bytes"),
        (zipped(*((f"x/{number}", b"") for number in range(51))), "more than 50 files"),
        (zipped(("x/noise", os.urandom(3_000_000))), "more than 3000000 bytes"),
        (b"<html>a proxy's page</html>", "not a readable archive"),
    ],
    ids=["upwards", "absolute", "bomb", "many", "long", "page"],
)
async def test_turn_goes_on_without_a_skill_that_may_not_be_unpacked(
    system: LocalSystem, archive: bytes, why: str
) -> None:
    admin = system.anthropic_admin
    bad = await admin.add_skill("bad", archive=archive)
    good = await admin.add_skill("good", {"SKILL.md": "fine"})
    async with begin_with(system, await agent_with(system, bad, good)) as conversation:
        assert await conversation.say("Run: ls -A skills; cat skills/good/SKILL.md") == "good\nfine"
        session_id = conversation.session_id
        [missing] = (await resource(system, session_id))["status"]["sandbox"]["missingSkills"]
        assert missing.startswith('"bad": ')
        assert why in missing
        await warned(system, session_id, "SkillMissing")
        await _turn_over(system, conversation)
        await admin.add_skill("bad", {"SKILL.md": "better"}, skill_id=bad["skill_id"])
        assert await conversation.say("Run: cat skills/bad/SKILL.md") == "better"
        assert "missingSkills" not in (await resource(system, session_id))["status"]["sandbox"]


async def test_running_sandbox_without_a_skill_says_so(system: LocalSystem) -> None:
    agent = await system.anthropic_admin.add_agent(
        skills=[{"type": "custom", "skill_id": "skill_gone", "version": "latest"}]
    )
    async with begin_with(system, agent) as conversation:
        await conversation.send("Run: while [ ! -e go ]; do sleep 0.1; done; echo done")

        async def told() -> str | None:
            found = await condition(system, conversation.session_id, "SandboxReady")
            return found["message"] if found.get("reason") == "SkillMissing" else None

        assert '"skill_gone": Anthropic answered' in await eventually("the condition says so", told)
        [sandbox] = [
            each
            for each in await system.e2b_admin.sandboxes("running")
            if conversation.session_id in each.metadata.values()
        ]
        sandbox.path("/mnt/session/go").touch()
        assert await conversation.answer() == "done"


async def test_each_version_is_downloaded_once_for_all_sandboxes(system: LocalSystem) -> None:
    admin = system.anthropic_admin
    skill = await admin.add_skill("shared", {"SKILL.md": "one"})
    agent = await agent_with(system, skill)

    async def read_in_new_session() -> str:
        async with begin_with(system, agent) as conversation:
            return await conversation.say("Run: cat skills/shared/SKILL.md")

    async def downloads() -> int:
        calls = (await admin.ledger()).calls
        return sum(call["operation"] == "skills.download" for call in calls)

    before = await downloads()
    assert set(await asyncio.gather(read_in_new_session(), read_in_new_session())) == {"one"}
    await system.operator.restart()
    assert await read_in_new_session() == "one"
    assert await downloads() == before + 1
    await admin.add_skill("shared", {"SKILL.md": "two"}, skill_id=skill["skill_id"])
    assert await read_in_new_session() == "two"
    assert await downloads() == before + 2


async def _turn_over(system: LocalSystem, conversation: Conversation) -> None:
    async def rests() -> bool:
        found = await resource(system, conversation.session_id)
        return bool(found["status"].get("sandbox", {}).get("state") == "Paused")

    await eventually("the sandbox is paused", rests)
