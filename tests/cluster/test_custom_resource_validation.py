"""What the CustomResourceDefinition refuses: at which field, and how it says what is allowed."""

from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError

from ..support.resources import Refused, Resources, refused

SESSION = "sesn_01AbCdEf"
NAME = names.resource_name(SESSION)


def sandbox(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "sandbox": fields}


def worker(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "worker": fields}


def lifecycle(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "lifecycle": fields}


def network(*, allow: list[str] | None = None, deny: list[str] | None = None) -> dict[str, Any]:
    return sandbox(network={"allow": allow or [], "deny": deny or []})


CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Idle",
    "lastTransitionTime": "2026-11-23T12:00:00Z",
}

BAD_RESOURCES = [
    Refused("no session", "spec.sessionID", "Required value", {}),
    Refused("empty session", "spec.sessionID", "at least 1 chars", {"sessionID": ""}),
    Refused("session with a space", "spec.sessionID", "should match '^[A-Za-z0-9]", {"sessionID": "a b"}),
    Refused("session with a slash", "spec.sessionID", "should match", {"sessionID": "../sesn_1"}),
    Refused("long session", "spec.sessionID", "more than 120", {"sessionID": "a" * 121}),
    Refused("number for a session", "spec.sessionID", "must be of type string", {"sessionID": 7}),
    Refused("environment", "spec.environmentID", "should match", {"sessionID": "a", "environmentID": "e/1"}),
    Refused("agent", "spec.agentID", "more than 120", {"sessionID": "a", "agentID": "a" * 121}),
    Refused(
        "scope",
        "spec.routing.scope",
        'supported values: "session"',
        {"sessionID": "a", "routing": {"scope": "user"}},
    ),
    Refused("unknown field", "spec.lifecycle.idleTTL", "unknown field", lifecycle(idleTTL=60)),
    Refused("empty template", "spec.sandbox.template", "at least 1 chars", sandbox(template="")),
    Refused("template", "spec.sandbox.template", "should match", sandbox(template="worker:1.0:2")),
    Refused(
        "short time", "spec.sandbox.timeoutSeconds", "greater than or equal to 60", sandbox(timeoutSeconds=59)
    ),
    Refused(
        "long time",
        "spec.sandbox.timeoutSeconds",
        "less than or equal to 86400",
        sandbox(timeoutSeconds=86401),
    ),
    Refused(
        "time with a unit",
        "spec.sandbox.timeoutSeconds",
        "must be of type integer",
        sandbox(timeoutSeconds="15m"),
    ),
    Refused(
        "operator's metadata",
        "spec.sandbox.metadata",
        'the key "managedagents.dev/session" is not allowed',
        sandbox(metadata={"team": "red", "managedagents.dev/session": "x"}),
    ),
    Refused(
        "metadata below the operator's domain",
        "spec.sandbox.metadata",
        "use a key of another domain or none",
        sandbox(metadata={"x.managedagents.dev/y": "x"}),
    ),
    Refused("empty key", "spec.sandbox.metadata", "1 to 128 characters", sandbox(metadata={"": "x"})),
    Refused("long value", "spec.sandbox.metadata.k", "more than 512", sandbox(metadata={"k": "x" * 513})),
    Refused(
        "much metadata",
        "spec.sandbox.metadata",
        "at most 32 items",
        sandbox(metadata={f"k{n}": "x" for n in range(33)}),
    ),
    Refused("variable's name", "spec.sandbox.env", 'letters, digits and "_"', sandbox(env={"1ST": "x"})),
    Refused("empty variable's name", "spec.sandbox.env", "1 to 128 characters", sandbox(env={"": "x"})),
    Refused(
        "variable with a hyphen", "spec.sandbox.env", "not begin with a digit", sandbox(env={"A-B": "x"})
    ),
    Refused(
        "Anthropic's credential",
        "spec.sandbox.env",
        'the name "ANTHROPIC_API_KEY" is not allowed',
        sandbox(env={"ANTHROPIC_API_KEY": "secret-value"}),
    ),
    Refused(
        "E2B's credential",
        "spec.sandbox.env",
        "credentials must not enter a sandbox",
        sandbox(env={"E2B_API_KEY": "secret-value"}),
    ),
    Refused(
        "long variable", "spec.sandbox.env.A", "more than 4096", sandbox(env={"A": "secret-value" * 400})
    ),
    Refused("number for a variable", "spec.sandbox.env.A", "must be of type string", sandbox(env={"A": 1})),
    Refused(
        "host without denying the rest",
        "spec.sandbox.network.allow",
        'the host name "api.example.com" requires "0.0.0.0/0" in spec.sandbox.network.deny',
        network(allow=["192.0.2.1", "api.example.com"], deny=["10.0.0.0/8"]),
    ),
    Refused(
        "denied host",
        "spec.sandbox.network.deny[0]",
        '"example.com" must be an IP address',
        network(deny=["example.com"]),
    ),
    Refused(
        "address out of range",
        "spec.sandbox.network.allow[0]",
        '"192.0.2.999" must be an IP address',
        network(allow=["192.0.2.999"], deny=["0.0.0.0/0"]),
    ),
    Refused(
        "URL for a host",
        "spec.sandbox.network.allow[0]",
        "a host name (api.example.com)",
        network(allow=["https://example.com"], deny=["0.0.0.0/0"]),
    ),
    Refused(
        "range that is none", "spec.sandbox.network.deny[0]", "a CIDR range", network(deny=["10.0.0.0/33"])
    ),
    Refused(
        "the same twice",
        "spec.sandbox.network.deny[1]",
        "Duplicate value",
        network(deny=["10.0.0.1", "10.0.0.1"]),
    ),
    Refused(
        "many rules",
        "spec.sandbox.network.deny",
        "at most 64 items",
        network(deny=[f"10.0.0.{n}" for n in range(65)]),
    ),
    Refused("yes for true", "spec.sandbox.autoResume", "must be of type boolean", sandbox(autoResume="yes")),
    Refused(
        "no idle time", "spec.worker.maxIdleSeconds", "greater than or equal to 1", worker(maxIdleSeconds=0)
    ),
    Refused(
        "no time to attach",
        "spec.worker.attachTimeoutSeconds",
        "greater than or equal to 1",
        worker(attachTimeoutSeconds=0),
    ),
    Refused(
        "log level", "spec.worker.logLevel", '"DEBUG", "INFO", "WARNING", "ERROR"', worker(logLevel="info")
    ),
    Refused(
        "worker outlives its sandbox",
        "spec.worker.maxIdleSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        sandbox(timeoutSeconds=60) | worker(maxIdleSeconds=61),
    ),
    Refused(
        "attaching outlives the sandbox",
        "spec.worker.attachTimeoutSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        sandbox(timeoutSeconds=60) | worker(attachTimeoutSeconds=61),
    ),
    Refused("TTL", "spec.lifecycle.idleTTLSeconds", "0 (never) or at least 60", lifecycle(idleTTLSeconds=59)),
    Refused(
        "negative TTL",
        "spec.lifecycle.ttlSecondsAfterEnd",
        "greater than or equal to 0",
        lifecycle(ttlSecondsAfterEnd=-1),
    ),
    Refused("lost", "spec.lifecycle.onSandboxLost", '"Recreate", "Fail"', lifecycle(onSandboxLost="Ignore")),
]

