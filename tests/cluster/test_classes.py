"""Classes in a running system: who gets which, what it brings, and what a change does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_cli.worker_template import ensure_template
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import (
    DENIED,
    change_class,
    class_becomes,
    class_known,
    class_of,
    class_status,
    delete_classes,
    denied,
    effective,
    make_class,
    of_the_agents_name,
    only_sandbox,
    policy_says,
)
from ..support.sessions import QUICK, becomes, begin, paused, resource, resyncs_pass, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    # Work waits for its message, so that a class is there before its session starts.
    async with local_system(control_plane, operator_settings={**QUICK, "max_idle_seconds": "2"}) as running:
        yield running


@pytest.fixture
async def system(shared: LocalSystem) -> AsyncIterator[LocalSystem]:
    yield shared
    await delete_classes(shared)


def gold(system: LocalSystem, **more: Any) -> dict[str, Any]:
    """The spec of a class for the system's agent."""
    session = {
        "sandbox": {"metadata": {"team": "gold"}, "env": {"TEAM": "gold"}, "network": {"deny": [DENIED]}}
    }
    return {"selector": {"agentIDs": [system.agent_id]}, "session": session, **more}


@asynccontextmanager
async def begin_in_gold(system: LocalSystem, **more: Any) -> AsyncIterator[Conversation]:
    """A new session of the system's agent, whose class the operator knows."""
    await make_class(system, "gold", gold(system, **more))
    async with begin(system) as conversation:
        yield conversation


async def idle(system: LocalSystem, conversation: Conversation) -> None:
    await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
    await becomes(system, conversation.session_id, "Idle", status="True")


async def test_a_session_gets_what_its_class_says_and_its_status_says_from_where(system: LocalSystem) -> None:
    async with begin_in_gold(system) as conversation:
        assert "gold" in await conversation.say("Run: echo $TEAM")
        session_id = conversation.session_id
        await idle(system, conversation)
        sandbox = await only_sandbox(system, session_id)
        assert sandbox.metadata["team"] == "gold"
        assert await denied(system, session_id) == [DENIED]
        values = await effective(system, session_id)
        assert values["network"]["deny"] == [DENIED]
        assert values["origins"]["network"] == "class/gold@1"
        assert values["origins"]["template"] == "settings"
        recorded = (await resource(system, session_id))["status"]["class"]
        assert (recorded["name"], recorded["generation"]) == ("gold", 1)
        assert await policy_says(system, session_id, None) == ""
        listed = await system.kubectl(
            "get", names.PLURAL, "--field-selector=status.class.name=gold", "--output=name"
        )
        assert names.resource_name(session_id) in listed
        await class_becomes(system, "gold", "Ready")

        async def counted() -> bool:
            return bool((await class_status(system, "gold"))["sessions"] >= 1)

        await eventually("the class has counted its session", counted)


async def test_a_class_selects_by_the_name_of_the_agent_and_by_metadata(system: LocalSystem) -> None:
    agent = await system.user.beta.agents.retrieve(system.agent_id)
    both = {"agentNames": [agent.name], "sessionMetadata": {"matchLabels": {"team": "a"}}}
    await make_class(system, "named", {"selector": both, "session": {"sandbox": {"metadata": {"n": "1"}}}})
    await make_class(system, "rest", {})
    for metadata, expected in (({"team": "a"}, "named"), ({"team": "b"}, "rest")):
        session = await system.user.beta.sessions.create(
            agent=system.agent_id, environment_id=system.clouds.environment_id, metadata=metadata
        )
        async with Conversation.join(system.user, session.id) as conversation:
            await conversation.say("Run: true")
            assert await class_of(system, session.id) == expected


async def test_two_classes_have_two_templates(system: LocalSystem) -> None:
    await ensure_template("managed-session-worker-second:1", **system.clouds.e2b_options)
    for name in ("first", "second"):
        selector = {"sessionMetadata": {"matchLabels": {"template": name}}}
        sandbox = (
            {"template": f"managed-session-worker-{name}:1"} if name == "second" else {"env": {"A": "1"}}
        )
        await make_class(system, name, {"selector": selector, "session": {"sandbox": sandbox}})
    for name, template in (("first", "managed-session-worker"), ("second", "managed-session-worker-second")):
        session = await system.user.beta.sessions.create(
            agent=system.agent_id,
            environment_id=system.clouds.environment_id,
            metadata={"template": name},
        )
        async with Conversation.join(system.user, session.id) as conversation:
            await conversation.say("Run: true")
            assert (await only_sandbox(system, session.id)).alias == template


