"""What `doctor` concludes from answers."""

from __future__ import annotations

import copy
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from managed_session_api.names import METADATA_RESOURCE_UID
from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass
from managed_session_cli import diagnosis
from managed_session_cli.anthropic_environment import WorkSummary
from managed_session_cli.clouds import Sandbox
from managed_session_cli.cluster import Object
from managed_session_cli.diagnosis import Check, CheckResult
from managed_session_cli.doctor import show
from managed_session_cli.installation import Installation, crds_of
from managed_session_cli.operator_presence import Presence
from managed_session_cli.session_diagnosis import session_checks
from rich.console import Console

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OWN, OWN_CLASSES, OWN_SHARED = crds_of(Installation().manifests())
ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}]}


def session(reason: str, *, ready: str = "False", uid: str = "uid-1", **status: Any) -> ManagedSession:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": reason,
        "message": "details",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    return ManagedSession.model_validate(
        {
            "metadata": {"name": "sesn-1", "uid": uid},
            "spec": {"sessionID": "sesn_1"},
            "status": {"conditions": [condition], **status},
        }
    )


def sandbox(*, paused: bool = True, uid: str = "uid-1") -> Sandbox:
    return Sandbox("isandbox", paused, {METADATA_RESOURCE_UID: uid}, NOW)


@pytest.mark.parametrize(
    ("version", "result"),
    [("v1.37.2", CheckResult.OK), ("v1.32.0+k3s1", CheckResult.OK), ("v1.31.9", CheckResult.FAILED)],
)
def test_cluster_needs_version_1_32(version: str, result: CheckResult) -> None:
    assert diagnosis.cluster_version(version).result is result


@pytest.mark.parametrize("own", [OWN, OWN_CLASSES, OWN_SHARED], ids=["sessions", "classes", "shared"])
def test_crd_of_this_version_is_fine(own: Object) -> None:
    check = diagnosis.crd({**own, "status": ESTABLISHED}, own)
    assert check.result is CheckResult.OK
    assert check.name == f"CRD {own['spec']['names']['kind']}"


def test_crd_without_a_field_is_older() -> None:
    old = copy.deepcopy({**OWN, "status": ESTABLISHED})
    status = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    del status["properties"]["work"]["properties"]["exitReason"]
    check = diagnosis.crd(old, OWN)
    assert check.result is CheckResult.FAILED
    assert "status.work.exitReason" in check.detail
    assert "install" in check.remedy


def test_missing_and_rejected_crds_are_named() -> None:
    assert diagnosis.crd(None, OWN).detail == "does not exist"
    rejected = {"conditions": [{"type": "NamesAccepted", "status": "False", "message": "taken"}]}
    assert "taken" in diagnosis.crd({**OWN, "status": rejected}, OWN).detail


