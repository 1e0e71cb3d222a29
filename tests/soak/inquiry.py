"""Gathers the evidence from the simulators' ledgers, the API server and the logs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from managed_session_api import names
from managed_session_local.clouds import OPERATOR_CREDENTIALS
from managed_session_local.simulators.anthropic.client import SessionReport
from managed_session_local.simulators.anthropic.credentials import TOKEN_PREFIX

from .evidence import Evidence, SandboxEvidence, SessionEvidence
from .users import User
from .world import World, lost_by_e2b, session_of

_DELETE_SECONDS = 90.0


async def resources(world: World) -> dict[str, dict[str, Any]]:
    """All resources by session."""
    found = await world.system.kubectl("get", names.PLURAL, "--output=json")
    return {item["spec"]["sessionID"]: item for item in json.loads(found)["items"]}


async def inquire(world: World, users: Iterable[User]) -> Evidence:
    """Look at everything, delete all resources, and look at what is left."""
    sessions = tuple([await _session(world, user) for user in users if user.session_id])
    sandboxes = await _sandboxes(world)
    _, stranded = await world.system.anthropic_admin.work()
    await world.system.delete_sessions(_DELETE_SECONDS)
    return Evidence(
        sessions=sessions,
        sandboxes=sandboxes,
        stranded=tuple(stranded),
        left=await _left(world),
        leaks=_leaks(world),
    )


async def _session(world: World, user: User) -> SessionEvidence:
    report = await world.system.anthropic_admin.session(user.session_id)
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
    """Results of calls that another worker had given one already.

    A call that was broken off has none, whoever tries again. Within one lease it is the same worker: its SDK
    posts a result again when a pause of the sandbox took away the answer; Anthropic refuses it then.
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


async def _sandboxes(world: World) -> tuple[SandboxEvidence, ...]:
    starts = (await world.system.e2b_admin.ledger(operation="process_start")).calls
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
        for sandbox in await world.system.e2b_admin.sandboxes()
    )


async def _left(world: World) -> tuple[str, ...]:
    alive = [each for each in await world.system.e2b_admin.sandboxes() if each.state != "killed"]
    objects = await world.system.kubectl("get", f"{names.PLURAL},secrets", "--output=name")
    return (*(f"sandbox {each.id}, {each.state}" for each in alive), *objects.split())


def _leaks(world: World) -> tuple[str, ...]:
    """Where in the pods' logs a credential or session token stands."""
    secrets = {
        **world.system.clouds.only(OPERATOR_CREDENTIALS),
        "session token": TOKEN_PREFIX,
        "API key": world.system.api_key,
        "signing key": (world.system.webhook.credentials / "anthropic-webhook-signing-key")
        .read_text()
        .strip(),
    }
    # The environment's ID is no secret.
    secrets.pop("anthropic-environment-id", None)
    found = []
    for name, pod in world.pods.items():
        text = pod.log.read_text(errors="replace")
        found += [f"the log of {name}: {which}" for which, value in secrets.items() if value in text]
    return tuple(found)