BAD_UPDATES = [
    Refused(
        "another session",
        "spec.sessionID",
        f'is immutable and stays "{SESSION}"',
        {"sessionID": "sesn_2"},
        {"sessionID": SESSION},
    ),
    Refused(
        "another environment",
        "spec.environmentID",
        "is set once: it may be added where it is absent",
        {"environmentID": "env_2"},
        {"sessionID": SESSION, "environmentID": "env_1"},
    ),
    Refused(
        "no environment any more",
        "spec.environmentID",
        "neither changed nor removed",
        {"environmentID": None},
        {"sessionID": SESSION, "environmentID": "env_1"},
    ),
    Refused(
        "another agent",
        "spec.agentID",
        "is set once",
        {"agentID": "agent_2"},
        {"sessionID": SESSION, "agentID": "agent_1"},
    ),
    Refused(
        "no agent any more",
        "spec.agentID",
        "neither changed nor removed",
        {"agentID": None},
        {"sessionID": SESSION, "agentID": "agent_1"},
    ),
    Refused(
        "shorter time than the worker's",
        "spec.worker.maxIdleSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        {"sandbox": {"timeoutSeconds": 60}},
        worker(maxIdleSeconds=300),
    ),
    Refused(
        "the rest is no longer denied",
        "spec.sandbox.network.allow",
        'requires "0.0.0.0/0"',
        {"sandbox": {"network": {"deny": []}}},
        network(allow=["*.example.com"], deny=["0.0.0.0/0"]),
    ),
]

