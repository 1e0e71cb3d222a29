"""Snapshots of sessions: taken after turns and on request, restored, forked, retained and deleted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.certificates import issue_bare
from ..support.sessions import QUICK, begin, condition, paused, resource, sandboxes_of
from ..support.snapshots import kept_in_e2b, snapshots_of
from ..support.waiting import eventually
from .command_line import Site, simulated_site

AFTER_EACH_TURN = {"lifecycle": {"snapshots": {"afterEachTurn": True, "keepLast": 2}}}
AUTHORITIES = "/opt/anthropic-managed-agents/added-authorities.pem"
FILE = "/mnt/session/file"


@pytest.fixture(scope="module")
async def site(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with simulated_site(control_plane, tmp_path_factory.mktemp("clouds")) as site:
        assert (await site.install()).code == 0
        yield site


@pytest.fixture(scope="module")
async def system(site: Site) -> AsyncIterator[LocalSystem]:
    async with site.running(operator_settings=QUICK) as running:
        running.e2b_admin = site.e2b
        yield running


async def set_spec(system: LocalSystem, session_id: str, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": spec})
    name = names.resource_name(session_id)
    await system.kubectl("patch", names.PLURAL, name, "--type=merge", f"--patch={patch}")


async def run(site: Site, *arguments: str) -> str:
    ended = await site.run(*arguments)
    assert ended.code == 0, ended.text
    return ended.output


async def turn(system: LocalSystem, conversation: Conversation, command: str) -> str:
    answer = await conversation.say(f"Run: {command}")
    await eventually("the turn's sandbox is paused", lambda: paused(system, conversation.session_id))
    return answer


async def test_the_newest_snapshots_are_kept_a_lost_sandbox_comes_back_from_them_and_they_go_with_the_session(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await turn(system, conversation, f"echo one > {FILE}")
        assert not await snapshots_of(system, session_id), "none is taken without a policy"
        await set_spec(system, session_id, AFTER_EACH_TURN)
        for word in ("two", "three", "four"):
            await turn(system, conversation, f"echo {word} > {FILE}")

        async def two_left() -> list[dict[str, Any]] | None:
            found = await snapshots_of(system, session_id)
            return found if [each["turn"] for each in found] == [3, 4] else None

        kept = await eventually("the last two are kept", two_left)
        assert await kept_in_e2b(system, session_id) == {each["id"] for each in kept}
        assert kept[0]["name"].startswith("msess-")
        assert session_id.lower() in kept[0]["name"]

        (sandbox,) = await sandboxes_of(system, session_id)
        await system.e2b_admin.vanish(sandbox.id)
        assert "four" in await conversation.say(f"Run: cat {FILE}")
        lost = await condition(system, session_id, "WorkspaceLost")
        assert kept[1]["id"] in lost["message"], "the condition says what the session went back to"

        await system.kubectl("delete", names.PLURAL, names.resource_name(session_id), "--timeout=60s")
        assert not await kept_in_e2b(system, session_id), "its snapshots are deleted with it"


async def test_a_restore_brings_the_files_back_and_a_missing_snapshot_leaves_all_as_it_was(
    site: Site, system: LocalSystem
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await turn(system, conversation, f"echo before > {FILE}")
        await run(site, "snapshot", session_id, "--name=good")
        (taken,) = await snapshots_of(system, session_id)
        assert f"{taken['id']}  " in await run(site, "snapshot", session_id, "--list")
        await eventually("the sandbox is paused again", lambda: paused(system, session_id))
        await turn(system, conversation, f"echo after > {FILE}")
        (former,) = await sandboxes_of(system, session_id, "paused")

        await set_spec(system, session_id, {"requests": {"restore": {"id": "1", "snapshotID": "missing"}}})

        async def given_up() -> bool:
            failed = await condition(system, session_id, "SnapshotFailed")
            status = (await resource(system, session_id))["status"]
            same = status["sandbox"].get("id") == former.id and "replaces" not in status["sandbox"]
            return failed.get("reason") == "SnapshotNotFound" and same

        await eventually("the restore is given up", given_up)

        assert taken["id"] in await run(site, "restore", session_id, f"--snapshot={taken['id']}")
        await eventually("the restored sandbox is paused", lambda: paused(system, session_id))
        assert (await system.e2b_admin.sandbox(former.id)).state == "killed"
        assert not await condition(system, session_id, "SnapshotFailed")
        assert "before" in await turn(system, conversation, f"cat {FILE}")
        assert len(await sandboxes_of(system, session_id, "paused")) == 1


async def test_a_fork_has_the_files_and_a_retained_session_starts_another(
    site: Site, system: LocalSystem, tmp_path: Path
) -> None:
    trust = {"certificateAuthorities": [{"pem": issue_bare(tmp_path).ca.read_text()}]}
    async with begin(system) as conversation, begin(system) as other, begin(system) as third:
        first_id, other_id, third_id = (each.session_id for each in (conversation, other, third))
        await turn(system, conversation, f"echo shared > {FILE}; sleep 1000 > /dev/null 2>&1 &")
        await set_spec(system, first_id, {"sandbox": {"trust": trust}})
        await turn(system, conversation, f"export TOLD=secret; echo shared > {FILE}")
        assert other_id in await run(site, "fork", first_id, f"--to={other_id}")
        (taken,) = await snapshots_of(system, first_id)
        answer = await turn(system, other, f"cat {FILE}; echo told=$TOLD.")
        assert "shared" in answer
        assert "told=." in answer, "it has a shell of its own"
        (fork,) = await sandboxes_of(system, other_id)
        records = {path.stem for path in fork.path("/opt/anthropic-managed-agents/exits").iterdir()}
        status = (await resource(system, other_id))["status"]
        assert records == {status["work"]["claim"]}, "it has no record of the other session"
        assert "unclean" not in status["sandbox"]
        (first,) = await sandboxes_of(system, first_id)
        assert first.path(AUTHORITIES).read_text()
        assert not fork.path(AUTHORITIES).read_text(), (
            "it does not trust what the first session's policy added"
        )

        await turn(system, other, f"echo own > {FILE}")
        seen = await turn(system, conversation, f"cat {FILE}; echo told=$TOLD.")
        assert "shared" in seen, "the first one's files are its own"
        assert "told=secret." in seen, "the first one's shell goes on"
        await system.kubectl("delete", names.PLURAL, names.resource_name(first_id), "--timeout=60s")
        assert await kept_in_e2b(system, first_id) == {taken["id"]}, (
            "a snapshot stays while a sandbox needs it"
        )
        refused = await site.run("retained", f"--delete={taken['id']}")
        assert refused.code == 1
        assert "a sandbox was created from it" in refused.errors

        await set_spec(system, other_id, {"lifecycle": {"deletionPolicy": "Retain"}})
        await system.kubectl("delete", names.PLURAL, names.resource_name(other_id), "--timeout=60s")
        assert {each.state for each in await sandboxes_of(system, other_id)} == {"killed"}
        (retained,) = await kept_in_e2b(system, other_id)
        assert retained in await run(site, "retained")
        assert "2 of deleted sessions" in (await site.run("doctor")).output
        for left_by in (retained, other_id, fork.id):
            assert retained in await run(site, "retained", f"--adopt={left_by}", f"--to={third_id}")
        assert "own" in await turn(system, third, f"cat {FILE}")
        await run(site, "retained", f"--delete={taken['id']}")
        assert await kept_in_e2b(system, first_id, other_id) == {retained}
