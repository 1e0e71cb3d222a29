"""`managed-sessions doctor`: checks every part of an installation and explains how to fix it."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property

from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.names import API_VERSION, CLASS_KIND, KIND, METADATA_INSTALLATION
from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass
from managed_session_worker.template import template_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from managed_session_cli import diagnosis, keys
from managed_session_cli.anthropic_environment import AnthropicEnvironment, check_api_key
from managed_session_cli.clouds import CloudError, E2BTeam
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.dashboard_checks import dashboard_checks, rights_of
from managed_session_cli.diagnosis import Check, CheckResult
from managed_session_cli.errors import ClusterError
from managed_session_cli.installation import (
    DASHBOARD,
    OPERATOR,
    WEBHOOK,
    Installation,
    crds_of,
    installation_id,
    template_setting,
)
from managed_session_cli.operator_presence import presence
from managed_session_cli.rollout import rollout
from managed_session_cli.session_diagnosis import session_checks
from managed_session_cli.sessions import find_session
from managed_session_cli.snapshots import retained_snapshots
from managed_session_cli.webhook_events import webhook_events
from managed_session_cli.wording import counted

_FILE_WIDTH = 250
"""Columns if the output is not a terminal: a command to paste stays on one line."""
_MARKS = {
    CheckResult.OK: "[green]✓[/]",
    CheckResult.WARNING: "[yellow]![/]",
    CheckResult.FAILED: "[red]✗[/]",
    CheckResult.SKIPPED: "[dim]-[/]",
}


def doctor(
    cluster: Cluster, installation: Installation, session: str | None, console: Console, *, as_json: bool
) -> bool:
    """Print the checks, and return whether none of them failed.

    Raises:
        CommandError: the cluster cannot be reached, or there is no such session.
    """
    version = cluster.version()
    examination = Examination(cluster, installation)
    if session is None:
        checks = examination.all(version)
    else:
        checks = examination.of_session(find_session(cluster, installation.namespace, session))
    if as_json:
        print(json.dumps([each.to_json() for each in checks], indent=2))
    else:
        show(checks, console)
    return all(each.result is not CheckResult.FAILED for each in checks)


class Examination:
    """The checks of one installation; one that the user has no permission for is skipped."""

    def __init__(self, cluster: Cluster, installation: Installation) -> None:
        self._cluster = cluster
        self._installation = installation
        self._credentials = self._read_credentials()

    def all(self, version: str) -> list[Check]:
        """Run every check, in the order in which the parts depend on each other."""
        checks = [diagnosis.cluster_version(version)]
        named: list[tuple[str, Callable[[], Check | Iterable[Check]]]] = [
            ("CRDs", self._crds),
            (OPERATOR, lambda: self._deployment(OPERATOR)),
            (WEBHOOK, lambda: self._deployment(WEBHOOK)),
            ("leader", self._leader),
            ("secrets", self._secrets),
            ("environment key", self._environment_key),
            ("API key", self._api_key),
            ("template", self._template),
            ("work queue", self._queue),
            ("webhook service", self._endpoints),
            ("webhook events", self._webhook_events),
            ("sessions", lambda: diagnosis.sessions(self._sessions())),
            ("classes", self._classes),
            ("sandboxes", self._sandboxes),
            ("snapshots", self._snapshots),
            (DASHBOARD, self._dashboard),
        ]
        for name, check in named:
            checks += _attempt(name, check)
        return checks

    def of_session(self, session: ManagedSession) -> list[Check]:
        """Run the checks of one session."""

        def at_e2b() -> Iterable[Check]:
            sandbox_id = session.status.sandbox.id
            team = self._team()
            sandbox = asyncio.run(team.sandbox(sandbox_id)) if team and sandbox_id else None
            return session_checks(session, sandbox, asked=team is not None, now=datetime.now(UTC))

        return [*_attempt("sandbox", at_e2b), *_attempt("leader", self._leader)]

    def _read_credentials(self) -> dict[str, str]:
        """Read them from the cluster's Secrets if permitted, else from the environment."""
        found = credentials_in(os.environ)
        for name in keys.SECRETS:
            try:
                found |= keys.values_of(self._cluster.get(self._installation.secret(name)))
            except ClusterError:
                continue
        return {name: keys.first(value) for name, value in found.items()}

    def _crds(self) -> list[Check]:
        own = crds_of(self._installation.manifests())
        return [diagnosis.crd(self._cluster.get(Reference.to(each)), each) for each in own]

    def _deployment(self, name: str) -> Check:
        where = self._installation.system_namespace
        deployment = self._cluster.get(self._installation.deployment(name))
        try:
            pods = self._cluster.list("v1", "Pod", where, labels={"app.kubernetes.io/name": name})
        except ClusterError:
            pods = []
        containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else []
        return diagnosis.deployment(rollout(name, deployment, pods), [each["image"] for each in containers])

    def _leader(self) -> Check:
        deployment = self._cluster.get(self._installation.deployment(OPERATOR))
        lease = self._cluster.get(self._installation.lease)
        return diagnosis.leader(presence(deployment, lease, datetime.now(UTC)))

    def _webhook_events(self) -> list[Check]:
        lease = self._cluster.get(self._installation.lease)
        return webhook_events(lease, webhook_wanted=self._webhook_wanted)

    def _secrets(self) -> list[Check]:
        present = {
            name: keys.values_of(self._cluster.get(self._installation.secret(name))).keys()
            for name in keys.SECRETS
        }
        return diagnosis.secrets(present, webhook_wanted=self._webhook_wanted)

    def _environment(self) -> AnthropicEnvironment | None:
        needed = (Credential.ANTHROPIC_ENVIRONMENT_ID, Credential.ANTHROPIC_ENVIRONMENT_KEY)
        if any(name not in self._credentials for name in needed):
            return None
        return AnthropicEnvironment(*(self._credentials[name] for name in needed))

    def _team(self) -> E2BTeam | None:
        key = self._credentials.get(Credential.E2B_API_KEY)
        return E2BTeam(key) if key else None

    def _environment_key(self) -> Check:
        environment = self._environment()
        if environment is None:
            return _no_key("environment key", Credential.ANTHROPIC_ENVIRONMENT_KEY)
        environment.check()
        return Check("environment key", CheckResult.OK, f"accepted for {environment.environment_id}")

    def _api_key(self) -> list[Check]:
        key = self._credentials.get(Credential.ANTHROPIC_API_KEY)
        environment_id = self._credentials.get(Credential.ANTHROPIC_ENVIRONMENT_ID)
        if key is None or environment_id is None:
            return []
        archived = check_api_key(key, environment_id)
        if archived:
            text = f"the environment {environment_id} was archived at {archived}"
            return [Check("API key", CheckResult.FAILED, text, "Use an environment that is not archived.")]
        return [Check("API key", CheckResult.OK, f"accepted; {environment_id} is not archived")]

    def _template(self) -> Check:
        deployment = self._cluster.get(self._installation.deployment(OPERATOR))
        name = template_setting(deployment, self._cluster.get(self._installation.settings)) or template_name()
        team = self._team()
        if team is None:
            return _no_key("template", Credential.E2B_API_KEY)
        if asyncio.run(team.has_template(name)):
            return Check("template", CheckResult.OK, f"E2B accepts the key; {name} exists")
        return Check(
            "template",
            CheckResult.FAILED,
            f"E2B accepts the key; {name} does not exist",
            "Run `managed-sessions template build` with this key.",
        )

    def _queue(self) -> list[Check]:
        environment = self._environment()
        return [diagnosis.queue(environment.queue(), datetime.now(UTC))] if environment else []

    def _endpoints(self) -> Check:
        labels = {"kubernetes.io/service-name": WEBHOOK}
        where = self._installation.system_namespace
        slices = self._cluster.list("discovery.k8s.io/v1", "EndpointSlice", where, labels=labels)
        return diagnosis.endpoints(slices, webhook_wanted=self._webhook_wanted)

    @cached_property
    def _webhook_wanted(self) -> bool:
        """Whether the installation is supposed to have a webhook: it is not scaled to zero."""
        deployment = self._cluster.get(self._installation.deployment(WEBHOOK))
        return deployment is None or deployment["spec"].get("replicas", 1) > 0

    def _sessions(self) -> list[ManagedSession]:
        found = self._cluster.list(API_VERSION, KIND, self._installation.namespace)
        return [ManagedSession.model_validate(each) for each in found]

    def _classes(self) -> list[Check]:
        found = self._cluster.list(API_VERSION, CLASS_KIND, self._installation.namespace)
        return diagnosis.classes([ManagedSessionClass.model_validate(each) for each in found])

    @cached_property
    def _own_id(self) -> str | None:
        """The installation's ID."""
        deployment = self._cluster.get(self._installation.deployment(OPERATOR))
        system = self._cluster.get(Reference("v1", "Namespace", self._installation.system_namespace))
        return installation_id(deployment, self._cluster.get(self._installation.settings), system)

    def _snapshots(self) -> list[Check]:
        team, own = self._team(), self._own_id
        if team is None or own is None:
            return []
        known, left = retained_snapshots(team, own, self._sessions())
        return diagnosis.snapshots(len(known), len(left))

    def _sandboxes(self) -> list[Check]:
        team, own = self._team(), self._own_id
        if team is None or own is None:
            return []
        # Sandboxes first: one that is created meanwhile has its resource already.
        sandboxes = asyncio.run(team.sandboxes({METADATA_INSTALLATION: own}))
        return [diagnosis.orphans(sandboxes, self._sessions())]

    def _dashboard(self) -> list[Check]:
        """Check the dashboard, which is optional."""
        deployment = self._cluster.get(self._installation.deployment(DASHBOARD))
        if deployment is None:
            return []
        return [self._deployment(DASHBOARD), *_attempt("dashboard sign-in", self._dashboard_access)]

    def _dashboard_access(self) -> list[Check]:
        account = f"{self._installation.system_namespace}:{DASHBOARD}"
        wanted = rights_of(self._installation.dashboard_manifests())
        missing = [each for each in wanted if not self._cluster.account_may(account, each)]
        try:
            secret = self._cluster.get(self._installation.secret(DASHBOARD))
            token = keys.values_of(secret).get(Credential.DASHBOARD_TOKEN, "")
        except ClusterError:
            return dashboard_checks(missing, None)
        return dashboard_checks(missing, token)


