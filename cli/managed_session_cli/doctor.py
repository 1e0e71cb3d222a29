"""`managed-sessions doctor`: looks at every part of an installation and says what to do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property

from managed_session_api.names import API_VERSION, KIND, METADATA_INSTALLATION
from managed_session_api.resource import ManagedSession
from managed_session_worker.template import template_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from managed_session_cli import diagnosis, keys
from managed_session_cli.clouds import AnthropicEnvironment, CloudError, E2BTeam, check_api_key
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.diagnosis import Check, Verdict
from managed_session_cli.errors import ClusterError
from managed_session_cli.installation import (
    DEFINITION,
    OPERATOR,
    WEBHOOK,
    Installation,
    definition_of,
    installation_id,
    template_setting,
)
from managed_session_cli.operator_presence import presence
from managed_session_cli.rollout import rollout
from managed_session_cli.session_diagnosis import session_checks
from managed_session_cli.sessions import find_session

_FILE_WIDTH = 250
"""Columns where nobody's terminal says how many there are: a command to paste stays on one line."""
_MARKS = {
    Verdict.OK: "[green]✓[/]",
    Verdict.WARNING: "[yellow]![/]",
    Verdict.FAILED: "[red]✗[/]",
    Verdict.SKIPPED: "[dim]-[/]",
}


