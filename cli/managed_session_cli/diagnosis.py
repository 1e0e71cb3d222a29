"""Draws the conclusions of `doctor` from the answers of cluster and clouds. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from managed_session_api.conditions import PASSING_REASONS, ConditionStatus, ConditionType
from managed_session_api.credentials import REQUIRED_CREDENTIALS, Credential
from managed_session_api.names import METADATA_RESOURCE_UID, METADATA_SHARED, VERSION
from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass

from managed_session_cli import keys
from managed_session_cli.anthropic_environment import WorkSummary
from managed_session_cli.clouds import Sandbox
from managed_session_cli.cluster import Object
from managed_session_cli.crd_fields import fields, is_established
from managed_session_cli.operator_presence import Presence
from managed_session_cli.rollout import Rollout
from managed_session_cli.sessions import ready_condition, remedy
from managed_session_cli.wording import counted

_OLDEST_CLUSTER = (1, 32)
_WAITS_LONG_SECONDS = 180
_MOST_SESSIONS = 20


class CheckResult(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the table that `doctor` prints."""

    name: str
    result: CheckResult
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the check as `--json` prints it."""
        return {
            "check": self.name,
            "result": self.result.value,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def cluster_version(version: str) -> Check:
    """Check that the API server has what the CRDs require."""
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < _OLDEST_CLUSTER:
        return Check(
            "cluster",
            CheckResult.FAILED,
            f"Kubernetes {version}",
            "Upgrade the cluster: the CRDs require Kubernetes 1.32 or newer.",
        )
    return Check("cluster", CheckResult.OK, f"Kubernetes {version}")


def crd(live: Object | None, own: Object) -> Check:
    """Check that a CRD is established and has all fields of this version."""
    name = f"CRD {own['spec']['names']['kind']}"
    install = "Run `managed-sessions install --image REF`."
    if live is None:
        return Check(name, CheckResult.FAILED, "does not exist", install)
    if not is_established(live):
        conditions = (live.get("status") or {}).get("conditions") or []
        states = [f"{each['type']}={each['status']}: {each.get('message', '')}" for each in conditions]
        return Check(name, CheckResult.FAILED, f"not established: {'; '.join(states)}", install)
    lacking = sorted(fields(own) - fields(live))
    if lacking:
        few = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        return Check(name, CheckResult.FAILED, f"older than this command: lacks {few}", install)
    more = len(fields(live) - fields(own))
    newer = f", newer than this command: {counted(more, 'more field')}" if more else ""
    return Check(name, CheckResult.OK, f"{VERSION} established{newer}")


def deployment(state: Rollout, images: Sequence[str]) -> Check:
    """Check that a Deployment's pods run."""
    detail = f"{state.progress}, image {', '.join(images)}" if images else state.progress
    if state.done:
        return Check(state.name, CheckResult.OK, detail)
    blockers = "; ".join(state.blockers)
    return Check(
        state.name,
        CheckResult.FAILED,
        f"{detail}: {blockers}" if blockers else detail,
        "See `kubectl describe` and `kubectl logs` of its pods."
        if images
        else "Run `managed-sessions install --image REF`.",
    )


def leader(present: Presence) -> Check:
    """Check that an operator leads."""
    if present.leads:
        return Check("leader", CheckResult.OK, present.explanation)
    return Check(
        "leader",
        CheckResult.FAILED,
        present.explanation,
        "See the operator's log. Until an operator leads, no session is served.",
    )


def secrets(present: Mapping[str, Iterable[str]], *, webhook_wanted: bool = True) -> list[Check]:
    """Check that the Secrets have the keys that each process requires.

    Args:
        present: the keys of each Secret.
        webhook_wanted: whether the installation is supposed to have a webhook.
    """
    checks = []
    signing_key = Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY
    for name, allowed in keys.SECRETS.items():
        there = set(present.get(name, ()))
        lacking = [key for key in REQUIRED_CREDENTIALS if key in allowed and key not in there]
        names = ", ".join(sorted(there)) or "no keys"
        if lacking:
            variables = ", ".join(each.variable for each in lacking)
            text = f"missing: {', '.join(lacking)} (present: {names})"
            fix = f"Set {variables} and run `managed-sessions install` again."
            checks.append(Check(f"secret {name}", CheckResult.FAILED, text, fix))
        elif signing_key in allowed and signing_key not in there and webhook_wanted:
            text = f"missing: {signing_key}; the webhook answers 503, and work is found by polling alone"
            fix = (
                f"Create the endpoint in the Claude Console, set {signing_key.variable} and run "
                "`managed-sessions install` again."
            )
            checks.append(Check(f"secret {name}", CheckResult.WARNING, text, fix))
        else:
            checks.append(Check(f"secret {name}", CheckResult.OK, names))
    return checks


