"""`managed-sessions install`: runs checks, builds the template, writes Secrets, and applies manifests."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import typer
from managed_session_api.credentials import Credential, credentials_in, missing_variables
from managed_session_api.events import RECORDED_TYPES
from managed_session_api.names import API_VERSION, GROUP, KIND, PLURAL
from managed_session_worker.template import template_name
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.changes import Change, change
from managed_session_cli.clouds import e2b_options
from managed_session_cli.cluster import Cluster, Object, Permission, Reference
from managed_session_cli.crd_fields import has_more_fields, is_established
from managed_session_cli.credential_checks import check_keys, check_team
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import (
    CRDS,
    DASHBOARD,
    OPERATOR,
    WEBHOOK,
    Installation,
    crds_of,
    installation_id,
    permissions_for,
    require_permissions,
    template_setting,
)
from managed_session_cli.rollout import Rollout, rollout
from managed_session_cli.uninstall_guard import remove_guard
from managed_session_cli.wording import counted
from managed_session_cli.worker_template import ensure_template

_IMAGE = re.compile(
    r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][\w.-]*)(:\d+)?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:[\w][\w.-]*)?(@sha256:[0-9a-f]{64})?"
)
"""A reference as nodes pull it; a blank, an upper-case name or `https://` would only fail there."""

_FIRST = ("Namespace", "CustomResourceDefinition")
_POLL_SECONDS = 1.0
_ESTABLISH_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    image: str
    dry_run: bool
    yes: bool
    wait: bool
    timeout_seconds: float
    dashboard: bool = False


@dataclass(frozen=True)
class Preparation:
    """The planned changes.

    Attributes:
        manifests: what is applied, in order.
        credentials: all that the installation will have, from the environment and the cluster.
        secrets: what is written into the Secrets.
        template: the E2B template that the operator uses.
        build_template: whether it has to be built.
    """

    manifests: list[Object]
    credentials: dict[str, str]
    secrets: list[keys.SecretWrite]
    template: str
    build_template: bool


def install(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Install or upgrade.

    Raises:
        CommandError: it cannot continue. If a check failed, nothing was written.
    """
    if not _IMAGE.fullmatch(options.image):
        raise CommandError(
            f"--image={options.image!r} is not an image reference. Use REGISTRY/NAME:TAG, as nodes pull it."
        )
    preparation = _prepare(cluster, installation, options, console)
    changes = _dry_run(cluster, installation, preparation)
    _show_plan(preparation, changes, console, all_objects=options.dry_run)
    if options.dry_run:
        console.print("\nDry run: nothing was changed in the cluster or in E2B.")
        return
    if not options.yes and not typer.confirm("\nContinue?", default=True):
        raise CommandError("nothing was changed")
    _build_template(preparation, console)
    _apply(cluster, installation, preparation, console)
    if options.wait:
        _wait(cluster, installation, options.timeout_seconds, console)
    _next_steps(installation, preparation, console, waited=options.wait)


def _prepare(cluster: Cluster, installation: Installation, options: Options, console: Console) -> Preparation:
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    manifests = installation.manifests(options.image)
    needed = _needed_permissions(installation, manifests)
    require_permissions(cluster, needed)
    if options.dashboard or cluster.get(installation.deployment(DASHBOARD)) is not None:
        manifests += installation.dashboard_manifests(options.image)
        needed = _needed_permissions(installation, manifests)
        require_permissions(cluster, needed)
    console.print(f"Permissions  {len(needed)} required, all granted")
    namespaces = _live_namespaces(cluster, installation)
    for crd in crds_of(manifests):
        if has_more_fields(cluster.get(Reference.to(crd)), crd):
            # An operator of the newer version would lose what it writes into the other fields.
            manifests.remove(crd)
            name = crd["metadata"]["name"]
            console.print(f"CRD          {name} is newer than this command: left unchanged")
    present = {name: cluster.get(installation.secret(name)) for name in keys.SECRETS}
    given = credentials_in(os.environ)
    available = _available_credentials(given, present)
    deployed, settings = cluster.get(installation.deployment(OPERATOR)), cluster.get(installation.settings)
    template = template_setting(deployed, settings) or template_name()
    exists = check_keys(available, template, console)
    own_id = installation_id(deployed, settings, namespaces[installation.system_namespace])
    stored = keys.values_of(present[OPERATOR]).get(Credential.E2B_API_KEY, "")
    if own_id and not set(keys.lines(available[Credential.E2B_API_KEY])) <= set(keys.lines(stored)):
        sessions = cluster.list(API_VERSION, KIND, installation.namespace)
        asyncio.run(check_team(sessions, own_id, stored, available[Credential.E2B_API_KEY]))
    return Preparation(manifests, available, keys.plan_writes(given, present), template, not exists)


