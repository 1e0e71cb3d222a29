"""The CRD of ManagedSessionClass on a real API server: what it refuses and takes, and what kubectl shows."""

from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.session_class import ManagedSessionClass
from managed_session_devkit.control_plane import ControlPlane, KubectlError

from ..support.resources import Refused, Resources, classes_in, refused

NAME = "gold"


def selector(**parts: Any) -> dict[str, Any]:
    return {"selector": parts}


def expression(**parts: Any) -> dict[str, Any]:
    return selector(sessionMetadata={"matchExpressions": [{"key": "tier"} | parts]})


def sandbox(**fields: Any) -> dict[str, Any]:
    return {"session": {"sandbox": fields}}


def limits(**fields: Any) -> dict[str, Any]:
    return {"limits": fields}


EXPRESSIONS = "spec.selector.sessionMetadata.matchExpressions"
CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "lastTransitionTime": "2026-11-29T12:00:00.000000Z",
}

BAD_CLASSES = [
    Refused("no spec", "spec", "Required value", None),
    Refused("unknown field", "spec.template", "unknown field", {"template": "x"}),
    Refused(
        "selector that selects nothing in particular",
        "spec.selector",
        "for the default class of the namespace, leave spec.selector out",
        selector(),
    ),
    Refused("empty list of agents", "spec.selector", "must have at least one of", selector(agentIDs=[])),
    Refused("agent's ID", "spec.selector.agentIDs[0]", "should match", selector(agentIDs=["agent 1"])),
    Refused(
        "agent twice", "spec.selector.agentIDs[1]", "Duplicate value", selector(agentIDs=["agent_1"] * 2)
    ),
    Refused(
        "many agents",
        "spec.selector.agentIDs",
        "at most 64 items",
        selector(agentIDs=[f"agent_{n}" for n in range(65)]),
    ),
    Refused("empty name", "spec.selector.agentNames[0]", "at least 1 chars", selector(agentNames=[""])),
    Refused("long name", "spec.selector.agentNames[0]", "more than 256", selector(agentNames=["a" * 257])),
    Refused("environment", "spec.selector.environmentID", "should match", selector(environmentID="env/1")),
    Refused(
        "no requirement on metadata",
        "spec.selector.sessionMetadata",
        "must have at least one entry in matchLabels or matchExpressions",
        selector(sessionMetadata={}),
    ),
    Refused(
        "empty key of metadata",
        "spec.selector.sessionMetadata.matchLabels",
        "each key must have 1 to 128 characters",
        selector(sessionMetadata={"matchLabels": {"": "x"}}),
    ),
    Refused(
        "number for a value",
        "spec.selector.sessionMetadata.matchLabels.tier",
        "must be of type string",
        selector(sessionMetadata={"matchLabels": {"tier": 1}}),
    ),
    Refused(
        "operator",
        f"{EXPRESSIONS}[0].operator",
        '"In", "NotIn", "Exists", "DoesNotExist"',
        expression(operator="Equals", values=["gold"]),
    ),
    Refused(
        "no values for In",
        f"{EXPRESSIONS}[0].values",
        'the operator In of the key "tier" needs at least one entry in values',
        expression(operator="In"),
    ),
    Refused(
        "values for Exists",
        f"{EXPRESSIONS}[0].values",
        'the operator Exists of the key "tier" takes no values; remove them, or use In or NotIn',
        expression(operator="Exists", values=["gold"]),
    ),
    Refused("precedence", "spec.precedence", "less than or equal to 1000000", {"precedence": 1000001}),
    Refused("word for a precedence", "spec.precedence", "must be of type integer", {"precedence": "high"}),
    Refused("unknown locked field", "spec.locked[0]", 'supported values: "scope"', {"locked": ["suspend"]}),
    Refused("locked twice", "spec.locked[1]", "Duplicate value", {"locked": ["env", "env"]}),
    Refused(
        "more guaranteed than allowed",
        "spec.limits.guaranteedSlots",
        "must be at most spec.limits.maxActiveSandboxes",
        limits(maxActiveSandboxes=2, guaranteedSlots=3),
    ),
    Refused(
        "no sandbox at all",
        "spec.limits.maxActiveSandboxes",
        "greater than or equal to 1",
        limits(maxActiveSandboxes=0),
    ),
    Refused("no weight", "spec.limits.weight", "greater than or equal to 1", limits(weight=0)),
    Refused("great weight", "spec.limits.weight", "less than or equal to 1000", limits(weight=1001)),
    Refused("turn", "spec.limits.maxTurnSeconds", "greater than or equal to 1", limits(maxTurnSeconds=0)),
    Refused(
        "budget with a unit",
        "spec.limits.maxActiveSecondsPerDay",
        "must be of type integer",
        limits(maxActiveSecondsPerDay="10h"),
    ),
    Refused("template", "spec.session.sandbox.template", "should match", sandbox(template="worker:1.0:2")),
    Refused(
        "operator's metadata",
        "spec.session.sandbox.metadata",
        'spec.session.sandbox.metadata: the key "managedagents.dev/session" is not allowed',
        sandbox(metadata={"managedagents.dev/session": "x"}),
    ),
    Refused(
        "Anthropic's credential",
        "spec.session.sandbox.env",
        'the name "ANTHROPIC_API_KEY" is not allowed',
        sandbox(env={"ANTHROPIC_API_KEY": "secret-value"}),
    ),
    Refused(
        "host without denying the rest",
        "spec.session.sandbox.network.allow",
        '"api.example.com" requires the preset "allowlist", or "0.0.0.0/0" in spec.session.sandbox',
        sandbox(network={"allow": ["api.example.com"]}),
    ),
    Refused(
        "worker outlives its sandbox",
        "spec.session.worker.maxIdleSeconds",
        "must be at most spec.session.sandbox.timeoutSeconds",
        {"session": {"sandbox": {"timeoutSeconds": 60}, "worker": {"maxIdleSeconds": 61}}},
    ),
    Refused(
        "a short wait that is the longer one",
        "spec.session.worker.minIdleSeconds",
        "must be at most spec.session.worker.maxIdleSeconds",
        {"session": {"worker": {"minIdleSeconds": 11, "maxIdleSeconds": 10}}},
    ),
    Refused(
        "TTL",
        "spec.session.lifecycle.idleTTLSeconds",
        "0 (never) or at least 60",
        {"session": {"lifecycle": {"idleTTLSeconds": 59}}},
    ),
    Refused(
        "a session's identity",
        "spec.session.sessionID",
        "unknown field",
        {"session": {"sessionID": "sesn_1"}},
    ),
]

