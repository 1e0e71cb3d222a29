"""Compares the rights of deploy/ with what the processes did in a test run: `python -m tests.rights FOLDER`.

With `--of-a-part`, not all tests have run, so that a right may have gone unused.

With the setting `MANAGED_SESSIONS_AUDIT_FOLDER` every API server of a test run leaves an audit log in a
folder. This reads them all, and fails on a right that no process has used, and on a request that was refused
for want of one. A test that takes rights away says so (`expect_refusals`), and an API server that is starting
refuses everybody until it has read its roles. Requests by kubectl are the tests' own: they count neither way.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from managed_session_api.names import SYSTEM_NAMESPACE
from managed_session_cli.manifests import load_dashboard_manifests, load_manifests
from managed_session_devkit.control_plane.control_plane import STARTS_SUFFIX
from managed_session_devkit.control_plane.settings import ControlPlaneSettings

OF_A_PART = "--of-a-part"
EXPECTED = "expected-refusals.jsonl"
PROCESSES = ("managed-session-webhook", "managed-session-operator", "managed-session-dashboard")
USER_AGENTS = (*PROCESSES, "kopf/")
"""How the processes' requests begin to call themselves. What a test does with their account is not theirs."""
KUBECTL = "kubectl/"
TAKES_EFFECT = timedelta(seconds=2)
"""How long an API server may go on refusing after a right is given back."""

_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_BINDING = re.compile(
    r'RBAC: allowed by (?:RoleBinding "[^"/]+/([^"]+)"|ClusterRoleBinding "managed-session-)'
)
EVERYWHERE = "*"
"""Stands for the namespace of a right that a ClusterRole gives."""


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, in one of the two namespaces."""

    account: str
    namespace: str
    verb: str
    group: str
    resource: str
    name: str = ""
    """The one object that may be touched; empty for all."""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        name = f" {self.name}" if self.name else ""
        return f"Role {self.account} in {self.namespace}: {self.verb} {resource}{name}"


@dataclass(frozen=True)
class Request:
    """One request of a service account, as the audit log tells of it."""

    at: datetime
    account: str
    account_namespace: str
    user_agent: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    refused: bool
    """For want of a right; there are other reasons for a 403, such as a namespace that is being deleted."""
    bound_in: str
    """Namespace of the RoleBinding that allowed it, or EVERYWHERE; empty where something else did."""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.account}: {self.verb} {resource} {self.name} in {self.namespace} ({self.user_agent})"


@dataclass(frozen=True)
class ExpectedRefusals:
    """A time in which rights are kept from an account. Empty texts stand for any."""

    namespace: str
    account: str
    resource: str
    """With its subresource."""
    since: datetime
    until: datetime

    def covers(self, request: Request) -> bool:
        """Whether that is why the request was refused."""
        return (
            self.namespace in ("", request.namespace)
            and self.account in ("", request.account)
            and self.resource in ("", request.resource)
            and self.since <= request.at <= self.until + TAKES_EFFECT
        )


@contextmanager
def expect_refusals(namespace: str, account: str = "", resource: str = "") -> Iterator[None]:
    """While the block lasts, a test keeps rights from the account; by default, all rights from all."""
    since = datetime.now(UTC)
    try:
        yield
    finally:
        folder = ControlPlaneSettings().audit_folder
        if folder is not None:
            entry = {
                "namespace": namespace,
                "account": account,
                "resource": resource,
                "since": since.isoformat(),
                "until": datetime.now(UTC).isoformat(),
            }
            folder.mkdir(parents=True, exist_ok=True)
            # One write to a file opened for appending stays whole beside those of other processes.
            line = (json.dumps(entry) + "\n").encode()
            descriptor = os.open(folder / EXPECTED, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)


def granted(manifests: Iterable[dict[str, Any]]) -> set[Right]:
    """All rights that Roles and ClusterRoles give the processes."""
    return {
        Right(metadata["name"], metadata.get("namespace", EVERYWHERE), verb, group, resource, name)
        for role in manifests
        if role["kind"] in ("Role", "ClusterRole") and (metadata := role["metadata"])["name"] in PROCESSES
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def requests(log: Iterable[str]) -> Iterator[Request]:
    """The requests of the processes' accounts in an audit log."""
    for line in log:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off, where an API server was killed
        account = _ACCOUNT.fullmatch(event["user"]["username"])
        if account is None or account[2] not in PROCESSES or "objectRef" not in event:
            continue
        about, notes = event["objectRef"], event.get("annotations", {})
        bound = _BINDING.match(notes.get("authorization.k8s.io/reason", ""))
        subresource = about.get("subresource")
        yield Request(
            at=datetime.fromisoformat(event["requestReceivedTimestamp"]),
            account=account[2],
            account_namespace=account[1],
            user_agent=event.get("userAgent", ""),
            verb=event["verb"],
            group=about.get("apiGroup", ""),
            resource=f"{about['resource']}/{subresource}" if subresource else about["resource"],
            namespace=about.get("namespace", ""),
            name=about.get("name", ""),
            refused=notes.get("authorization.k8s.io/decision") == "forbid",
            bound_in=(bound[1] or EVERYWHERE) if bound else "",
        )


