"""The CustomResourceDefinition on a real API server: what it takes, and what people see with kubectl."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import (
    ClassReference,
    Condition,
    CostOfDay,
    CostStatus,
    DailyActivity,
    EffectiveStatus,
    EventStatus,
    ManagedSession,
    SandboxState,
    SandboxStatus,
    Status,
    WorkStatus,
)
from managed_session_devkit.control_plane import ControlPlane, established

from ..support.resources import Resources

DEFINITION = Path(__file__).parents[2] / "crds/managedsessions.yaml"
SESSION = "sesn_01AbCdEf"
NAME = names.resource_name(SESSION)
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Sessions(Resources):
    """The ManagedSessions of one namespace."""

    async def model(self) -> ManagedSession:
        return ManagedSession.model_validate(await self.read())

    async def names(self, selector: str) -> list[str]:
        found = await self.kubectl(
            "get", names.PLURAL, f"--field-selector={selector}", "--output=jsonpath={.items[*].metadata.name}"
        )
        return found.split()


@pytest.fixture
async def sessions(control_plane: ControlPlane, namespace: str) -> Sessions:
    await control_plane.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={DEFINITION}")
    await established(control_plane.kubectl)
    return Sessions(control_plane, namespace, NAME)


STATUS = Status(
    phase=Phase.IDLE,
    last_event=EventStatus(id="wevt_1", type="session.status_run_started", created_at=NOW),
    sandbox=SandboxStatus(
        id="i0a1b2c3",
        state=SandboxState.PAUSED,
        template_id="tmpl1",
        started_at=NOW,
        attempt=1,
        created_with={"template": "0123456789abcdef"},
    ),
    work=WorkStatus(
        id=SESSION,
        claim="20261123T120000.123456Z",
        offered_at=NOW,
        acknowledged_at=NOW,
        first_heartbeat_at=NOW,
        finished_at=NOW,
        exit_reason="Idle",
        attempts=1,
    ),
    effective=EffectiveStatus.model_validate(
        {
            "template": "managed-session-worker:0.1.0",
            "timeoutSeconds": 900,
            "maxIdleSeconds": 10,
            "attachTimeoutSeconds": 60,
            "logLevel": "INFO",
            "idleTTLSeconds": 0,
            "ttlSecondsAfterEnd": 3600,
            "onSandboxLost": "Recreate",
            "metadata": {"team": "red"},
            "env": {"REPORT_LANGUAGE": "en"},
            "network": {"allow": ["192.0.2.1"], "deny": ["0.0.0.0/0"]},
            "autoResume": False,
            "allowPublicTraffic": True,
            "origins": {"template": "settings", "env": "session+class/gold@7"},
        }
    ),
    session_class=ClassReference(name="gold", uid="u", generation=7),
    active_today=DailyActivity(day="2026-11-23", seconds=60),
    cost=CostStatus(
        total="$1.29",
        currency="USD",
        list_cost="126",
        budget="2500",
        active_seconds=42,
        sandbox_seconds=77,
        sandbox_cost="3.25",
        counted_until=NOW,
        days=[CostOfDay(day="2026-11-23", list_cost="126", active_seconds=42, sandbox_seconds=77)],
    ),
    turns=3,
    last_active_time=NOW,
    ended_at=NOW,
    observed_generation=1,
    conditions=[
        Condition(
            type=type_,
            status=ConditionStatus.TRUE,
            reason=Reason.IDLE,
            message="The next message will be served.",
            last_transition_time=NOW,
            observed_generation=1,
        )
        for type_ in ConditionType
    ],
)


async def test_least_resource_gets_the_defaults_that_no_setting_has(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION, "sandbox": {}, "lifecycle": {}, "routing": {}})
    found = json.loads(await sessions.kubectl("get", names.SHORT_NAME, NAME, "--output=json"))
    assert found["spec"] == {
        "sessionID": SESSION,
        "routing": {},
        "sandbox": {},
        "lifecycle": {},
    }


async def test_fullest_resource_is_taken_as_it_is(sessions: Sessions) -> None:
    spec = {
        "sessionID": "Sesn-" + "a" * 115,
        "environmentID": "env_01AbCdEf",
        "agentID": "agent_01AbCdEf",
        "routing": {"scope": "session"},
        "sandbox": {
            "template": "team/managed-session-worker:0.1.0",
            "timeoutSeconds": 86400,
            "metadata": {f"example.com/{n}": "x" * 512 for n in range(31)} | {"not-managedagents.dev/": ""},
            "env": {f"A_{n}": "x" * 4096 for n in range(62)} | {"_": "", "MY_ANTHROPIC_MODEL": "x"},
            "network": {
                "allow": [
                    "api.example.com",
                    "*.example.com",
                    "xn--bcher-kva.example",
                    "192.0.2.1",
                    "198.51.100.0/24",
                ],
                "deny": ["0.0.0.0/0", "::/0"],
            },
            "autoResume": True,
            "allowPublicTraffic": True,
        },
        "worker": {"maxIdleSeconds": 86400, "attachTimeoutSeconds": 86400, "logLevel": "DEBUG"},
        "lifecycle": {
            "suspend": True,
            "idleTTLSeconds": 60,
            "ttlSecondsAfterEnd": 0,
            "onSandboxLost": "Fail",
        },
        "requests": {
            "snapshot": "before-upgrade.1",
            "restore": {"id": "2026-01-01T00:00:00Z", "snapshotID": "team/snapshot-1:default"},
        },
    }
    await sessions.create(spec)
    assert (await sessions.model()).spec.to_json() == spec


@pytest.mark.parametrize(
    "spec",
    [
        {"sessionID": "a", "sandbox": {"network": {"allow": ["192.0.2.1"]}}},
        {"sessionID": "a", "sandbox": {"network": {"deny": ["0.0.0.0/0"]}}},
        {"sessionID": "a", "sandbox": {"network": {}}},
        {"sessionID": "a", "sandbox": {"timeoutSeconds": 60}, "worker": {"maxIdleSeconds": 60}},
        {"sessionID": "a", "sandbox": {"template": "x"}, "worker": {"maxIdleSeconds": 3600}},
        {"sessionID": "a", "lifecycle": {"idleTTLSeconds": 0}},
    ],
    ids=json.dumps,
)
async def test_resource_at_the_edge_of_a_rule_is_taken(sessions: Sessions, spec: dict[str, Any]) -> None:
    await sessions.create(spec)
    assert (await sessions.model()).spec.session_id == "a"


async def test_environment_and_agent_can_be_added_once_and_the_rest_changed(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    await sessions.patch({"spec": {"environmentID": "env_1", "agentID": "agent_1"}})
    await sessions.patch({"spec": {"lifecycle": {"suspend": True}, "environmentID": "env_1"}})
    spec = (await sessions.model()).spec
    assert (spec.environment_id, spec.agent_id, spec.lifecycle.suspend) == ("env_1", "agent_1", True)


async def test_status_of_the_model_is_kept_whole(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    await sessions.patch_status(STATUS.to_json())
    assert (await sessions.model()).status == STATUS


async def test_status_of_a_fresh_model_is_taken(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    await sessions.patch_status(Status().to_json())
    assert (await sessions.model()).status == Status()


async def test_spec_does_not_change_with_the_status_nor_the_status_with_the_spec(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    await sessions.patch({"spec": {"environmentID": "env_1"}, "status": {"turns": 7}}, "--subresource=status")
    await sessions.patch({"spec": {"agentID": "agent_1"}, "status": {"turns": 8}})
    found = await sessions.model()
    assert (found.spec.environment_id, found.spec.agent_id, found.status.turns) == (None, "agent_1", 7)


async def test_resources_are_found_by_session_sandbox_and_phase(sessions: Sessions) -> None:
    await sessions.create({"sessionID": "sesn_1"}, name="one")
    await sessions.create({"sessionID": "sesn_2"}, name="two")
    await sessions.patch_status({"phase": "Idle", "sandbox": {"id": "i1"}}, name="one")
    await sessions.patch_status({"phase": "Running", "sandbox": {"id": "i2"}}, name="two")
    assert await sessions.names("spec.sessionID=sesn_2") == ["two"]
    assert await sessions.names("status.sandbox.id=i1") == ["one"]
    assert await sessions.names("status.phase=Running") == ["two"]
    assert await sessions.names("status.phase!=Running") == ["one"]
    assert await sessions.names("spec.sessionID=sesn_1,status.phase=Running") == []


async def test_columns_that_kubectl_get_prints(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION, "environmentID": "env_1", "agentID": "agent_1"})
    await sessions.patch_status(STATUS.to_json())
    header, row = (await sessions.kubectl("get", "managed-sessions")).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "SESSION", "SANDBOX", "TURNS", "LAST-ACTIVE", "AGE"]
    # With the kind, because the category has two.
    name = f"{names.SINGULAR}.{names.GROUP}/{NAME}"
    assert row.split()[:6] == [name, "True", "Idle", SESSION, "i0a1b2c3", "3"]
    header, row = (await sessions.kubectl("get", names.SHORT_NAME, "--output=wide")).splitlines()
    assert header.split()[8:] == [
        "PHASE",
        "WORK",
        "ENVIRONMENT",
        "AGENT",
        "CLASS",
        "COST",
        "SANDBOX-SECONDS",
        "TEMPLATE",
        "MESSAGE",
    ]
    assert row.split(maxsplit=16)[8:] == [
        "Idle",
        "Idle",
        "env_1",
        "agent_1",
        "gold",
        "$1.29",
        "77",
        "managed-session-worker:0.1.0",
        "The next message will be served.",
    ]


async def test_fresh_resource_has_empty_columns(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    _, row = (await sessions.kubectl("get", names.PLURAL)).splitlines()
    assert row.split()[:2] == [NAME, SESSION]


async def test_explain_reads_like_documentation(sessions: Sessions) -> None:
    text = " ".join((await sessions.kubectl("explain", f"{names.PLURAL}.spec.lifecycle")).split())
    for name in ("suspend", "idleTTLSeconds", "ttlSecondsAfterEnd", "onSandboxLost"):
        assert f"{name} <" in text
    assert "0 means never, otherwise 60 to 31536000 (a year)." in text
    assert "MANAGED_SESSIONS_IDLE_TTL_SECONDS. Live." in text
    assert "enum: Recreate, Fail" in text


async def test_kubectl_waits_for_the_condition_ready(sessions: Sessions) -> None:
    await sessions.create({"sessionID": SESSION})
    await sessions.patch_status({"conditions": STATUS.to_json()["conditions"]})
    assert "condition met" in await sessions.kubectl("wait", "--for=condition=Ready", f"msess/{NAME}")
