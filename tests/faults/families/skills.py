"""Skills that do not come: refused, cut off, too large, not to be unpacked; and a cache that fails."""

from __future__ import annotations

import os
import resource as limits
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.sessions import resource, warned
from ...support.skill_archives import bomb, zipped
from ..effects import Effect
from ..row import Play, Row
from ..scenario import Scenario

FAMILY = "skills"
GOOD = zipped(("x/SKILL.md", b"how to\n"), ("x/more", b"more"))
READ = "Run: cat skills/guide/SKILL.md 2>&1; echo done"


async def _begin(scenario: Scenario, archive: bytes = GOOD) -> Conversation:
    """A session whose agent has one skill."""
    admin = scenario.system.anthropic_admin
    skill = await admin.add_skill("guide", archive=archive)
    wanted = {"type": "custom", "skill_id": skill["skill_id"], "version": "latest"}
    return await scenario.begin(await admin.add_agent(skills=[wanted]))


async def _missing(scenario: Scenario, conversation: Conversation) -> list[str]:
    status = (await resource(scenario.system, conversation.session_id))["status"]
    return list(status["sandbox"].get("missingSkills", []))


def _passes(operation: str, action: dict[str, Any], times: int) -> Play:
    """It passes: the turn begins later, with its skill."""

    async def play(scenario: Scenario) -> None:
        conversation = await _begin(scenario)
        if operation.startswith("skills"):
            await scenario.system.anthropic_admin.add_fault(operation, action, times=times)
        else:
            await scenario.system.e2b_admin.add_fault(operation, action, times=times)
        assert await scenario.say(conversation, READ) == "how to\ndone"
        assert await _missing(scenario, conversation) == []

    return play


def _stays(operation: str, action: dict[str, Any], why: str) -> Play:
    """It does not pass: the turn goes on without the skill, and the next turn has it."""

    async def play(scenario: Scenario) -> None:
        conversation = await _begin(scenario)
        await scenario.system.anthropic_admin.add_fault(operation, action, times=None)
        assert "No such file" in await scenario.say(conversation, READ)
        [missing] = await _missing(scenario, conversation)
        assert why in missing
        await warned(scenario.system, conversation.session_id, "SkillMissing")
        await scenario.settled(conversation)
        await scenario.system.anthropic_admin.clear_faults()
        assert await scenario.say(conversation, READ) == "how to\ndone"
        assert await _missing(scenario, conversation) == []

    return play


async def _bomb(scenario: Scenario) -> None:
    conversation = await _begin(scenario, bomb(10))
    assert "No such file" in await scenario.say(conversation, READ)
    [missing] = await _missing(scenario, conversation)
    assert "unpacks to more than 500000000 bytes" in missing


async def _operator_is_killed(scenario: Scenario) -> None:
    conversation = await _begin(scenario)
    held = await scenario.hold(Effect("e2b", "files_write"), after_commit=True)
    await scenario.send(conversation, READ)
    await held.reached()
    await scenario.system.operator.kill()
    held.lose()
    await scenario.calm()
    await scenario.system.operator.restart()
    assert await conversation.answer() == "how to\ndone"


DISK = 32


async def _disk_is_too_small(scenario: Scenario) -> None:
    await scenario.e2b_settings(disk_megabytes=DISK)
    conversation = await _begin(scenario, zipped(("x/SKILL.md", bytes(2 * DISK << 20))))
    assert "No such file" in await scenario.say(conversation, READ)
    [missing] = await _missing(scenario, conversation)
    assert "No space left" in missing


@contextmanager
def _a_file_in_its_place(folder: Path) -> Iterator[None]:
    aside = folder.with_suffix(".aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@contextmanager
def _files_of_at_most(size: int, pid: int) -> Iterator[None]:
    """Let the kernel refuse to make any file of the process longer, as a full disk does."""
    _, hard = limits.prlimit(pid, limits.RLIMIT_FSIZE)
    limits.prlimit(pid, limits.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        limits.prlimit(pid, limits.RLIMIT_FSIZE, (hard, hard))


async def _cache_fails(scenario: Scenario) -> None:
    """Its archives are damaged, its folder is no folder, and its disk is full: each turn has its skill."""
    operator = scenario.system.operator
    folder = scenario.system.folder / f"{operator.name}-skills"
    before = set(folder.iterdir())
    # More than the operator logs meanwhile: the limit below is one for its log too.
    archive = zipped(("x/SKILL.md", b"how to\n"), ("x/more", os.urandom(4 << 20)))
    skill = await scenario.system.anthropic_admin.add_skill("guide", archive=archive)
    wanted = {"type": "custom", "skill_id": skill["skill_id"], "version": "latest"}
    agent = await scenario.system.anthropic_admin.add_agent(skills=[wanted])

    async def downloads_after_a_turn() -> int:
        conversation = await scenario.begin(agent)
        assert await scenario.say(conversation, READ) == "how to\ndone"
        assert await _missing(scenario, conversation) == []
        calls = (await scenario.system.anthropic_admin.ledger()).calls
        mine = [call for call in calls if skill["skill_id"] in call["path"]]
        return sum(call["operation"] == "skills.download" for call in mine)

    downloads = [await downloads_after_a_turn()]
    [kept] = set(folder.iterdir()) - before
    kept.write_bytes(b"damaged")
    downloads.append(await downloads_after_a_turn())
    assert kept.read_bytes() == archive
    with _a_file_in_its_place(folder):
        downloads.append(await downloads_after_a_turn())
    pid = operator.process.pid
    assert pid is not None
    with _files_of_at_most(operator.log.stat().st_size + (2 << 20), pid):
        downloads.append(await downloads_after_a_turn())
    assert downloads == sorted(set(downloads)), "no turn got it from the cache"
    assert not list(folder.glob("*.part"))


ROWS = [
    Row(FAMILY, name, play)
    for name, play in (
        ("the version of a skill is answered 503 twice", _passes("skills.get", {"status": 503}, 2)),
        ("a skill's download is answered 529 twice", _passes("skills.download", {"status": 529}, 2)),
        ("a skill's download is cut off", _passes("skills.download", {"action": "drop_after_commit"}, 1)),
        ("a part of a skill is not taken by the sandbox", _passes("files_write", {"status": 500}, 1)),
        ("the command that unpacks skills is answered 502", _passes("process_start", {"status": 502}, 1)),
        ("a skill's download is refused", _stays("skills.download", {"status": 403}, "HTTP 403")),
        ("a skill's version is gone", _stays("skills.get", {"status": 404}, "HTTP 404")),
        (
            "a skill's download never comes",
            _stays("skills.download", {"action": "hang", "seconds": 60}, "could not be reached"),
        ),
        ("a skill unpacks to 10 GB", _bomb),
        ("a skill does not fit on the sandbox's disk", _disk_is_too_small),
        ("the operator is killed while a skill is uploaded", _operator_is_killed),
        ("the cache of skills is damaged, then no folder, then full", _cache_fails),
    )
]