BAD_STATUSES = [
    Refused("negative sessions", "status.sessions", "greater than or equal to 0", {"sessions": -1}),
    Refused("day", "status.activeToday.day", "should match", {"activeToday": {"day": "today"}}),
    Refused("half an activity", "status.activeToday.day", "Required value", {"activeToday": {"seconds": 1}}),
    Refused(
        "condition of a session",
        "status.conditions[0].type",
        'supported values: "Ready"',
        {"conditions": [CONDITION | {"type": "SandboxReady"}]},
    ),
    Refused(
        "condition twice", "status.conditions[1]", "Duplicate value", {"conditions": [CONDITION, CONDITION]}
    ),
]

GOOD_CLASSES: dict[str, dict[str, Any]] = {
    "a default that sets nothing": {},
    "a default": {"session": {"sandbox": {"template": "team/worker:1"}}, "locked": ["template"]},
    "an agent": selector(agentIDs=["agent_1"]),
    "metadata alone": selector(sessionMetadata={"matchLabels": {"tier": ""}}),
    "guaranteed up to the maximum": limits(maxActiveSandboxes=3, guaranteedSlots=3, weight=1),
    "as long as the sandbox": {
        "session": {"sandbox": {"timeoutSeconds": 60}, "worker": {"maxIdleSeconds": 60}}
    },
    "everything": {
        "selector": {
            "agentIDs": [f"agent_{n}" for n in range(64)],
            "agentNames": ["Ann's agent", "ü" * 256],
            "environmentID": "env_01AbCdEf",
            "sessionMetadata": {
                "matchLabels": {"example.com/team": "red"},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["gold", "silver"]},
                    {"key": "tier", "operator": "NotIn", "values": ["free"]},
                    {"key": "owner", "operator": "Exists"},
                    {"key": "trial", "operator": "DoesNotExist"},
                ],
            },
        },
        "precedence": -1000000,
        "session": {
            "sandbox": {
                "template": "team/managed-session-worker:0.1.0",
                "timeoutSeconds": 86400,
                "metadata": {f"example.com/{n}": "x" * 512 for n in range(32)},
                "env": {f"A_{n}": "x" * 4096 for n in range(64)},
                "network": {"allow": ["api.example.com"], "deny": ["0.0.0.0/0"]},
                "autoResume": True,
                "allowPublicTraffic": False,
            },
            "worker": {
                "maxIdleSeconds": 86400,
                "minIdleSeconds": 86400,
                "attachTimeoutSeconds": 86400,
                "maxParallelCalls": 20,
                "logLevel": "DEBUG",
            },
            "lifecycle": {
                "suspend": False,
                "idleTTLSeconds": 60,
                "ttlSecondsAfterEnd": 0,
                "onSandboxLost": "Fail",
            },
        },
        "locked": ["template", "network", "env"],
        "limits": {
            "maxActiveSandboxes": 100000,
            "guaranteedSlots": 5,
            "weight": 1000,
            "maxTurnSeconds": 2592000,
            "maxActiveSecondsPerDay": 8640000000,
        },
    },
}
STATUS = {
    "sessions": 3,
    "activeSandboxes": 2,
    "waiting": 1,
    "activeToday": {"day": "2026-11-29", "seconds": 77, "departedSeconds": 7},
    "outrankedBy": ["silver"],
    "observedGeneration": 1,
    "conditions": [CONDITION | {"message": "Everything is in force.", "observedGeneration": 1}],
}


