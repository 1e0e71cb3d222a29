"""What a doctor concludes from what the cluster and the clouds say: pure functions over plain data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from managed_session_api.conditions import ConditionStatus
from managed_session_api.names import METADATA_RESOURCE_UID, VERSION
from managed_session_api.resource import ManagedSession

from managed_session_cli import keys
from managed_session_cli.clouds import Sandbox, WorkSummary
from managed_session_cli.cluster import Object
from managed_session_cli.definition_fields import fields
from managed_session_cli.operator_presence import Presence
from managed_session_cli.rollout import Rollout
from managed_session_cli.sessions import remedy, standing

_OLDEST_CLUSTER = (1, 32)
_WAITS_LONG_SECONDS = 180
_MOST_SESSIONS = 20
_PASSING = frozenset({"Provisioning", "StartingWorker", "AwaitingClaim", "AwaitingLease", "AwaitingCapacity"})
"""Reasons of a session that is not ready and most likely will be without anybody's help."""


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """As `--json` prints it."""
        return {
            "check": self.name,
            "verdict": self.verdict.value,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def cluster_version(version: str) -> Check:
    """Whether the API server has what the resource's definition needs."""
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < _OLDEST_CLUSTER:
        return Check(
            "cluster",
            Verdict.FAILED,
            f"Kubernetes {version}",
            "The definition needs Kubernetes 1.32 or newer.",
        )
    return Check("cluster", Verdict.OK, f"Kubernetes {version}")


def definition(live: Object | None, own: Object) -> Check:
    """Whether the definition is established and has all fields that this version has."""
    install = "Run `managed-sessions install --image REF`."
    if live is None:
        return Check("definition", Verdict.FAILED, "the CustomResourceDefinition is absent", install)
    conditions = (live.get("status") or {}).get("conditions") or []
    if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
        said = "; ".join(f"{each['type']}={each['status']}: {each.get('message', '')}" for each in conditions)
        return Check("definition", Verdict.FAILED, f"not established: {said}", install)
    lacking = sorted(fields(own) - fields(live))
    if lacking:
        few = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        return Check("definition", Verdict.FAILED, f"older than this command: without {few}", install)
    more = len(fields(live) - fields(own))
    newer = f", with {more} fields that this command does not know" if more else ""
    return Check("definition", Verdict.OK, f"{VERSION} established{newer}")


def deployment(state: Rollout, images: Sequence[str]) -> Check:
    """Whether a Deployment's pods run."""
    detail = f"{state.progress}, image {', '.join(images)}" if images else state.progress
    if state.done:
        return Check(state.name, Verdict.OK, detail)
    blockers = "; ".join(state.blockers)
    return Check(
        state.name,
        Verdict.FAILED,
        f"{detail}: {blockers}" if blockers else detail,
        "kubectl describe and kubectl logs of its pods say more."
        if images
        else "Run `managed-sessions install --image REF`.",
    )


def leader(present: Presence) -> Check:
    """Whether an operator leads."""
    if present.acts and "leads" in present.explanation:
        return Check("leader", Verdict.OK, present.explanation)
    return Check(
        "leader",
        Verdict.FAILED,
        present.explanation,
        "Without a leader nothing is served: see the operator's log.",
    )


def secrets(present: Mapping[str, Iterable[str]], *, webhook_wanted: bool = True) -> list[Check]:
    """Whether the Secrets have the keys that each process needs; `present` has their keys by Secret."""
    checks = []
    for name, allowed in keys.SECRETS.items():
        there = set(present.get(name, ()))
        lacking = [key for key in keys.REQUIRED if key in allowed and key not in there]
        names = ", ".join(sorted(there)) or "no keys"
        if lacking:
            variables = ", ".join(map(keys.credential_variable, lacking))
            text = f"{', '.join(lacking)} missing ({names})"
            fix = f"Set {variables} and run `managed-sessions install` again."
            checks.append(Check(f"secret {name}", Verdict.FAILED, text, fix))
        elif keys.SIGNING_KEY in allowed and keys.SIGNING_KEY not in there and webhook_wanted:
            text = f"{keys.SIGNING_KEY} missing: the webhook answers 503, work is found by polling alone"
            variable = keys.credential_variable(keys.SIGNING_KEY)
            fix = f"Create the endpoint in the Console, set {variable}, run `managed-sessions install` again."
            checks.append(Check(f"secret {name}", Verdict.WARNING, text, fix))
        else:
            checks.append(Check(f"secret {name}", Verdict.OK, names))
    return checks


def queue(summary: WorkSummary, now: datetime) -> Check:
    """Whether the environment's work is taken."""
    polling = "" if summary.workers_polling is None else f", {summary.workers_polling} pollers in 30 s"
    if summary.oldest_queued_at is None or not summary.depth:
        return Check("work queue", Verdict.OK, f"{summary.depth} waiting, {summary.pending} offered{polling}")
    age = (now - summary.oldest_queued_at).total_seconds()
    detail = f"{summary.depth} waiting, the oldest for {age:.0f} s, {summary.pending} offered{polling}"
    if age < _WAITS_LONG_SECONDS:
        return Check("work queue", Verdict.OK, detail)
    return Check(
        "work queue",
        Verdict.WARNING,
        detail,
        "All places may be taken (MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES), or the operator cannot poll: see "
        "its log.",
    )


def sessions(found: Sequence[ManagedSession]) -> list[Check]:
    """How many sessions stand how, and each that is not ready with what to do about it."""
    counts = Counter(standing(each)[1] or "new" for each in found)
    summary = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none yet"
    checks = [Check("sessions", Verdict.OK, summary)]
    troubled = [each for each in found if standing(each)[0] == ConditionStatus.FALSE.value]
    for each in troubled[:_MOST_SESSIONS]:
        _, reason, message = standing(each)
        verdict = Verdict.WARNING if reason in _PASSING else Verdict.FAILED
        name = f"session {each.spec.session_id}"
        checks.append(Check(name, verdict, f"{reason}: {message}", remedy(reason)))
    if len(troubled) > _MOST_SESSIONS:
        more = len(troubled) - _MOST_SESSIONS
        checks.append(
            Check("sessions", Verdict.WARNING, f"{more} more are not ready", "Look at one by its ID.")
        )
    return checks


def endpoints(slices: Sequence[Object], *, webhook_wanted: bool = True) -> Check:
    """Whether the webhook's Service leads to a ready pod, where there is to be one."""
    if not webhook_wanted:
        text = "no webhook pods are wanted: work is found by polling"
        return Check("webhook service", Verdict.OK, text)
    ready = sum(
        1
        for each in slices
        for endpoint in each.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready", True)
    )
    if ready:
        return Check("webhook service", Verdict.OK, f"{ready} endpoints")
    return Check(
        "webhook service", Verdict.FAILED, "no ready endpoint: events are answered by nobody",
        "See the Deployment of the webhook; until then work is found by polling.",
    )  # fmt: skip


def orphans(sandboxes: Sequence[Sandbox], found: Sequence[ManagedSession]) -> Check:
    """Whether E2B has sandboxes of this installation that belong to no resource."""
    identities = {each.identity for each in found}
    lost = [each for each in sandboxes if each.metadata.get(METADATA_RESOURCE_UID) not in identities]
    paused = sum(each.paused for each in sandboxes)
    detail = f"{len(sandboxes) - paused} running, {paused} paused"
    if not lost:
        return Check("sandboxes", Verdict.OK, detail)
    names = ", ".join(each.sandbox_id for each in lost[:5])
    return Check(
        "sandboxes",
        Verdict.WARNING,
        f"{detail}; {len(lost)} without a resource: {names}",
        "The operator kills them: in a minute, or after ten where it never saw the resource. If they stay, "
        "see its log.",
    )