def doctor(
    cluster: Cluster, installation: Installation, session: str | None, console: Console, *, as_json: bool
) -> bool:
    """Print the checks; whether none has failed.

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
    return all(each.verdict is not Verdict.FAILED for each in checks)


class Examination:
    """Looks at one installation; a part that may not be looked at is skipped and says so."""

    def __init__(self, cluster: Cluster, installation: Installation) -> None:
        self._cluster = cluster
        self._installation = installation
        self._credentials = self._read_credentials()

    def all(self, version: str) -> list[Check]:
        """Every check, in the order in which parts depend on each other."""
        checks = [diagnosis.cluster_version(version)]
        looks: list[tuple[str, Callable[[], Check | Iterable[Check]]]] = [
            ("definition", self._definition),
            (OPERATOR, lambda: self._deployment(OPERATOR)),
            (WEBHOOK, lambda: self._deployment(WEBHOOK)),
            ("leader", self._leader),
            ("secrets", self._secrets),
            ("environment key", self._environment_key),
            ("API key", self._api_key),
            ("template", self._template),
            ("work queue", self._queue),
            ("webhook service", self._endpoints),
            ("sessions", lambda: diagnosis.sessions(self._sessions())),
            ("sandboxes", self._sandboxes),
        ]
        for name, look in looks:
            checks += _attempt(name, look)
        return checks

    def of_session(self, session: ManagedSession) -> list[Check]:
        """The checks of one session."""

        def at_e2b() -> Iterable[Check]:
            sandbox_id = session.status.sandbox.id
            team = self._team()
            sandbox = asyncio.run(team.sandbox(sandbox_id)) if team and sandbox_id else None
            return session_checks(session, sandbox, asked=team is not None, now=datetime.now(UTC))

        return [*_attempt("sandbox", at_e2b), *_attempt("leader", self._leader)]

    def _read_credentials(self) -> dict[str, str]:
        """From the cluster's Secrets where they may be read, else from the environment."""
        found = keys.from_environment(os.environ)
        for name in keys.SECRETS:
            try:
                found |= keys.values_of(self._cluster.get(self._installation.secret(name)))
            except ClusterError:
                continue
        return {key: value.split()[0] for key, value in found.items()}

    def _definition(self) -> Check:
        own = definition_of(self._installation.manifests())
        return diagnosis.definition(self._cluster.get(DEFINITION), own)

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

    def _secrets(self) -> list[Check]:
        present = {
            name: keys.values_of(self._cluster.get(self._installation.secret(name))).keys()
            for name in keys.SECRETS
        }
        return diagnosis.secrets(present, webhook_wanted=self._webhook_wanted)

    def _environment(self) -> AnthropicEnvironment | None:
        needed = (keys.ENVIRONMENT_ID, keys.ENVIRONMENT_KEY)
        if any(name not in self._credentials for name in needed):
            return None
        return AnthropicEnvironment(*(self._credentials[name] for name in needed))

    def _team(self) -> E2BTeam | None:
        key = self._credentials.get(keys.E2B_API_KEY)
        return E2BTeam(key) if key else None

    def _environment_key(self) -> Check:
        environment = self._environment()
        if environment is None:
            return _no_key("environment key", keys.ENVIRONMENT_KEY)
        environment.check()
        return Check("environment key", Verdict.OK, f"accepted for {environment.environment_id}")

    def _api_key(self) -> list[Check]:
        key, environment_id = (self._credentials.get(name) for name in (keys.API_KEY, keys.ENVIRONMENT_ID))
        if key is None or environment_id is None:
            return []
        archived = check_api_key(key, environment_id)
        if archived:
            text = f"the environment {environment_id} was archived at {archived}"
            return [Check("API key", Verdict.FAILED, text, "Use an environment that is served.")]
        return [Check("API key", Verdict.OK, f"accepted; {environment_id} is not archived")]

    def _template(self) -> Check:
        deployment = self._cluster.get(self._installation.deployment(OPERATOR))
        name = template_setting(deployment, self._cluster.get(self._installation.settings)) or template_name()
        team = self._team()
        if team is None:
            return _no_key("template", keys.E2B_API_KEY)
        if asyncio.run(team.has_template(name)):
            return Check("template", Verdict.OK, f"E2B's key is accepted; {name} exists")
        return Check(
            "template",
            Verdict.FAILED,
            f"E2B's key is accepted; {name} does not exist",
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
        """Whether the installation is to have a webhook: it was not scaled to zero."""
        deployment = self._cluster.get(self._installation.deployment(WEBHOOK))
        return deployment is None or deployment["spec"].get("replicas", 1) > 0

    def _sessions(self) -> list[ManagedSession]:
        found = self._cluster.list(API_VERSION, KIND, self._installation.namespace)
        return [ManagedSession.model_validate(each) for each in found]

    def _sandboxes(self) -> list[Check]:
        team = self._team()
        deployment = self._cluster.get(self._installation.deployment(OPERATOR))
        system = self._cluster.get(Reference("v1", "Namespace", self._installation.system_namespace))
        own = installation_id(deployment, self._cluster.get(self._installation.settings), system)
        if team is None or own is None:
            return []
        # The sandboxes first: one that is made meanwhile has its resource already.
        sandboxes = asyncio.run(team.sandboxes({METADATA_INSTALLATION: own}))
        return [diagnosis.orphans(sandboxes, self._sessions())]


def _attempt(name: str, look: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    try:
        seen = look()
    except ClusterError as error:
        if error.status == 403:
            return [Check(name, Verdict.SKIPPED, f"you lack the right: {error}")]
        return [Check(name, Verdict.FAILED, str(error))]
    except CloudError as error:
        return [Check(name, Verdict.FAILED, str(error))]
    return [seen] if isinstance(seen, Check) else list(seen)


def _no_key(name: str, credential: str) -> Check:
    variable = keys.credential_variable(credential)
    return Check(
        name, Verdict.SKIPPED, f"no {credential}: it is in no Secret you may read, nor in {variable}"
    )


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table for people, and how many failed."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in checks:
        table.add_row(_MARKS[each.verdict], each.name, escape(each.detail))
        if each.remedy and each.verdict is not Verdict.OK:
            table.add_row("", "", f"[bold]→[/] {escape(each.remedy)}")
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    console.print(table, soft_wrap=False)
    failed = sum(each.verdict is Verdict.FAILED for each in checks)
    skipped = sum(each.verdict is Verdict.SKIPPED for each in checks)
    end = (
        f"\n{failed} of {len(checks)} checks failed"
        if failed
        else "\nNothing is wrong that can be seen from here"
    )
    console.print(end + (f"; {skipped} could not be made." if skipped else "."))