def queue(summary: WorkSummary, now: datetime) -> Check:
    """Check that the environment's work is taken."""
    pollers = summary.workers_polling
    polling = "" if pollers is None else f", {counted(pollers, 'poller')} in the last 30 s"
    if summary.oldest_queued_at is None or not summary.depth:
        return Check(
            "work queue", CheckResult.OK, f"{summary.depth} waiting, {summary.pending} offered{polling}"
        )
    age = (now - summary.oldest_queued_at).total_seconds()
    detail = f"{summary.depth} waiting, the oldest for {age:.0f} s, {summary.pending} offered{polling}"
    if age < _WAITS_LONG_SECONDS:
        return Check("work queue", CheckResult.OK, detail)
    return Check(
        "work queue",
        CheckResult.WARNING,
        detail,
        "See the operator's log: all sandbox slots may be in use (MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES), or "
        "it cannot poll the queue.",
    )


def sessions(found: Sequence[ManagedSession]) -> list[Check]:
    """Count the sessions by reason, and check each: those that are not ready come with a remedy."""
    counts = Counter(ready_condition(each)[1] or "new" for each in found)
    summary = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "no sessions yet"
    checks = [Check("sessions", CheckResult.OK, summary)]
    not_ready = [each for each in found if ready_condition(each)[0] == ConditionStatus.FALSE.value]
    for each in not_ready[:_MOST_SESSIONS]:
        _, reason, message = ready_condition(each)
        result = CheckResult.WARNING if reason in PASSING_REASONS else CheckResult.FAILED
        name = f"session {each.spec.session_id}"
        checks.append(Check(name, result, f"{reason}: {message}", remedy(reason)))
    if len(not_ready) > _MOST_SESSIONS:
        more = f"{len(not_ready) - _MOST_SESSIONS} more are not ready"
        checks.append(
            Check("sessions", CheckResult.WARNING, more, "Run `managed-sessions doctor SESSION` for each.")
        )
    return checks


def classes(found: Sequence[ManagedSessionClass]) -> list[Check]:
    """Count the classes, and check each: those that are not ready come with a remedy."""
    if not found:
        return []
    served = sum(each.status.sessions for each in found)
    text = f"{counted(len(found), 'class', 'classes')}, which serve {counted(served, 'session')}"
    checks = [Check("classes", CheckResult.OK, text)]
    for each in found:
        ready = each.status.condition(ConditionType.READY)
        if ready is not None and ready.status is ConditionStatus.FALSE:
            name = f"class {each.metadata.name}"
            text = f"{ready.reason}: {ready.message}"
            checks.append(Check(name, CheckResult.FAILED, text, remedy(ready.reason)))
    return checks


def endpoints(slices: Sequence[Object], *, webhook_wanted: bool = True) -> Check:
    """Check that the webhook's Service has a ready endpoint, if there is supposed to be one."""
    if not webhook_wanted:
        text = "the webhook is scaled to zero: work is found by polling"
        return Check("webhook service", CheckResult.OK, text)
    ready = sum(
        1
        for each in slices
        for endpoint in each.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready", True)
    )
    if ready:
        return Check("webhook service", CheckResult.OK, counted(ready, "ready endpoint"))
    return Check(
        "webhook service", CheckResult.FAILED, "no ready endpoint: Anthropic's events are not answered",
        "Check the webhook's Deployment. Until it is ready, work is found by polling.",
    )  # fmt: skip


def snapshots(count: int, retained: int) -> list[Check]:
    """Count the installation's snapshots in E2B, and those that have outlived their session."""
    if not count:
        return []
    detail = f"{counted(count, 'snapshot')}, {retained} of deleted sessions; E2B bills their storage"
    if retained:
        detail += ". `managed-sessions retained` lists them, with --delete ID removes one"
    return [Check("snapshots", CheckResult.OK, detail)]


def orphans(sandboxes: Sequence[Sandbox], found: Sequence[ManagedSession]) -> Check:
    """Check that each sandbox of this installation in E2B belongs to a resource."""
    identities = {each.identity for each in found}
    owners = {each.status.sandbox.shared_by for each in found} - {None}
    lost = [
        each
        for each in sandboxes
        if each.metadata.get(METADATA_RESOURCE_UID) not in identities
        and each.metadata.get(METADATA_SHARED) not in owners
    ]
    paused = sum(each.paused for each in sandboxes)
    detail = f"{len(sandboxes) - paused} running, {paused} paused"
    if not lost:
        return Check("sandboxes", CheckResult.OK, detail)
    names = ", ".join(each.sandbox_id for each in lost[:5])
    return Check(
        "sandboxes",
        CheckResult.WARNING,
        f"{detail}; {len(lost)} without a resource: {names}",
        "The operator kills them within a minute, or after ten minutes if it has never seen their resource. "
        "If they stay, see its log.",
    )
