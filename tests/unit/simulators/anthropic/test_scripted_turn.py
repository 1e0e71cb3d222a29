"""A whole turn: message, claim, Anthropic's own worker, answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.environments import EnvironmentWorker
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api, serve, until


async def test_sdk_worker_answers_a_bash_turn_with_only_the_work_secret(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    session = await api.create("Use bash to echo hello. Answer only with that text.")
    work = await api.claim()
    assert work.id == session.id
    await serve(api, work, tmp_path)

    assert await api.answer(session.id) == "hello"
    assert [event.type for event in await api.events(session.id)] == [
        "user.message",
        "session.status_running",
        "agent.tool_use",
        "session.usage",
        "session.status_idle",
        "user.tool_result",
        "session.status_running",
        "agent.message",
        "session.usage",
        "session.status_idle",
    ]
    assert await api.state(work.id) == "stopped"
    assert (await api.admin.beta.sessions.retrieve(session.id)).status == "idle"
    report = await simulator.session(session.id)
    assert report.counts["turns_answered"] == report.counts["leases"] == report.counts["results"] == 1
    assert report.counts["results_without_lease"] == report.counts["worker_streams_overlapping"] == 0
    (turn,) = report.turns
    assert turn.to_ack_ms is not None
    assert turn.to_heartbeat_ms is not None
    assert turn.to_answer_ms is not None
    assert 0 <= turn.to_ack_ms <= turn.to_heartbeat_ms <= turn.to_answer_ms


async def test_second_message_queues_the_same_item_with_a_fresh_secret(api: Api, tmp_path: Path) -> None:
    session = await api.create("Run: echo one > file; cat file")
    first = await api.claim()
    await serve(api, first, tmp_path)
    await api.say(session.id, "Run: cat file; echo two")
    second = await api.claim()
    assert second.id == first.id
    assert second.secret != first.secret
    assert second.created_at > first.created_at
    await serve(api, second, tmp_path)
    assert await api.answer(session.id) == "one\ntwo"


async def test_attached_worker_serves_the_next_message_without_new_work(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    session = await api.create("Run: echo one")
    worker = asyncio.create_task(serve(api, await api.claim(), tmp_path, max_idle=30))
    assert await api.answer(session.id) == "one"
    await api.say(session.id, "Run: echo two")
    assert await api.answer(session.id) == "two"
    assert await api.poll() is None
    report = await simulator.session(session.id)
    assert report.counts["work_enqueued"] == 1
    assert [turn.worker_live for turn in report.turns] == [False, True]
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert await api.state(session.id) == "stopped"


async def test_inline_script_plays_its_steps_and_reports_an_unexpected_result(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    script = (
        '{"script": [{"tool": "bash", "input": {"command": "echo 12"}, "expect": "^1\\\\d$"},'
        ' {"sleep_ms": 5}, {"tools": ['
        '{"tool": "bash", "input": {"command": "(exit 3)"}, "expect_error": true},'
        ' {"tool": "bash", "input": {"command": "echo a"}, "expect": "b"}]}, {"say": "last: {result}"}]}'
    )
    session = await api.create(script)
    await serve(api, await api.claim(), tmp_path)
    assert await api.answer(session.id) == "last: a"
    (mismatch,) = (await simulator.ledger()).script_mismatches
    assert mismatch["session_id"] == session.id
    assert "'b'" in mismatch["reason"]


async def test_registered_script_fills_in_the_groups_of_its_pattern(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    await simulator.add_script(
        "write",
        r"Write (?P<text>\w+) to (?P<name>\w+)",
        [
            {"tool": "write", "input": {"file_path": "{name}", "content": "{text}"}},
            {"tool": "bash", "input": {"command": "cat {name}"}, "expect": "{text}"},
            {"say": "{result}"},
        ],
    )
    session = await api.create("Write apple to basket")
    await serve(api, await api.claim(), tmp_path)
    assert await api.answer(session.id) == "apple"
    assert (await simulator.ledger()).script_mismatches == []
    assert (tmp_path / "basket").read_text() == "apple"


async def test_unmatched_text_is_answered_without_a_tool(api: Api) -> None:
    session = await api.create("Good morning")
    assert await api.answer(session.id) == "You said: Good morning"


async def test_worker_skips_a_terminated_session(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    session = await api.create()
    work = await api.claim()
    await simulator.terminate_session(session.id)
    await serve(api, work, tmp_path)
    assert await api.state(work.id) == "stopped"


async def test_worker_leaves_when_its_session_is_archived(api: Api, tmp_path: Path) -> None:
    session = await api.create("Good morning")
    worker = asyncio.create_task(serve(api, await api.claim(), tmp_path, max_idle=60))

    async def attached() -> bool:
        return await api.state(session.id) == "active"

    await until(attached)
    await api.admin.beta.sessions.archive(session.id)
    await asyncio.wait_for(worker, 30)
    assert await api.state(session.id) == "stopped"


async def test_worker_downloads_skills_with_the_environment_key_but_not_with_its_token(
    api: Api, simulator: AnthropicSimulator, tmp_path: Path
) -> None:
    version = await simulator.add_skill(
        "greeting", {"SKILL.md": "# Greeting", "hello.sh": "#!/bin/sh\necho hi"}
    )
    skill = {"type": "custom", "skill_id": version["skill_id"], "version": "latest"}
    agent_id = await simulator.add_agent(skills=[skill])
    session = await api.admin.beta.sessions.create(agent=agent_id, environment_id=api.environment_id)
    await api.say(session.id, "Run: ls skills 2>/dev/null; true")
    await serve(api, await api.claim(), tmp_path)
    assert await api.answer(session.id) == "(no output)"

    archive = await api.worker.beta.skills.versions.download(version["id"], skill_id=version["skill_id"])
    assert (await archive.read()).startswith(b"PK")
    await api.say(session.id, "Run: ls skills/greeting; skills/greeting/hello.sh")
    work = await api.claim()
    worker = EnvironmentWorker(
        api.client(None), environment_key=api.worker.auth_token, workdir=tmp_path, max_idle=0.1
    )
    await worker.handle_item(work_id=work.id, environment_id=work.environment_id, session_id=work.data.id)
    assert await api.answer(session.id) == "SKILL.md\nhello.sh\nhi"


async def test_worker_mounts_an_attached_memory_store_and_writes_back(api: Api, tmp_path: Path) -> None:
    mount = tmp_path / "memory"
    resource: Any = {"type": "memory_store", "memory_store_id": "memstore_1", "mount_path": str(mount)}
    session = await api.create(f"Run: ls {mount}; echo note > {mount}/note.md", resources=[resource])
    (tmp_path / "work").mkdir()
    await serve(api, await api.claim(), tmp_path / "work")
    memories = api.admin.beta.memory_stores.memories
    found: list[Any] = [memory async for memory in memories.list("memstore_1", view="full")]
    assert [(memory.path, memory.content) for memory in found] == [("/note.md", "note\n")]
    assert (await api.admin.beta.sessions.retrieve(session.id)).resources[0].type == "memory_store"
