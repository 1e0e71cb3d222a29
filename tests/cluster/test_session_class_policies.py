"""What the API server rejects with regard to classes: locked fields of sessions, and ambiguous classes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError
from managed_session_devkit.system.manifests import install

from ..support.systems import unique_name
from ..support.waiting import eventually

DENY = {"sandbox": {"network": {"deny": ["0.0.0.0/0"]}}}
AGENT = {"agentIDs": ["agent_1"]}


class Namespace:
    """One namespace of an API server with the manifests of `deploy/`."""

    def __init__(self, control_plane: ControlPlane, name: str) -> None:
        self._control_plane = control_plane
        self._name = name

    async def kubectl(self, *arguments: str, body: Any = None) -> str:
        text = None if body is None else json.dumps(body)
        return await self._control_plane.kubectl(f"--namespace={self._name}", *arguments, input=text)

    async def refusal(self, *arguments: str, body: Any = None) -> str:
        """Return why the API server refuses this; empty where it does not. Nothing is changed."""
        try:
            await self.kubectl(*arguments, "--dry-run=server", body=body)
        except KubectlError as error:
            return str(error)
        return ""

    async def refusal_of_session(self, **spec: Any) -> str:
        body = session("new", **spec)
        return await self.refusal("create", "--filename=-", body=body)

    async def refusal_of_change(self, name: str, spec: dict[str, Any]) -> str:
        return await self.refusal(*patch(names.PLURAL, name, {"spec": spec}))

    async def refusal_of_class(self, **spec: Any) -> str:
        return await self.refusal("create", "--filename=-", body=session_class("new", **spec))

    async def create(self, body: dict[str, Any]) -> None:
        """Create it. For a class the operator has seen that no other one may be chosen instead."""
        await self.kubectl("create", "--filename=-", body=body)
        if body["kind"] == names.CLASS_KIND:
            seen = {"outrankedBy": [], "observedGeneration": 1}
            await self.record(names.CLASS_PLURAL, body["metadata"]["name"], seen)

    async def record(self, plural: str, name: str, status: dict[str, Any]) -> None:
        """Write a status as the operator does."""
        await self.kubectl(*patch(plural, name, {"status": status}), "--subresource=status")

    async def locks(self, **spec: Any) -> None:
        """Wait until a class that was just written is in force."""

        async def refused() -> bool:
            return await self.refusal_of_session(**spec) != ""

        await eventually("the API server has taken up the class", refused)


def patch(plural: str, name: str, change: dict[str, Any]) -> tuple[str, ...]:
    return ("patch", plural, name, "--type=merge", f"--patch={json.dumps(change)}")


def session(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {"sessionID": f"sesn_{name}", **spec},
    }


def session_class(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CLASS_KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="module")
async def installed(control_plane: ControlPlane) -> AsyncIterator[ControlPlane]:
    """The manifests, with both policies in force."""
    name = unique_name()
    await install(control_plane, name, f"{name}-system")
    probe = Namespace(control_plane, name)
    await probe.create(session_class("probe", selector=AGENT, locked=["network"]))

    async def in_force() -> bool:
        return (
            await probe.refusal_of_session(agentID="agent_1", **DENY) != ""
            and await probe.refusal_of_class(selector=AGENT) != ""
        )

    await eventually("the API server has taken up the policies", in_force)
    yield control_plane
    await probe.kubectl("delete", names.CLASS_PLURAL, "--all")


@pytest.fixture
async def namespace(installed: ControlPlane) -> Namespace:
    name = unique_name()
    await installed.kubectl("create", "namespace", name)
    return Namespace(installed, name)


async def test_a_locked_field_is_refused_and_the_message_says_what_to_remove(namespace: Namespace) -> None:
    await namespace.create(session_class("gold", selector=AGENT, locked=["network", "logLevel", "template"]))
    await namespace.locks(agentID="agent_1", **DENY)
    refusal = await namespace.refusal_of_session(agentID="agent_1", **DENY, worker={"logLevel": "DEBUG"})
    assert 'the ManagedSessionClass "gold" serves this session and locks network, logLevel' in refusal
    assert "remove these fields from the session, or from spec.locked of the class" in refusal


@pytest.mark.parametrize(
    "spec",
    [
        {"agentID": "agent_1"},
        {"agentID": "agent_1", "sandbox": {"timeoutSeconds": 60}, "lifecycle": {"suspend": True}},
        {"agentID": "agent_1", "sandbox": {"env": {}}},
        {"agentID": "agent_2", **DENY},
        DENY,
    ],
    ids=json.dumps,
)
async def test_what_is_not_locked_for_the_session_is_taken(
    namespace: Namespace, spec: dict[str, Any]
) -> None:
    await namespace.create(session_class("gold", selector=AGENT, locked=["network", "env"]))
    await namespace.locks(agentID="agent_1", **DENY)
    assert await namespace.refusal_of_session(**spec) == ""


@pytest.mark.parametrize(
    ("locked", "spec"),
    [
        ("template", {"sandbox": {"template": "own"}}),
        ("timeoutSeconds", {"sandbox": {"timeoutSeconds": 60}}),
        ("metadata", {"sandbox": {"metadata": {"a": "b"}}}),
        ("env", {"sandbox": {"env": {"A": "b"}}}),
        ("network", {"sandbox": {"network": {}}}),
        ("autoResume", {"sandbox": {"autoResume": False}}),
        ("allowPublicTraffic", {"sandbox": {"allowPublicTraffic": True}}),
        ("maxIdleSeconds", {"worker": {"maxIdleSeconds": 5}}),
        ("minIdleSeconds", {"worker": {"minIdleSeconds": 5}}),
        ("attachTimeoutSeconds", {"worker": {"attachTimeoutSeconds": 5}}),
        ("maxParallelCalls", {"worker": {"maxParallelCalls": 5}}),
        ("logLevel", {"worker": {"logLevel": "INFO"}}),
        ("idleTTLSeconds", {"lifecycle": {"idleTTLSeconds": 0}}),
        ("ttlSecondsAfterEnd", {"lifecycle": {"ttlSecondsAfterEnd": 0}}),
        ("onSandboxLost", {"lifecycle": {"onSandboxLost": "Fail"}}),
    ],
)
async def test_each_field_can_be_locked(namespace: Namespace, locked: str, spec: dict[str, Any]) -> None:
    await namespace.create(session_class("gold", selector=AGENT, locked=[locked]))
    await namespace.locks(agentID="agent_1", **spec)
    assert f"locks {locked}:" in await namespace.refusal_of_session(agentID="agent_1", **spec)


async def test_a_default_class_locks_once_it_is_known_that_no_other_may_be_chosen(
    namespace: Namespace,
) -> None:
    await namespace.create(session_class("usual", locked=["network"]))
    await namespace.record(names.CLASS_PLURAL, "usual", {"outrankedBy": ["gold"]})
    await namespace.create(session_class("other", selector=AGENT, locked=["network"]))
    await namespace.locks(agentID="agent_1", **DENY)
    assert await namespace.refusal_of_session(**DENY) == ""
    await namespace.record(names.CLASS_PLURAL, "usual", {"outrankedBy": []})
    await namespace.locks(**DENY)


async def test_a_class_of_which_the_operator_has_not_said_what_outranks_it_is_left_to_the_operator(
    namespace: Namespace,
) -> None:
    unseen = session_class("new", selector=AGENT, locked=["network"])
    await namespace.kubectl("create", "--filename=-", body=unseen)
    await namespace.create(session_class("old", selector={"agentIDs": ["agent_2"]}, locked=["network"]))
    await namespace.locks(agentID="agent_2", **DENY)
    assert await namespace.refusal_of_session(agentID="agent_1", **DENY) == ""
    await namespace.kubectl(*patch(names.CLASS_PLURAL, "old", {"spec": {"precedence": -1}}))

    async def taken() -> bool:
        return await namespace.refusal_of_session(agentID="agent_2", **DENY) == ""

    await eventually("the API server has taken up the change", taken)


async def test_a_class_that_is_outranked_is_left_to_the_operator(namespace: Namespace) -> None:
    await namespace.create(session_class("low", selector=AGENT, locked=["network"]))
    await namespace.locks(agentID="agent_1", **DENY)
    await namespace.record(names.CLASS_PLURAL, "low", {"outrankedBy": ["high"]})

    async def taken() -> bool:
        return await namespace.refusal_of_session(agentID="agent_1", **DENY) == ""

    await eventually("the API server has taken up the status", taken)


@pytest.mark.parametrize(
    "selector", [{"agentNames": ["Ann"]}, AGENT | {"sessionMetadata": {"matchLabels": {"tier": "gold"}}}]
)
async def test_a_class_that_only_the_operator_can_match_refuses_once_it_is_recorded(
    namespace: Namespace, selector: dict[str, Any]
) -> None:
    await namespace.create(session_class("gold", selector=selector, locked=["network"]))
    await namespace.create(session_class("other", selector={"agentIDs": ["agent_2"]}, locked=["network"]))
    await namespace.locks(agentID="agent_2", **DENY)
    assert await namespace.refusal_of_session(agentID="agent_1", **DENY) == ""
    await namespace.create(session("old", agentID="agent_1"))
    assert await namespace.refusal_of_change("old", DENY) == ""
    await namespace.record(names.PLURAL, "old", {"class": {"name": "gold", "generation": 1}})
    assert 'the ManagedSessionClass "gold" serves this session' in await namespace.refusal_of_change(
        "old", DENY
    )


async def test_the_recorded_class_decides_and_not_one_that_would_match_too(namespace: Namespace) -> None:
    await namespace.create(session_class("gold", selector=AGENT, locked=["network"]))
    await namespace.create(session("old", agentID="agent_1"))
    await namespace.record(names.PLURAL, "old", {"class": {"name": "silver", "generation": 1}})
    await namespace.locks(agentID="agent_1", **DENY)
    assert await namespace.refusal_of_change("old", DENY) == ""


async def test_a_session_from_before_the_lock_can_still_be_changed(namespace: Namespace) -> None:
    await namespace.create(session("old", agentID="agent_1", **DENY))
    await namespace.create(session_class("gold", selector=AGENT, locked=["network"]))
    await namespace.record(names.PLURAL, "old", {"class": {"name": "gold", "generation": 1}})
    await namespace.locks(agentID="agent_1", **DENY)
    assert await namespace.refusal_of_change("old", {"lifecycle": {"suspend": True}}) == ""
    assert await namespace.refusal_of_change("old", {"sandbox": {"network": None}}) == ""
    other = {"sandbox": {"network": {"deny": ["10.0.0.0/8"]}}}
    assert "locks network:" in await namespace.refusal_of_change("old", other)


async def test_a_class_of_another_namespace_locks_nothing(namespace: Namespace) -> None:
    """The fixture's namespace has a class for the same agent."""
    assert await namespace.refusal_of_session(agentID="agent_1", **DENY) == ""