def _needed_permissions(installation: Installation, manifests: Sequence[Object]) -> list[Permission]:
    system = installation.system_namespace
    return [
        *permissions_for("patch", manifests),
        *(Permission(verb, "", "secrets", system) for verb in ("get", "create", "patch")),
        Permission("list", "", "pods", system),
        Permission("list", GROUP, PLURAL, installation.namespace),
    ]


def _live_namespaces(cluster: Cluster, installation: Installation) -> dict[str, Object | None]:
    """Return the installation's namespaces, None for one that does not exist yet."""
    found = {
        name: cluster.get(Reference("v1", "Namespace", name))
        for name in (installation.namespace, installation.system_namespace)
    }
    for name, namespace in found.items():
        if namespace is not None and "deletionTimestamp" in namespace["metadata"]:
            raise CommandError(
                f"the namespace {name} is being deleted. Run this command again when it is gone."
            )
    return found


def _available_credentials(given: Mapping[str, str], secrets: Mapping[str, Object | None]) -> dict[str, str]:
    """Return the environment's credentials, completed from the cluster's Secrets."""
    stored = {key: value for secret in secrets.values() for key, value in keys.values_of(secret).items()}
    available = stored | dict(given)
    if absent := missing_variables(available):
        raise CommandError(
            f"not set: {', '.join(absent)}. Set them as environment variables; the Secrets in the cluster "
            "do not have them either. The environment's ID and key are in the Claude Console, under the "
            "self-hosted environment. E2B keys are at https://e2b.dev/dashboard?tab=keys."
        )
    return available


def _dry_run(
    cluster: Cluster, installation: Installation, preparation: Preparation
) -> list[tuple[Reference, Change]]:
    """Return what an apply would do to each object, by a dry run on the API server.

    An object whose namespace does not exist yet is new; the server cannot check it.
    """
    existing = {
        name
        for name in (installation.namespace, installation.system_namespace)
        if cluster.get(Reference("v1", "Namespace", name))
    }
    changes = []
    for manifest in preparation.manifests:
        reference = Reference.to(manifest)
        if reference.namespace and reference.namespace not in existing:
            changes.append((reference, Change.CREATED))
            continue
        before = cluster.get(reference)
        changes.append((reference, change(before, cluster.apply(manifest, dry_run=True))))
    return changes


def _show_plan(
    preparation: Preparation,
    changes: Sequence[tuple[Reference, Change]],
    console: Console,
    *,
    all_objects: bool,
) -> None:
    console.print("\nPlanned changes:\n")
    built = "will be built in E2B, which takes a few minutes" if preparation.build_template else "exists"
    console.print(f"  Template {preparation.template} {built}")
    for write in preparation.secrets:
        line = f"  Secret {write.name}: "
        if write.values:
            line += ("changed: " if write.exists else "created with ") + ", ".join(sorted(write.values))
        else:
            line += "unchanged" if write.exists else "not created (no value was given)"
        kept = ", ".join(write.kept)
        console.print(line + (f"; unchanged: {kept}" if write.values and kept else ""))
    unchanged = [reference for reference, how in changes if how is Change.UNCHANGED]
    for reference, how in changes:
        if all_objects or how is not Change.UNCHANGED:
            console.print(f"  {reference}: {how}")
    if unchanged and not all_objects:
        console.print(f"  {counted(len(unchanged), 'other object')} unchanged")


def _build_template(preparation: Preparation, console: Console) -> None:
    if not preparation.build_template:
        return
    options = e2b_options(keys.first(preparation.credentials[Credential.E2B_API_KEY]))
    with console.status(f"Building the template {preparation.template}"):
        asyncio.run(ensure_template(preparation.template, **options))
    console.print(f"\nTemplate {preparation.template} built")