def session_class(name: str, status: str = "True", reason: str = "Ready") -> ManagedSessionClass:
    ready = {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "silver matches the same sessions",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    return ManagedSessionClass.model_validate(
        {"metadata": {"name": name}, "spec": {}, "status": {"sessions": 2, "conditions": [ready]}}
    )


def test_without_classes_nothing_is_said_about_them() -> None:
    assert diagnosis.classes([]) == []


def test_a_class_that_is_not_ready_comes_with_its_remedy() -> None:
    summary, gold = diagnosis.classes([session_class("gold", "False", "Ambiguous"), session_class("new")])
    assert (summary.result, summary.detail) == (CheckResult.OK, "2 classes, which serve 4 sessions")
    assert (gold.name, gold.result) == ("class gold", CheckResult.FAILED)
    assert gold.detail == "Ambiguous: silver matches the same sessions"
    assert "spec.precedence" in gold.remedy


def test_a_session_shows_its_class_and_what_of_it_does_not_apply() -> None:
    applied = {
        "type": "PolicyApplied",
        "status": "False",
        "reason": "LockedField",
        "message": "network",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    recorded = {"name": "gold", "generation": 7}

    def check(**status: Any) -> list[tuple[CheckResult, str]]:
        body = {"metadata": {"name": "a"}, "spec": {"sessionID": "sesn_1"}, "status": status}
        found = session_checks(ManagedSession.model_validate(body), None, asked=True, now=NOW)
        return [(each.result, each.detail) for each in found if each.name == "class"]

    assert check() == []
    assert check(**{"class": recorded}) == [(CheckResult.OK, "gold, generation 7")]
    assert check(**{"class": recorded}, conditions=[applied]) == [
        (CheckResult.WARNING, "gold, generation 7; LockedField: network")
    ]


def test_leader_is_the_operator_that_holds_the_lease() -> None:
    assert diagnosis.leader(Presence(True, True, "pod-1 leads")).result is CheckResult.OK
    waiting = diagnosis.leader(Presence(False, True, "2 pods ready, but no operator holds the Lease"))
    assert waiting.result is CheckResult.FAILED


def test_missing_required_key_fails_and_missing_signing_key_warns() -> None:
    operator, webhook = diagnosis.secrets({"managed-session-operator": ["e2b-api-key"]})
    assert operator.result is CheckResult.FAILED
    assert "ANTHROPIC_ENVIRONMENT_KEY" in operator.remedy
    assert webhook.result is CheckResult.WARNING


@pytest.mark.parametrize(("age", "result"), [(10, CheckResult.OK), (600, CheckResult.WARNING)])
def test_work_that_waits_too_long_is_a_warning(age: float, result: CheckResult) -> None:
    summary = WorkSummary(3, 1, NOW - timedelta(seconds=age), 1)
    assert diagnosis.queue(summary, NOW).result is result


def test_sessions_are_counted_by_reason_and_failing_ones_have_a_remedy() -> None:
    summary, *troubled = diagnosis.sessions(
        [session("Idle", ready="True"), session("Idle", ready="True"), session("TemplateNotFound")]
    )
    assert summary.detail == "2 Idle, 1 TemplateNotFound"
    [check] = troubled
    assert check.result is CheckResult.FAILED
    assert "managed-sessions template build" in check.remedy


def test_session_that_waits_for_capacity_is_not_a_failure() -> None:
    [_, waiting] = diagnosis.sessions([session("AwaitingCapacity")])
    assert waiting.result is CheckResult.WARNING


def test_long_list_of_failing_sessions_is_cut() -> None:
    checks = diagnosis.sessions([session("TemplateNotFound")] * 30)
    assert len(checks) == 22
    assert checks[-1].detail == "10 more are not ready"


def test_service_needs_a_ready_endpoint() -> None:
    ready, unready = ({"conditions": {"ready": value}} for value in (True, False))
    assert diagnosis.endpoints([{"endpoints": [unready, ready]}]).result is CheckResult.OK
    assert diagnosis.endpoints([{"endpoints": [unready]}, {"endpoints": None}]).result is CheckResult.FAILED


def test_installation_without_a_webhook_needs_neither_endpoint_nor_signing_key() -> None:
    assert diagnosis.endpoints([], webhook_wanted=False).result is CheckResult.OK
    operator = {
        "managed-session-operator": ("anthropic-environment-id", "anthropic-environment-key", "e2b-api-key")
    }
    checks = diagnosis.secrets(operator, webhook_wanted=False)
    assert {each.result for each in checks} == {CheckResult.OK}


def test_sandbox_without_a_resource_is_named() -> None:
    check = diagnosis.orphans([sandbox(), sandbox(uid="gone")], [session("Idle", ready="True")])
    assert check.result is CheckResult.WARNING
    assert "1 without a resource: isandbox" in check.detail


def results(found: ManagedSession, seen: Sandbox | None, *, asked: bool = True) -> dict[str, CheckResult]:
    return {each.name: each.result for each in session_checks(found, seen, asked=asked, now=NOW)}


def test_idle_session_is_fine() -> None:
    work = {"claim": "c", "finishedAt": "2026-11-25T11:59:00Z", "exitReason": "Idle"}
    resting = session("Idle", ready="True", sandbox={"id": "isandbox", "state": "Paused"}, work=work, turns=2)
    found = {each.name: each for each in session_checks(resting, sandbox(), asked=True, now=NOW)}
    assert {each.result for each in found.values()} == {CheckResult.OK}
    assert "ended 60 s ago: Idle" in found["work"].detail


def test_sandbox_of_a_session_is_compared_with_e2b() -> None:
    recorded = session("Idle", ready="True", sandbox={"id": "isandbox", "state": "Paused"})
    assert results(recorded, sandbox(paused=False))["sandbox"] is CheckResult.WARNING
    assert results(recorded, None)["sandbox"] is CheckResult.FAILED
    assert results(recorded, None, asked=False)["sandbox"] is CheckResult.SKIPPED


def test_table_shows_messages_literally_with_the_remedies_of_failed_checks() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    checks = [
        Check("cluster", CheckResult.OK, "Kubernetes v1.37.2", "not shown"),
        Check("session sesn_1", CheckResult.FAILED, "waits for [sevt_1]", "send [it]"),
        Check("secrets", CheckResult.SKIPPED, "missing permission"),
    ]
    show(checks, console)
    text = console.export_text()
    assert "✗  session sesn_1  waits for [sevt_1]" in text
    assert "→ send [it]" in text
    assert "not shown" not in text
    assert "1 of 3 checks failed, 1 check skipped." in text


@pytest.mark.parametrize(
    ("results", "summary"),
    [
        ([CheckResult.OK, CheckResult.OK], "No problems found."),
        ([CheckResult.OK, CheckResult.SKIPPED, CheckResult.SKIPPED], "No problems found, 2 checks skipped."),
        ([CheckResult.OK, CheckResult.WARNING], "1 warning."),
        ([CheckResult.FAILED, CheckResult.WARNING], "1 of 2 checks failed, 1 warning."),
    ],
)
def test_summary_claims_only_what_the_checks_show(results: list[CheckResult], summary: str) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    show([Check("cluster", each, "detail") for each in results], console)
    assert console.export_text().splitlines()[-1] == summary


def test_output_to_a_file_or_pipe_is_not_wrapped() -> None:
    command = (
        "Set ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and run `managed-sessions install --image X`"
    )
    file = io.StringIO()
    show([Check("secret", CheckResult.FAILED, "missing", command)], Console(file=file, highlight=False))
    assert command in file.getvalue()