@pytest.fixture
def classes(control_plane: ControlPlane, namespace: str) -> Resources:
    return classes_in(control_plane, namespace, NAME)


@pytest.fixture
def sessions(control_plane: ControlPlane, namespace: str) -> Resources:
    return Resources(control_plane, namespace, "one")


@pytest.mark.parametrize("case", BAD_CLASSES, ids=lambda case: case.what)
async def test_bad_class_is_refused(classes: Resources, case: Refused) -> None:
    with refused(case):
        await classes.create(case.body)


async def test_name_that_is_too_long_to_be_recorded_is_refused(classes: Resources) -> None:
    with pytest.raises(KubectlError, match=r"metadata\.name: Too long: may not be more than 63"):
        await classes.create({}, name="a" * 64)


@pytest.mark.parametrize("case", BAD_STATUSES, ids=lambda case: case.what)
async def test_bad_status_is_refused(classes: Resources, case: Refused) -> None:
    await classes.create({})
    with refused(case):
        await classes.patch_status(case.body)


@pytest.mark.parametrize("what", GOOD_CLASSES)
async def test_good_class_is_taken_as_it_is(classes: Resources, what: str) -> None:
    spec = GOOD_CLASSES[what]
    await classes.create(spec)
    found = await classes.read()
    defaults = {"precedence": 0, "limits": {"guaranteedSlots": 0, "weight": 1} | spec.get("limits", {})}
    assert found["spec"] == defaults | spec | {"limits": defaults["limits"]}
    read = ManagedSessionClass.model_validate(found).spec.to_json()
    assert (
        ManagedSessionClass.model_validate({"metadata": {"name": NAME}, "spec": read}).spec.to_json() == read
    )
    assert (read["precedence"], read["limits"]) == (found["spec"]["precedence"], found["spec"]["limits"])