def uses(request: Request, right: Right) -> bool:
    """Whether a process did this by virtue of that right, whatever the namespaces are called in the test."""
    in_system = request.bound_in == request.account_namespace
    name = request.account_namespace if right.name == SYSTEM_NAMESPACE else right.name
    return (
        bool(request.bound_in)
        and request.user_agent.startswith(USER_AGENTS)
        and (request.account, request.verb, request.group, request.resource)
        == (right.account, right.verb, right.group, right.resource)
        and name in ("", request.name)
        # A test may put the webhook, which has rights in one namespace only, beside the resources.
        and (right.namespace == EVERYWHERE) == (request.bound_in == EVERYWHERE)
        and (right.account == PROCESSES[0] or in_system == (right.namespace == SYSTEM_NAMESPACE))
    )


@dataclass(frozen=True)
class Findings:
    """What a test run says about the rights."""

    used: Counter[Right]
    refused: Counter[str]


def examine(rights: set[Right], made: Iterable[Request], expected: list[ExpectedRefusals]) -> Findings:
    """Compare the rights with what was done on one API server."""
    used: Counter[Right] = Counter()
    refused: Counter[str] = Counter()
    for request in made:
        if request.user_agent.startswith(KUBECTL):
            continue
        if request.refused:
            if not any(each.covers(request) for each in expected):
                refused[str(request)] += 1
            continue
        for right in rights:
            if uses(request, right):
                used[right] += 1
    return Findings(used, refused)


def read_expected(path: Path) -> list[ExpectedRefusals]:
    """What tests have declared, or (without namespace, account and resource) when an API server started."""
    return [
        ExpectedRefusals(
            entry.get("namespace", ""),
            entry.get("account", ""),
            entry.get("resource", ""),
            datetime.fromisoformat(entry["since"]),
            datetime.fromisoformat(entry["until"]),
        )
        for entry in map(json.loads, path.read_text().splitlines() if path.is_file() else ())
    ]


def examine_folder(rights: set[Right], logs: Iterable[Path], declared: list[ExpectedRefusals]) -> Findings:
    """Compare the rights with what was done on all API servers."""
    all_used: Counter[Right] = Counter()
    all_refused: Counter[str] = Counter()
    for path in logs:
        starts = read_expected(path.with_suffix(STARTS_SUFFIX))
        with path.open(errors="replace") as log:
            found = examine(rights, requests(log), declared + starts)
        all_used += found.used
        all_refused += found.refused
    return Findings(all_used, all_refused)


def main(arguments: list[str]) -> int:
    """Print what was found in the folder; the exit status says whether the rights are just right."""
    folder = Path(arguments[0])
    logs = [path for path in sorted(folder.rglob("*.jsonl")) if path.name != EXPECTED]
    if not logs:
        print(f"no audit log in {folder}: run `make test test-faults` first", file=sys.stderr)
        return 2
    rights = granted([*load_manifests(), *load_dashboard_manifests()])
    declared = [each for path in folder.rglob(EXPECTED) for each in read_expected(path)]
    findings = examine_folder(rights, logs, declared)
    unused = rights - set(findings.used)
    for right, times in sorted(findings.used.items()):
        print(f"used {times:8} times  {right}")
    for right in sorted(unused):
        print(f"NEVER USED           {right}")
    for request, times in sorted(findings.refused.items()):
        print(f"REFUSED {times:6} times  {request}")
    print(
        f"{len(logs)} audit logs: {len(rights)} rights, {len(unused)} never used, "
        f"{findings.refused.total()} requests refused"
    )
    return 1 if findings.refused or (unused and OF_A_PART not in arguments) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
