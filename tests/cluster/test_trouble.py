"""What goes wrong outside: a condition that names it, an Event, a retry; other sessions go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of, told, warned
from ..support.systems import local_system
from ..support.waiting import eventually

ENVIRONMENT_KEY = "anthropic-environment-key"
E2B_KEY = "e2b-api-key"


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "attach_timeout_seconds": "3"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        (ENVIRONMENT_KEY, "EnvironmentCredentialRejected"),
        (E2B_KEY, "SandboxCredentialRejected"),
    ],
)
async def test_refused_credential_is_named_and_the_turn_is_served_once_it_is_replaced(
    system: LocalSystem, credential: str, reason: str
) -> None:
    good = (system.operator.credentials / credential).read_text().strip()
    system.operator.set_credential(credential, "wrong-and-long-enough-to-be-seen")
    try:
        async with begin(system) as conversation:
            await conversation.send("Run: echo served after all")
            condition = await becomes(system, conversation.session_id, reason)
            assert "wrong-and-long-enough" not in condition["message"]

            await warned(system, conversation.session_id, reason)
            system.operator.set_credential(credential, good)
            assert "served after all" in await conversation.answer()
    finally:
        system.operator.set_credential(credential, good)


async def test_key_without_rights_is_named_and_the_turn_is_served_once_it_has_them(
    system: LocalSystem,
) -> None:
    refusal = {"code": 403, "message": "this API key may not create sandboxes"}
    await system.e2b_admin.add_fault("create", {"status": 403, "body": refusal}, times=10_000)
    async with begin(system) as troubled, begin(system) as other:
        try:
            await troubled.send("Run: echo served after all")
            condition = await becomes(system, troubled.session_id, "SandboxCredentialRejected")
            assert "may not create sandboxes" in condition["message"]
            await warned(system, troubled.session_id, "SandboxCredentialRejected")
        finally:
            await system.e2b_admin.clear_faults()
        assert "served after all" in await troubled.answer()
        assert "fine" in await other.say("Run: echo fine")


async def test_missing_credential_is_named_and_the_turn_is_served_once_it_is_there(
    system: LocalSystem,
) -> None:
    good = (system.operator.credentials / E2B_KEY).read_text().strip()
    system.operator.set_credential(E2B_KEY, None)
    try:
        async with begin(system) as conversation:
            await conversation.send("Run: echo served after all")
            condition = await becomes(system, conversation.session_id, "CredentialMissing")
            assert "e2b-api-key" in condition["message"]
            system.operator.set_credential(E2B_KEY, good)
            assert "served after all" in await conversation.answer()
    finally:
        system.operator.set_credential(E2B_KEY, good)


async def test_unknown_template_stops_its_session_and_no_other(system: LocalSystem) -> None:
    async with begin(system) as troubled, begin(system) as other:
        name = names.resource_name(troubled.session_id)

        async def there() -> bool:
            return bool(await resource(system, troubled.session_id))

        await eventually("the resource is there before the first message", there)
        await system.kubectl(
            "patch", names.PLURAL, name, "--type=merge", "--patch",
            json.dumps({"spec": {"sandbox": {"template": "no-such-template:1"}}}),
        )  # fmt: skip
        await troubled.send("Run: echo served after all")
        condition = await becomes(system, troubled.session_id, "TemplateNotFound")
        assert "no-such-template" in condition["message"]
        await warned(system, troubled.session_id, "TemplateNotFound")

        assert "fine" in await other.say("Run: echo fine")

        await system.kubectl(
            "patch", names.PLURAL, name, "--type=merge", "--patch",
            json.dumps({"spec": {"sandbox": {"template": None}}}),
        )  # fmt: skip
        assert "served after all" in await troubled.answer()


async def test_reached_quota_is_named_and_the_turn_waits_for_a_place(system: LocalSystem) -> None:
    await eventually("all sandboxes are paused", lambda: no_sandbox_runs(system))
    await system.e2b_admin.change_settings(max_concurrent_sandboxes=1)
    try:
        async with begin(system) as first, begin(system) as second:
            await first.send(f"Run: {WAIT}; echo first done")

            async def running() -> bool:
                return bool(await sandboxes_of(system, first.session_id, "running"))

            await eventually("the first session's sandbox runs", running)
            await second.send("Run: echo second done")
            await becomes(system, second.session_id, "SandboxQuotaExceeded")
            await warned(system, second.session_id, "SandboxQuotaExceeded")
            (sandbox,) = await sandboxes_of(system, first.session_id)
            let_go(sandbox)
            assert "first done" in await first.answer()
            assert "second done" in await second.answer()
    finally:
        await system.e2b_admin.change_settings(max_concurrent_sandboxes=100)


async def no_sandbox_runs(system: LocalSystem) -> bool:
    return not await system.e2b_admin.sandboxes("running")


async def test_session_of_another_environment_is_not_served_and_leaves_nothing(system: LocalSystem) -> None:
    foreign_environment, _ = await system.anthropic_admin.add_environment()
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=foreign_environment
    )
    await system.user.beta.sessions.events.send(
        session.id, events=[{"type": "user.message", "content": [{"type": "text", "text": "Run: true"}]}]
    )
    log = system.operator.log

    async def removed() -> bool:
        return f'"{session.id}"' in log.read_text() and not await resource(system, session.id)

    await eventually("the resource that the webhook made is removed", removed)
    assert await sandboxes_of(system, session.id) == []


async def test_session_without_a_message_is_stopped_without_a_sandbox_and_served_when_one_comes(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:

        async def stopped() -> bool:
            items, _ = await system.anthropic_admin.work()
            return any(
                item["data"]["id"] == conversation.session_id and item["state"] == "stopped" for item in items
            )

        await eventually("its work is stopped", stopped)
        await becomes(system, conversation.session_id, "Idle", status="True")
        assert await sandboxes_of(system, conversation.session_id) == []
        assert "late" in await conversation.say("Run: echo late")


@pytest.mark.parametrize("how", ["archive", "delete"])
async def test_ended_session_is_noticed_and_its_sandbox_goes(system: LocalSystem, how: str) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo bye")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        if how == "archive":
            await system.user.beta.sessions.archive(session_id)
            await becomes(system, session_id, "SessionEnded")
            await told(system, session_id, "SessionEnded")
            assert await paused(system, session_id), "kept, unbilled, for ttlSecondsAfterEnd"
            await system.kubectl(
                "patch", names.PLURAL, names.resource_name(session_id), "--type=merge", "--patch",
                json.dumps({"spec": {"lifecycle": {"ttlSecondsAfterEnd": 0}}}),
            )  # fmt: skip
        else:
            await system.user.beta.sessions.delete(session_id)

        async def gone() -> bool:
            states = {sandbox.state for sandbox in await sandboxes_of(system, session_id)}
            return states == {"killed"} and not await resource(system, session_id)

        await eventually("sandbox and resource are gone", gone)


async def test_second_resource_for_a_session_says_that_another_one_serves_it(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: echo one")
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "made-by-hand"},
            "spec": {"sessionID": conversation.session_id, "environmentID": system.clouds.environment_id},
        }
        await system.kubectl("create", "--filename=-", input=json.dumps(body))
        await system.kubectl(
            "wait", f"{names.PLURAL}/made-by-hand", "--timeout=50s",
            "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=DuplicateSession",
        )  # fmt: skip
        assert "two" in await conversation.say("Run: echo two")
        await system.kubectl("delete", names.PLURAL, "made-by-hand", "--timeout=50s")
        assert len(await sandboxes_of(system, conversation.session_id)) == 1


async def test_suspended_session_is_paused_and_served_again_when_it_is_resumed(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: echo one")
        await eventually("the turn is over", lambda: paused(system, conversation.session_id))
        name = names.resource_name(conversation.session_id)
        for suspend in (True, False):
            await system.kubectl(
                "patch", names.PLURAL, name, "--type=merge", "--patch",
                json.dumps({"spec": {"lifecycle": {"suspend": suspend}}}),
            )  # fmt: skip
            if suspend:
                await becomes(system, conversation.session_id, "Suspended")
                await conversation.send("Run: echo two")
        assert "two" in await conversation.answer()
        assert len(await sandboxes_of(system, conversation.session_id)) == 1


async def test_vanished_sandbox_is_replaced_and_the_loss_is_said(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo kept > /mnt/session/kept")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        (sandbox,) = await sandboxes_of(system, session_id)
        await system.e2b_admin.vanish(sandbox.id)
        assert "empty" in await conversation.say("Run: cat /mnt/session/kept || echo empty")
        conditions = (await resource(system, session_id))["status"]["conditions"]
        lost = next(each for each in conditions if each["type"] == "WorkspaceLost")
        assert (lost["status"], lost["reason"]) == ("True", "SandboxVanished")


async def test_sandbox_without_a_resource_is_killed_and_one_of_others_is_left_alone(
    system: LocalSystem,
) -> None:
    import e2b

    client = e2b.E2B(
        api_key=system.clouds.e2b_options["api_key"],
        api_url=system.e2b_admin.url,
        sandbox_url=system.e2b_admin.url,
    )
    template = "managed-session-worker:0.1.0"
    orphan = await client.AsyncSandbox.create(
        template,
        metadata={names.METADATA_INSTALLATION: system.installation_id, names.METADATA_RESOURCE_UID: "none"},
    )
    foreign = await client.AsyncSandbox.create(
        template, metadata={names.METADATA_INSTALLATION: "another", names.METADATA_RESOURCE_UID: "none"}
    )
    by_hand = await client.AsyncSandbox.create(template)

    async def killed() -> bool:
        return (await system.e2b_admin.sandbox(orphan.sandbox_id)).state == "killed"

    await eventually("the orphan is killed", killed)
    assert (await system.e2b_admin.sandbox(foreign.sandbox_id)).state == "running"
    assert (await system.e2b_admin.sandbox(by_hand.sandbox_id)).state == "running"
    await foreign.kill()
    await by_hand.kill()