async def test_status_is_kept_whole_and_apart_from_the_spec(classes: Resources) -> None:
    await classes.create({})
    await classes.patch_status(STATUS)
    await classes.patch({"spec": {"precedence": 1}, "status": {"sessions": 9}})
    found = await classes.read()
    assert (found["status"], found["spec"]["precedence"]) == (STATUS, 1)
    assert ManagedSessionClass.model_validate(found).status.to_json() == STATUS


async def test_columns_that_kubectl_get_prints(classes: Resources) -> None:
    await classes.create({"selector": {"agentIDs": ["agent_1"]}, "limits": {"weight": 3}, "precedence": 7})
    await classes.patch_status(STATUS)
    header, row = (await classes.kubectl("get", "msc")).splitlines()
    assert header.split() == [
        "NAME", "READY", "REASON", "PRECEDENCE", "WEIGHT", "SESSIONS", "ACTIVE", "WAITING", "AGE",
    ]  # fmt: skip
    assert row.split()[:8] == [NAME, "True", "Ready", "7", "3", "3", "2", "1"]
    header, row = (await classes.kubectl("get", "msc", "--output=wide")).splitlines()
    assert header.split()[9:] == ["GUARANTEED", "MAXIMUM", "TODAY", "TEMPLATE", "MESSAGE"]
    assert row.endswith("Everything is in force.")


async def test_one_name_shows_sessions_and_classes(classes: Resources, sessions: Resources) -> None:
    await classes.create({})
    await sessions.create({"sessionID": "sesn_1"})
    shown = await classes.kubectl("get", "managed-sessions")
    assert f"{names.CLASS_SINGULAR}.{names.GROUP}/{NAME}" in shown
    assert f"{names.SINGULAR}.{names.GROUP}/one" in shown


async def test_sessions_of_a_class_are_found_and_shown(sessions: Resources) -> None:
    for name, of in (("one", "gold"), ("two", "silver")):
        await sessions.create({"sessionID": f"sesn_{name}"}, name)
        await sessions.patch_status({"class": {"name": of, "uid": "u", "generation": 3}}, name)
    arguments = ("get", names.PLURAL, "--field-selector=status.class.name=silver", "--output=name")
    assert (await sessions.kubectl(*arguments)).split() == [f"{names.SINGULAR}.{names.GROUP}/two"]
    header, *rows = (await sessions.kubectl("get", names.PLURAL, "--output=wide")).splitlines()
    column = header.index("CLASS")
    assert [row[column:].split()[0] for row in rows] == ["gold", "silver"]


async def test_classes_are_found_by_environment_and_precedence(classes: Resources) -> None:
    await classes.create({"selector": {"environmentID": "env_1"}, "precedence": 5}, name="one")
    await classes.create({"selector": {"environmentID": "env_2"}}, name="two")
    for by, name in (("spec.selector.environmentID=env_1", "one"), ("spec.precedence=0", "two")):
        found = await classes.kubectl("get", "msc", f"--field-selector={by}", "--output=name")
        assert found.split() == [f"{names.CLASS_SINGULAR}.{names.GROUP}/{name}"]


async def test_explain_reads_like_documentation(classes: Resources) -> None:
    text = " ".join((await classes.kubectl("explain", "msc.spec")).split())
    for name in ("selector", "precedence", "session", "locked", "limits"):
        assert f"{name} <" in text
    text = " ".join((await classes.kubectl("explain", "msc.spec.limits")).split())
    assert "a class with weight 2 gets twice as many as one with weight 1." in text
    text = " ".join((await classes.kubectl("explain", "msc.spec.session.lifecycle.idleTTLSeconds")).split())
    assert "0 means never, otherwise 60 to 31536000 (a year)." in text


async def test_kubectl_waits_for_the_condition_ready(classes: Resources) -> None:
    await classes.create({})
    await classes.patch_status(STATUS)
    assert "condition met" in await classes.kubectl("wait", "--for=condition=Ready", f"msc/{NAME}")
