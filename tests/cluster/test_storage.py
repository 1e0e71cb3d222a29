"""Volumes and buckets of sessions, with real FUSE and a real S3 server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.object_store.server import ObjectStore
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import apply_class, class_becomes
from ..support.object_store import BUCKET, KEY_ID, SECRET, object_store
from ..support.sessions import QUICK, becomes, begin, condition, resource, sandboxes_of, written_down
from ..support.systems import local_system
from ..support.waiting import eventually

SECRET_NAME = "bucket-key"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane, store: ObjectStore) -> AsyncIterator[LocalSystem]:  # noqa: ARG001 - skips without FUSE
    e2b = {"fuse": True, "volumes_enabled": True}
    async with local_system(control_plane, operator_settings=QUICK, e2b_settings=e2b) as running:
        await put_secret(running)
        yield running


def bucket(store: ObjectStore, **more: Any) -> dict[str, Any]:
    reference = {"name": SECRET_NAME}
    return {
        "type": "S3",
        "bucket": BUCKET,
        "path": "/mnt/data",
        "endpoint": store.url,
        "secretRef": reference,
        **more,
    }


async def put_secret(system: LocalSystem, secret: str = SECRET) -> None:
    data = {"access-key-id": KEY_ID, "secret-access-key": secret}
    metadata = {"name": SECRET_NAME}
    await apply(system, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})


async def apply(system: LocalSystem, body: dict[str, Any]) -> None:
    await system.kubectl(
        "apply", "--server-side", "--force-conflicts", "--filename=-", input=json.dumps(body)
    )


async def give(system: LocalSystem, **sandbox: Any) -> None:
    """Give this to the sandboxes of the sessions that begin from now on."""
    await apply_class(system, "storage", {"session": {"sandbox": sandbox}})
    await class_becomes(system, "storage", "Ready")


async def test_agent_uses_a_bucket_through_a_pause_and_after_a_lost_sandbox(
    system: LocalSystem, store: ObjectStore
) -> None:
    await give(system, buckets=[bucket(store)])
    async with begin(system) as conversation:
        session = conversation.session_id
        await conversation.say("Run: echo one > /mnt/data/notes")
        assert store.get(BUCKET, "notes") == "one\n"
        await eventually("the sandbox is paused", lambda: written_down(system, session))
        assert await conversation.say("Run: echo two >> /mnt/data/notes && cat /mnt/data/notes") == "one\ntwo"
        await eventually("the sandbox is paused", lambda: written_down(system, session))
        [sandbox] = await sandboxes_of(system, session)
        await system.e2b_admin.vanish(sandbox.id)
        assert (await conversation.say("Run: cat /mnt/data/notes")).endswith("]\none\ntwo")
        assert len(await sandboxes_of(system, session)) == 2
        assert SECRET not in json.dumps(await resource(system, session))


async def test_wrong_key_is_told_and_the_right_one_lets_the_turn_begin(
    system: LocalSystem, store: ObjectStore
) -> None:
    await give(system, buckets=[bucket(store)])
    await put_secret(system, "wrong-" + SECRET)
    async with begin(system) as conversation, asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(conversation.say("Run: echo right > /mnt/data/key"))
        told = await becomes(system, conversation.session_id, Reason.MOUNT_FAILED)
        assert "sandbox.buckets[0] (/mnt/data): s3fs ended" in told["message"]
        assert "result of checking service" in told["message"]
        assert SECRET not in told["message"]
        await put_secret(system)
        await answer
        assert store.get(BUCKET, "key") == "right\n"


async def test_deletion_stores_a_file_that_is_still_open(system: LocalSystem, store: ObjectStore) -> None:
    await give(system, buckets=[bucket(store)])
    async with begin(system) as conversation:
        session = conversation.session_id
        code = "import time; f = open('/mnt/data/open', 'w'); f.write('kept'); f.flush(); time.sleep(1000)"
        await conversation.say(f'Run: python3 -c "{code}" & until test -e /mnt/data/open; do sleep 0.1; done')
        assert store.get(BUCKET, "open") != "kept"
        await system.kubectl("delete", names.PLURAL, names.resource_name(session))
        assert store.get(BUCKET, "open") == "kept"


async def test_sessions_share_a_volume_that_the_operator_creates(system: LocalSystem) -> None:
    await give(system, volumes=[{"name": "shared", "path": "/mnt/shared", "create": True}])
    async with begin(system) as one, begin(system) as other:
        await one.say("Run: echo hello > /mnt/shared/file")
        assert await other.say("Run: cat /mnt/shared/file && id -un") == "hello\nagent"
    volumes = await system.e2b_admin.ledger(operation="create_volume")
    assert [call["status"] for call in volumes.calls] == [201]


async def test_volume_that_e2b_cannot_give_is_told(system: LocalSystem) -> None:
    await give(system, volumes=[{"name": "missing", "path": "/mnt/shared"}])
    async with begin(system) as conversation, asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(conversation.say("Run: echo done > /mnt/shared/file"))
        told = await becomes(system, conversation.session_id, Reason.VOLUME_UNAVAILABLE)
        assert "no volume missing" in told["message"]
        await system.e2b_admin.change_settings(volumes_enabled=False)

        async def refused() -> bool:
            found = await condition(system, conversation.session_id)
            return "not enabled" in found.get("message", "")

        await eventually("the refusal is told", refused)
        await system.e2b_admin.change_settings(volumes_enabled=True)
        await give(system, volumes=[{"name": "missing", "path": "/mnt/shared", "create": True}])
        await answer
