"""Mounted buckets: the server is gone, the program dies, the operator dies as they are mounted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.object_store.server import ObjectStore

from ...support.arrangements import QUEUE_ONLY
from ...support.classes import only_sandbox
from ...support.held import WAIT, let_go
from ...support.object_store import BUCKET, KEY_ID, SECRET, object_store
from ...support.sessions import becomes, sandboxes_of
from ...support.waiting import eventually
from ..effects import Effect
from ..own_class import own_class
from ..row import Row
from ..scenario import Scenario

FAMILY = "storage"
FILE = "/mnt/data/notes"
PROGRAM = "s3fs"


@asynccontextmanager
async def _with_bucket(scenario: Scenario) -> AsyncIterator[tuple[Conversation, ObjectStore]]:
    """A session whose sandbox has a bucket, and the bucket's server."""
    with object_store() as store:
        await scenario.e2b_settings(fuse=True)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "bucket"},
            "stringData": {"access-key-id": KEY_ID, "secret-access-key": SECRET},
        }
        await scenario.system.kubectl("apply", "--filename=-", input=json.dumps(secret))
        bucket = {
            "type": "S3",
            "bucket": BUCKET,
            "path": "/mnt/data",
            "endpoint": store.url,
            "secretRef": {"name": "bucket"},
        }
        async with own_class(scenario, sandbox={"buckets": [bucket]}) as agent:
            yield await scenario.begin(agent), store
            await scenario.system.kubectl("delete", "secret", "bucket")


async def _server_is_gone_at_a_resume(scenario: Scenario) -> None:
    """The work stays in the queue, the resource says why, and the server's return is enough."""
    async with _with_bucket(scenario) as (conversation, store):
        await scenario.say(conversation, f"Run: echo one > {FILE}")
        await scenario.settled(conversation)
        store.down()
        await scenario.send(conversation, f"Run: echo two >> {FILE}; cat {FILE}")
        failed = await becomes(scenario.system, conversation.session_id, "MountFailed")
        assert "/mnt/data" in failed["message"]
        assert SECRET not in failed["message"]
        store.up()
        assert await conversation.answer() == "one\ntwo"
        await scenario.settled(conversation)


async def _program_is_killed_in_a_turn(scenario: Scenario) -> None:
    """The agent gets an error; its next turn has the files again."""
    async with _with_bucket(scenario) as (conversation, store):
        await scenario.send(conversation, f"Run: echo one > {FILE}; {WAIT}; cat {FILE} 2>&1 || echo answered")

        async def stored() -> bool:
            return store.get(BUCKET, "notes") == "one\n"

        await eventually("the file is stored", stored)
        sandbox = await only_sandbox(scenario.system, conversation.session_id)
        assert await scenario.system.e2b_admin.kill_processes(sandbox.id, contains=PROGRAM)
        let_go(sandbox)
        assert "not connected" in await conversation.answer()
        await scenario.settled(conversation)
        assert await scenario.say(conversation, f"Run: cat {FILE}") == "one"
        await scenario.settled(conversation)


async def _operator_is_killed(scenario: Scenario) -> None:
    """The next operator finds it mounted, or mounts it: its program runs once."""
    async with _with_bucket(scenario) as (conversation, store):
        held = await scenario.hold(Effect("e2b", "process_start"), after_commit=True)
        await scenario.send(conversation, f"Run: echo one > {FILE}; {WAIT}; cat {FILE}")

        async def programs() -> int:
            running = await sandboxes_of(scenario.system, conversation.session_id, "running")
            return sum(PROGRAM in each.command for sandbox in running for each in sandbox.processes)

        await held.reached()
        await eventually("it is being mounted", programs)
        await scenario.system.operator.kill()
        held.lose()
        await scenario.calm()
        await scenario.system.operator.restart()

        async def stored() -> bool:
            return store.get(BUCKET, "notes") == "one\n"

        await eventually("the file is stored", stored)
        assert await programs() == 1
        let_go(await only_sandbox(scenario.system, conversation.session_id))
        assert await conversation.answer() == "one"
        await scenario.settled(conversation)


ROWS = [
    Row(FAMILY, name, play, arrangement=QUEUE_ONLY)
    for name, play in (
        ("a bucket's server is gone at a resume and comes back", _server_is_gone_at_a_resume),
        ("the program that serves a bucket is killed in a turn", _program_is_killed_in_a_turn),
        ("the operator is killed while a bucket is mounted", _operator_is_killed),
    )
]