def _attempt(name: str, check: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    try:
        done = check()
    except ClusterError as error:
        if error.status == 403:
            return [Check(name, CheckResult.SKIPPED, f"missing permission: {error}")]
        return [Check(name, CheckResult.FAILED, str(error))]
    except CloudError as error:
        return [Check(name, CheckResult.FAILED, str(error))]
    return [done] if isinstance(done, Check) else list(done)


def _no_key(name: str, credential: Credential) -> Check:
    text = f"{credential} is neither in a Secret that you may read nor in {credential.variable}"
    return Check(name, CheckResult.SKIPPED, text)


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table, and a summary."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in checks:
        table.add_row(_MARKS[each.result], each.name, escape(each.detail))
        if each.remedy and each.result is not CheckResult.OK:
            table.add_row("", "", f"[bold]→[/] {escape(each.remedy)}")
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    console.print(table, soft_wrap=False)
    console.print(f"\n{_summary(checks)}.")


def _summary(checks: list[Check]) -> str:
    counts = Counter(each.result for each in checks)
    parts = []
    if failed := counts[CheckResult.FAILED]:
        parts.append(f"{failed} of {counted(len(checks), 'check')} failed")
    if warnings := counts[CheckResult.WARNING]:
        parts.append(counted(warnings, "warning"))
    if not parts:
        parts.append("No problems found")
    if skipped := counts[CheckResult.SKIPPED]:
        parts.append(f"{counted(skipped, 'check')} skipped")
    return ", ".join(parts)