def _apply(cluster: Cluster, installation: Installation, preparation: Preparation, console: Console) -> None:
    first = [each for each in preparation.manifests if each["kind"] in _FIRST]
    rest = [each for each in preparation.manifests if each["kind"] not in _FIRST]
    counts = dict.fromkeys(Change, 0)

    def apply(manifest: Object) -> None:
        before = cluster.get(Reference.to(manifest))
        counts[change(before, cluster.apply(manifest))] += 1

    for manifest in first:
        apply(manifest)
    _wait_established(cluster)
    remove_guard(cluster, installation)
    for write in preparation.secrets:
        write_secret(cluster, installation, write)
    for manifest in rest:
        apply(manifest)
    console.print("Applied: " + ", ".join(f"{count} {how}" for how, count in counts.items() if count))


def write_secret(cluster: Cluster, installation: Installation, write: keys.SecretWrite) -> None:
    """Create the Secret, or change the values that differ."""
    if not write.values:
        return
    if write.exists:
        cluster.merge(installation.secret(write.name), {"data": keys.encoded(write.values)})
    else:
        cluster.create(keys.secret_manifest(write, installation.system_namespace))


def _wait_established(cluster: Cluster) -> None:
    deadline = time.monotonic() + _ESTABLISH_SECONDS
    for crd in CRDS:
        while not is_established(cluster.get(crd)):
            if time.monotonic() > deadline:
                raise CommandError(f"the CRD {crd.name} was not established within {_ESTABLISH_SECONDS:g} s")
            time.sleep(0.2)


def rollouts(cluster: Cluster, installation: Installation) -> list[Rollout]:
    """Return the state of the Deployments' rollouts; that of the dashboard only if it is installed."""
    found = []
    optional = [DASHBOARD] if cluster.get(installation.deployment(DASHBOARD)) is not None else []
    for name in (OPERATOR, WEBHOOK, *optional):
        labels = {"app.kubernetes.io/name": name}
        pods = cluster.list("v1", "Pod", installation.system_namespace, labels=labels)
        found.append(rollout(name, cluster.get(installation.deployment(name)), pods))
    return found


def _wait(cluster: Cluster, installation: Installation, seconds: float, console: Console) -> None:
    deadline = time.monotonic() + seconds
    reported: set[str] = set()
    with console.status("Waiting for the pods") as status:
        while True:
            try:
                now = rollouts(cluster, installation)
            except ClusterError as error:
                # The API server may restart meanwhile.
                if time.monotonic() > deadline:
                    raise
                console.print(f"  {error}", markup=False)
                now = []
            if now and all(each.done for each in now):
                break
            status.update("Waiting for the pods: " + "; ".join(f"{r.name}: {r.progress}" for r in now))
            for blocker in (blocker for each in now for blocker in each.blockers if blocker not in reported):
                reported.add(blocker)
                console.print(f"  ! {blocker}", markup=False)
            if time.monotonic() > deadline:
                lines = [f"{each.name}: {each.progress}" for each in now if not each.done]
                lines += [blocker for each in now for blocker in each.blockers]
                raise CommandError(
                    "\n  ".join([f"the pods were not ready within {seconds:g} s:", *lines])
                    + "\nEverything is applied, and the rollout continues. Run `managed-sessions doctor` to "
                    "check all parts."
                )
            time.sleep(_POLL_SECONDS)
    console.print("Pods ready: " + ", ".join(f"{each.name} ({each.progress})" for each in now))


def _next_steps(
    installation: Installation, preparation: Preparation, console: Console, *, waited: bool
) -> None:
    where = installation.system_namespace
    done = "Installed. The operator" if waited else "Applied. As soon as its pods are ready, the operator"
    console.print(f"\n[bold green]{done} polls the queue and serves the environment's sessions.[/]\n")
    console.print("With a webhook, turns start faster and ended sessions are noticed sooner. To use it:\n")
    console.print(
        f"  1. Publish the Service {WEBHOOK} (port 8000, namespace {where}) with HTTPS on port 443 of a "
        "public host name, by an Ingress, a Gateway or a tunnel: see docs/exposing.md."
    )
    console.print(
        "  2. In the Claude Console, under Manage > Webhooks, create an endpoint for "
        "https://YOUR-NAME/webhook with these events (skip those that the Console does not offer):"
    )
    for event in RECORDED_TYPES:
        console.print(f"       {event}")
    if Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY not in preparation.credentials:
        console.print(
            "  3. The Console shows a signing key once. Set ANTHROPIC_WEBHOOK_SIGNING_KEY to it and run this "
            "command again. Until then the webhook answers 503. No restart is needed."
        )
    console.print("\nThen test the installation: managed-sessions smoke")