async def test_network_rules_change_in_the_running_sandbox_and_the_rest_with_the_next(
    system: LocalSystem,
) -> None:
    async with begin_in_gold(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: while ! test -e /mnt/session/go; do sleep 0.1; done; echo went")

        async def runs() -> bool:
            return bool(await sandboxes_of(system, session_id, "running"))

        await eventually("the sandbox runs", runs)
        await becomes(system, session_id, "Running", status="True")
        session = {"sandbox": {"network": {"deny": [DENIED, "203.0.113.0/24"]}, "metadata": {"team": "new"}}}
        await change_class(system, "gold", session=session)

        async def changed() -> bool:
            return await denied(system, session_id) == [DENIED, "203.0.113.0/24"]

        await eventually("the running sandbox has the new rules", changed)
        assert "metadata" in await policy_says(system, session_id, "ClassChanged")
        values = await effective(system, session_id)
        assert values["origins"]["network"] == "class/gold@2"
        assert (values["metadata"], values["origins"]["metadata"]) == ({"team": "gold"}, "class/gold@1")
        (await only_sandbox(system, session_id)).path("/mnt/session/go").touch()
        assert "went" in await conversation.answer()
        await idle(system, conversation)
        # A sandbox that sleeps gets changed rules before its next worker starts.
        await change_class(system, "gold", session={"sandbox": {"network": {"deny": ["0.0.0.0/0"]}}})
        await class_known(system, "gold")
        await conversation.say("Run: true")
        assert await denied(system, session_id) == ["0.0.0.0/0"]
        # The next sandbox has everything.
        await idle(system, conversation)
        await system.e2b_admin.vanish((await only_sandbox(system, session_id)).id)
        await conversation.say("Run: true")
        assert (await only_sandbox(system, session_id)).metadata["team"] == "new"
        await policy_says(system, session_id, None)


async def test_of_two_classes_with_the_same_precedence_none_is_chosen(system: LocalSystem) -> None:
    async with begin(system) as kept:
        await make_class(system, "gold", gold(system))
        await kept.say("Run: true")
        # The API server cannot know that both match.
        await make_class(system, "silver", await of_the_agents_name(system))
        async with begin(system) as conversation:
            await conversation.send("Run: echo served")
            told = await becomes(system, conversation.session_id, "AmbiguousClass")
            assert "gold, silver" in told["message"]
            assert "gold, silver" in await policy_says(system, conversation.session_id, "AmbiguousClass")
            assert not await sandboxes_of(system, conversation.session_id)
            await class_becomes(system, "gold", "Ambiguous")
            await class_becomes(system, "silver", "Ambiguous")
            assert "kept" in await kept.say("Run: echo kept"), "it keeps the class that it has"
            await change_class(system, "silver", precedence=1)
            assert "served" in await conversation.answer()
            assert await class_of(system, conversation.session_id) == "silver"
            await policy_says(system, conversation.session_id, None)
            await class_becomes(system, "gold", "Ready")


async def test_a_locked_field_is_not_obeyed_and_named(system: LocalSystem) -> None:
    # By name: the API server cannot know the class of a new session.
    selected = await of_the_agents_name(system)
    async with begin_in_gold(system, locked=["network"], **selected) as conversation:
        session_id = conversation.session_id

        async def known() -> bool:
            return bool(await resource(system, session_id))

        await eventually("the resource is there", known)
        spec = {"spec": {"sandbox": {"network": {"deny": ["203.0.113.0/24"]}}}}
        await system.kubectl(
            "patch", names.PLURAL, names.resource_name(session_id), "--type=merge",
            f"--patch={json.dumps(spec)}",
        )  # fmt: skip
        await conversation.say("Run: true")
        assert "network" in await policy_says(system, session_id, "LockedField")
        assert await denied(system, session_id) == [DENIED]
        await change_class(system, "gold", locked=[])
        await policy_says(system, session_id, None)
        await conversation.say("Run: true")
        assert await denied(system, session_id) == ["203.0.113.0/24"]


async def test_without_its_class_a_session_is_served_with_the_settings_from_its_next_turn_on(
    system: LocalSystem,
) -> None:
    async with begin_in_gold(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: true")
        await idle(system, conversation)
        await delete_classes(system, "gold")
        assert "answered" in await conversation.say("Run: echo answered")
        await idle(system, conversation)
        status = (await resource(system, session_id))["status"]
        assert "class" not in status
        origins = status["effective"]["origins"]
        assert (origins["network"], origins["metadata"]) == ("settings", "class/gold@1")
        assert await denied(system, session_id) == [], "the rules went with the class"
        assert "metadata" in await policy_says(system, session_id, "ClassChanged")


async def test_a_settled_system_with_classes_writes_nothing(system: LocalSystem) -> None:
    async with begin_in_gold(system) as conversation:
        await conversation.say("Run: true")
        await idle(system, conversation)

        async def counted() -> bool:
            return (await class_status(system, "gold")).get("activeSandboxes") == 0

        await eventually("the class has counted the pause", counted)
        read = [
            await resource(system, conversation.session_id),
            json.loads(await system.kubectl("get", names.CLASS_PLURAL, "gold", "--output=json")),
        ]
        await change_class(system, "gold", limits={"weight": 7})
        await class_known(system, "gold")
        await resyncs_pass(system, 3)
        after = await resource(system, conversation.session_id)
        assert after["metadata"]["resourceVersion"] == read[0]["metadata"]["resourceVersion"]