BAD_STATUSES = [
    Refused("phase", "status.phase", '"Pending", "Provisioning", "Running", "Idle"', {"phase": "Ready"}),
    Refused(
        "state",
        "status.sandbox.state",
        '"Creating", "Running", "Paused", "Lost"',
        {"sandbox": {"state": "Up"}},
    ),
    Refused("turns", "status.turns", "must be of type integer", {"turns": "3"}),
    Refused("negative turns", "status.turns", "greater than or equal to 0", {"turns": -1}),
    Refused("time", "status.lastActiveTime", "must be of type date-time", {"lastActiveTime": "yesterday"}),
    Refused(
        "half an event",
        "status.lastEvent.createdAt",
        "Required value",
        {"lastEvent": {"id": "1", "type": "x"}},
    ),
    Refused("half a policy", "status.effective.logLevel", "Required value", {"effective": {"template": "x"}}),
    Refused(
        "condition's type",
        "status.conditions[0].type",
        '"Ready", "SandboxReady", "WorkerRunning", "WorkspaceLost", "WorkspaceRestarted"',
        {"conditions": [CONDITION | {"type": "Synced"}]},
    ),
    Refused(
        "condition's status",
        "status.conditions[0].status",
        '"True", "False", "Unknown"',
        {"conditions": [CONDITION | {"status": "Yes"}]},
    ),
    Refused(
        "condition's reason",
        "status.conditions[0].reason",
        "should match",
        {"conditions": [CONDITION | {"reason": "not ready"}]},
    ),
    Refused(
        "condition twice", "status.conditions[1]", "Duplicate value", {"conditions": [CONDITION, CONDITION]}
    ),
]


@pytest.fixture
def sessions(control_plane: ControlPlane, namespace: str) -> Resources:
    return Resources(control_plane, namespace, NAME)


@pytest.fixture
def in_default(control_plane: ControlPlane, definition: None) -> Resources:  # noqa: ARG001 - wanted for its effect
    """Those of the default namespace: it need not be new, because nothing is made in it."""
    return Resources(control_plane, "default", NAME)


@pytest.mark.parametrize("case", BAD_RESOURCES, ids=lambda case: case.what)
async def test_bad_resource_is_refused(in_default: Resources, case: Refused) -> None:
    with refused(case):
        await in_default.create(case.body)


async def test_name_that_is_too_long_to_derive_others_from_is_refused(in_default: Resources) -> None:
    with pytest.raises(KubectlError, match=r"metadata\.name: Too long: may not be more than 63"):
        await in_default.create({"sessionID": SESSION}, name="a" * 64)


@pytest.mark.parametrize("case", BAD_UPDATES, ids=lambda case: case.what)
async def test_bad_update_is_refused(sessions: Resources, case: Refused) -> None:
    await sessions.create(case.before)
    with refused(case):
        await sessions.patch({"spec": case.body})


@pytest.mark.parametrize("case", BAD_STATUSES, ids=lambda case: case.what)
async def test_bad_status_is_refused(sessions: Resources, case: Refused) -> None:
    await sessions.create({"sessionID": SESSION})
    with refused(case):
        await sessions.patch_status(case.body)