METADATA = {"sessionMetadata": {"matchLabels": {"tier": "gold"}}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"selector": AGENT}, {"selector": AGENT}),
        ({"selector": AGENT}, {"selector": {"agentIDs": ["agent_2", "agent_1"]}}),
        ({"selector": AGENT}, {"selector": {"environmentID": "env_1"}}),
        ({"selector": AGENT}, {"selector": AGENT | METADATA}),
        ({"selector": METADATA}, {"selector": METADATA}),
        ({"selector": {"agentNames": ["Ann", "Bob"]}}, {"selector": {"agentNames": ["Bob"]}}),
        ({"selector": AGENT, "precedence": 5}, {"selector": {"agentNames": []} | AGENT, "precedence": 5}),
    ],
    ids=json.dumps,
)
async def test_a_class_that_is_certainly_ambiguous_is_refused(
    namespace: Namespace, one: dict[str, Any], other: dict[str, Any]
) -> None:
    await namespace.create(session_class("first", **one))

    async def refused() -> bool:
        return await namespace.refusal_of_class(**other) != ""

    await eventually("the API server has taken up the class", refused)
    refusal = await namespace.refusal_of_class(**other)
    assert "first" in refusal
    assert f"the same precedence ({other.get('precedence', 0)})" in refusal
    assert "give one of them a higher spec.precedence" in refusal
    assert await namespace.refusal_of_class(**other | {"precedence": 6}) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"selector": AGENT}),
        ({}, {"precedence": 1}),
        ({"selector": AGENT}, {"selector": {"agentIDs": ["agent_2"]}}),
        ({"selector": AGENT}, {"selector": {"agentNames": ["Ann"]}}),
        ({"selector": {"environmentID": "env_1"}}, {"selector": {"environmentID": "env_2"}}),
        (
            {"selector": METADATA},
            {"selector": {"sessionMetadata": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}},
        ),
    ],
    ids=json.dumps,
)
async def test_a_class_that_may_be_unambiguous_is_taken(
    namespace: Namespace, one: dict[str, Any], other: dict[str, Any]
) -> None:
    await namespace.create(session_class("first", **one))

    async def first_is_known() -> bool:
        return await namespace.refusal_of_class(**one) != ""

    await eventually("the API server has taken up the class", first_is_known)
    assert await namespace.refusal_of_class(**other) == ""


