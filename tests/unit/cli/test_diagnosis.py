"""What a doctor concludes from what it sees."""

from __future__ import annotations

import copy
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from managed_session_api.names import METADATA_RESOURCE_UID
from managed_session_api.resource import ManagedSession
from managed_session_cli import diagnosis
from managed_session_cli.clouds import Sandbox, WorkSummary
from managed_session_cli.diagnosis import Check, Verdict
from managed_session_cli.doctor import show
from managed_session_cli.installation import DEFINITION, Installation
from managed_session_cli.session_diagnosis import session_checks
from rich.console import Console

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
[OWN] = [each for each in Installation().manifests() if each["metadata"]["name"] == DEFINITION.name]
ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}]}


def session(reason: str, *, ready: str = "False", uid: str = "uid-1", **status: Any) -> ManagedSession:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": reason,
        "message": "said",
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
    ("version", "verdict"),
    [("v1.37.2", Verdict.OK), ("v1.32.0+k3s1", Verdict.OK), ("v1.31.9", Verdict.FAILED)],
)
def test_cluster_needs_version_1_32(version: str, verdict: Verdict) -> None:
    assert diagnosis.cluster_version(version).verdict is verdict


def test_definition_of_this_version_is_fine() -> None:
    assert diagnosis.definition({**OWN, "status": ESTABLISHED}, OWN).verdict is Verdict.OK


def test_definition_that_lacks_a_field_is_older() -> None:
    old = copy.deepcopy({**OWN, "status": ESTABLISHED})
    status = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    del status["properties"]["work"]["properties"]["exitReason"]
    check = diagnosis.definition(old, OWN)
    assert check.verdict is Verdict.FAILED
    assert "status.work.exitReason" in check.detail
    assert "install" in check.remedy


def test_absent_and_refused_definitions_are_named() -> None:
    assert "absent" in diagnosis.definition(None, OWN).detail
    refused = {"conditions": [{"type": "NamesAccepted", "status": "False", "message": "taken"}]}
    assert "taken" in diagnosis.definition({**OWN, "status": refused}, OWN).detail


def test_missing_required_key_fails_and_missing_signing_key_warns() -> None:
    operator, webhook = diagnosis.secrets({"managed-session-operator": ["e2b-api-key"]})
    assert operator.verdict is Verdict.FAILED
    assert "ANTHROPIC_ENVIRONMENT_KEY" in operator.remedy
    assert webhook.verdict is Verdict.WARNING


@pytest.mark.parametrize(("age", "verdict"), [(10, Verdict.OK), (600, Verdict.WARNING)])
def test_work_that_waits_long_is_a_warning(age: float, verdict: Verdict) -> None:
    summary = WorkSummary(3, 1, NOW - timedelta(seconds=age), 1)
    assert diagnosis.queue(summary, NOW).verdict is verdict


def test_sessions_are_counted_by_reason_and_those_in_trouble_have_a_remedy() -> None:
    summary, *troubled = diagnosis.sessions(
        [session("Idle", ready="True"), session("Idle", ready="True"), session("TemplateNotFound")]
    )
    assert summary.detail == "2 Idle, 1 TemplateNotFound"
    [check] = troubled
    assert check.verdict is Verdict.FAILED
    assert "managed-sessions template build" in check.remedy


def test_session_that_waits_for_its_turn_is_no_failure() -> None:
    [_, waiting] = diagnosis.sessions([session("AwaitingCapacity")])
    assert waiting.verdict is Verdict.WARNING


def test_long_list_of_troubled_sessions_is_cut() -> None:
    checks = diagnosis.sessions([session("TemplateNotFound")] * 30)
    assert len(checks) == 22
    assert checks[-1].detail == "10 more are not ready"


def test_service_needs_a_ready_endpoint() -> None:
    ready, unready = ({"conditions": {"ready": value}} for value in (True, False))
    assert diagnosis.endpoints([{"endpoints": [unready, ready]}]).verdict is Verdict.OK
    assert diagnosis.endpoints([{"endpoints": [unready]}, {"endpoints": None}]).verdict is Verdict.FAILED


def test_installation_that_is_to_poll_alone_lacks_neither_endpoint_nor_signing_key() -> None:
    assert diagnosis.endpoints([], webhook_wanted=False).verdict is Verdict.OK
    operator = {
        "managed-session-operator": ("anthropic-environment-id", "anthropic-environment-key", "e2b-api-key")
    }
    checks = diagnosis.secrets(operator, webhook_wanted=False)
    assert {each.verdict for each in checks} == {Verdict.OK}


def test_sandbox_without_a_resource_is_named() -> None:
    check = diagnosis.orphans([sandbox(), sandbox(uid="gone")], [session("Idle", ready="True")])
    assert check.verdict is Verdict.WARNING
    assert "1 without a resource: isandbox" in check.detail


def verdicts(found: ManagedSession, seen: Sandbox | None, *, asked: bool = True) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in session_checks(found, seen, asked=asked, now=NOW)}


def test_session_at_rest_is_fine() -> None:
    work = {"claim": "c", "finishedAt": "2026-11-25T11:59:00Z", "exitReason": "Idle"}
    resting = session("Idle", ready="True", sandbox={"id": "isandbox", "state": "Paused"}, work=work, turns=2)
    found = {each.name: each for each in session_checks(resting, sandbox(), asked=True, now=NOW)}
    assert {each.verdict for each in found.values()} == {Verdict.OK}
    assert "ended 60 s ago: Idle" in found["work"].detail


def test_sandbox_of_a_session_is_compared_with_e2b() -> None:
    recorded = session("Idle", ready="True", sandbox={"id": "isandbox", "state": "Paused"})
    assert verdicts(recorded, sandbox(paused=False))["sandbox"] is Verdict.WARNING
    assert verdicts(recorded, None)["sandbox"] is Verdict.FAILED
    assert verdicts(recorded, None, asked=False)["sandbox"] is Verdict.SKIPPED


def test_table_shows_what_was_said_word_for_word_with_the_remedies_of_what_is_wrong() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    checks = [
        Check("cluster", Verdict.OK, "Kubernetes v1.37.2", "not shown"),
        Check("session sesn_1", Verdict.FAILED, "waits for [sevt_1]", "send [it]"),
        Check("secrets", Verdict.SKIPPED, "you lack the right"),
    ]
    show(checks, console)
    text = console.export_text()
    assert "✗  session sesn_1  waits for [sevt_1]" in text
    assert "→ send [it]" in text
    assert "not shown" not in text
    assert "1 of 3 checks failed; 1 could not be made." in text


def test_what_goes_into_a_file_or_a_pipe_is_not_broken_into_lines() -> None:
    command = (
        "Set ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and run `managed-sessions install --image X`"
    )
    file = io.StringIO()
    show([Check("secret", Verdict.FAILED, "missing", command)], Console(file=file, highlight=False))
    assert command in file.getvalue()
