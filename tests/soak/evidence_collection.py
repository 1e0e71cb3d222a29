"""Collects the evidence from the simulators' ledgers, the API server and the logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from managed_session_api import names
from managed_session_api.credentials import OPERATOR_CREDENTIALS, Credential
from managed_session_devkit.simulators.anthropic.client import SessionReport
from managed_session_devkit.simulators.anthropic.credentials import TOKEN_PREFIX
from managed_session_worker.paths import Paths

from .evidence import Evidence, SandboxEvidence, SessionEvidence, leaks
from .prepared_sessions import SECRET
from .shared_state import SharedState, lost_by_e2b, session_of
from .users import User

_DELETE_SECONDS = 90.0
WORKER_LOG = Paths().worker_log


async def resources(shared: SharedState) -> dict[str, dict[str, Any]]:
    """Return all resources by session."""
    found = await shared.system.kubectl("get", names.PLURAL, "--output=json")
    return {item["spec"]["sessionID"]: item for item in json.loads(found)["items"]}


async def collect_evidence(shared: SharedState, users: Sequence[User]) -> Evidence:
    """Inspect everything, delete all resources, and inspect what is left."""
    sessions = tuple([await _session(shared, user) for user in users if user.session_id])
    sandboxes = await _sandboxes(shared)
    _, stranded = await shared.system.anthropic_admin.work()
    told = await _told(shared, users)
    await shared.system.delete_sessions(_DELETE_SECONDS)
    return Evidence(
        sessions=sessions,
        sandboxes=sandboxes,
        stranded=tuple(stranded),
        left=await _left(shared),
        leaks=_leaks(shared, told),
        unauthorized=shared.prepared.unauthorized,
    )


async def _session(shared: SharedState, user: User) -> SessionEvidence:
    report = await shared.system.anthropic_admin.session(user.session_id)
    return SessionEvidence(
        session_id=user.session_id,
        sent=user.record.sent,
        messages=report.counts["messages"],
        open=sum(turn.answered_at is None and turn.interrupted_at is None for turn in report.turns),
        overlapping=report.counts["worker_streams_overlapping"],
        repeated=repeated_results(report),
        complaints=tuple(user.record.complaints),
    )


def repeated_results(report: SessionReport) -> int:
    """Return the number of results for calls that already had a result from another worker.

    An aborted call has no result, so another attempt is fine. Within one lease the worker is the same: its
    SDK posts a result again if a pause of the sandbox lost the answer, and Anthropic refuses it.
    """
    leases, repeated = 0, 0
    given: dict[str, int] = {}
    for entry in report.timeline:
        match entry["kind"]:
            case "leases":
                leases += 1
            case "results":
                given[entry["tool_use_id"]] = leases
            case "results_repeated":
                repeated += given.get(entry["tool_use_id"], leases) != leases
    return repeated


async def _sandboxes(shared: SharedState) -> tuple[SandboxEvidence, ...]:
    starts = (await shared.system.e2b_admin.ledger(operation="process_start")).calls
    worked = {call.get("sandboxID") for call in starts if call.get("status") in (200, "dropped")}
    return tuple(
        SandboxEvidence(
            sandbox_id=sandbox.id,
            session_id=session_of(sandbox),
            resource_uid=sandbox.metadata.get(names.METADATA_RESOURCE_UID, ""),
            state=sandbox.state,
            worked=sandbox.id in worked,
            destroyed=lost_by_e2b(sandbox),
        )
        for sandbox in await shared.system.e2b_admin.sandboxes()
    )


async def _left(shared: SharedState) -> tuple[str, ...]:
    alive = [each for each in await shared.system.e2b_admin.sandboxes() if each.state != "killed"]
    objects = await shared.system.kubectl("get", f"{names.PLURAL},secrets", "--output=name")
    found = [each for each in objects.split() if each != f"secret/{SECRET}"]
    return (*(f"sandbox {each.id}, {each.state}" for each in alive), *found)


async def _told(shared: SharedState, users: Sequence[User]) -> dict[str, str]:
    """Return everything that people and other programs can read of the sessions, by where it is."""
    system = shared.system
    told = {
        kind: await system.control_plane.kubectl("get", kind, "--all-namespaces", "--output=json")
        for kind in (names.PLURAL, names.CLASS_PLURAL, "events", "configmaps")
    }
    for user in users:
        report = await system.anthropic_admin.session(user.session_id) if user.session_id else None
        told[f"the events of {user.session_id}"] = json.dumps(report.events) if report else ""
    for sandbox in await system.e2b_admin.sandboxes("running", "paused"):
        log = sandbox.path(WORKER_LOG)
        told[f"worker.log in {sandbox.id}"] = log.read_text(errors="replace") if log.is_file() else ""
    return told


def _leaks(shared: SharedState, told: dict[str, str]) -> tuple[str, ...]:
    """Return where a credential, a session token or a secret of a prepared session can be read."""
    secrets = {
        "the token of an API": shared.prepared.token,
        "the value of a variable": shared.prepared.variable,
        **shared.system.clouds.only(OPERATOR_CREDENTIALS),
        "session token": TOKEN_PREFIX,
        "API key": shared.system.api_key,
        "signing key": (shared.system.webhook.credentials / Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)
        .read_text()
        .strip(),
    }
    # The environment's ID is not a secret.
    secrets.pop(Credential.ANTHROPIC_ENVIRONMENT_ID, None)
    logs = {f"the log of {name}": pod.log.read_text(errors="replace") for name, pod in shared.pods.items()}
    return leaks({**logs, **told}, secrets)