async def test_a_class_that_is_already_ambiguous_can_be_changed_otherwise(namespace: Namespace) -> None:
    for name, precedence in (("one", 1), ("two", 2)):
        await namespace.create(session_class(name, selector=AGENT, precedence=precedence))

    async def refused() -> bool:
        change = patch(names.CLASS_PLURAL, "two", {"spec": {"precedence": 1}})
        return "the same precedence (1)" in await namespace.refusal(*change)

    await eventually("the API server has taken up the class", refused)
    change = patch(names.CLASS_PLURAL, "two", {"spec": {"limits": {"weight": 2}}})
    assert await namespace.refusal(*change) == ""


async def test_sessions_go_on_without_the_crd_of_classes() -> None:
    """The policies are in the cluster, and the kind that they read is not."""
    async with ControlPlane() as control_plane:
        name = unique_name()
        await install(control_plane, name, f"{name}-system")
        namespace = Namespace(control_plane, name)
        await namespace.create(session_class("gold", selector=AGENT, locked=["network"]))
        await namespace.locks(agentID="agent_1", **DENY)
        await namespace.kubectl("delete", "crd", f"{names.CLASS_PLURAL}.{names.GROUP}")

        async def taken() -> bool:
            return await namespace.refusal_of_session(agentID="agent_1", **DENY) == ""

        await eventually("the API server has noticed that the kind is gone", taken)
