"""`managed-sessions install`: checks, then Secrets, template, manifests, and the wait for the pods."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import typer
from managed_session_api.names import API_VERSION, KIND
from managed_session_local.errors import TemplateError
from managed_session_local.worker_template import ensure_template
from managed_session_worker.template import template_name
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.changes import Change, change
from managed_session_cli.clouds import e2b_options
from managed_session_cli.cluster import Access, Cluster, Object, Reference
from managed_session_cli.definition_fields import has_more_fields
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import (
    DEFINITION,
    OPERATOR,
    WEBHOOK,
    Installation,
    accesses,
    definition_of,
    installation_id,
    template_setting,
)
from managed_session_cli.key_trial import check_keys, check_team
from managed_session_cli.rollout import Rollout, rollout
from managed_session_cli.uninstall_guard import remove_guard

_IMAGE = re.compile(
    r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][\w.-]*)(:\d+)?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:[\w][\w.-]*)?(@sha256:[0-9a-f]{64})?"
)
"""A reference as nodes pull it; a blank, an upper-case name or `https://` is refused by them only."""

_FIRST = ("Namespace", "CustomResourceDefinition")
_POLL_SECONDS = 1.0
_ESTABLISH_SECONDS = 60.0

EVENT_TYPES = (
    "session.status_run_started",
    "session.status_terminated",
    "session.archived",
    "session.deleted",
)
"""What the endpoint in the Console is to be subscribed to."""


@dataclass(frozen=True)
class Wishes:
    """The options of the command."""

    image: str
    dry_run: bool
    yes: bool
    wait: bool
    timeout_seconds: float


@dataclass(frozen=True)
class Preparation:
    """What the checks have found out.

    Attributes:
        manifests: what is applied, in order.
        credentials: all that the installation will have, from the environment and the cluster.
        secrets: what is written into the Secrets.
        template: the E2B template that is needed, and whether it has to be built.
    """

    manifests: list[Object]
    credentials: dict[str, str]
    secrets: list[keys.SecretWrite]
    template: str
    build_template: bool


def install(cluster: Cluster, installation: Installation, wishes: Wishes, console: Console) -> None:
    """Install or upgrade.

    Raises:
        CommandError: something is in the way; nothing has been written if a check says so.
    """
    if not _IMAGE.fullmatch(wishes.image):
        raise CommandError(
            f"--image={wishes.image!r} is no image reference: write REGISTRY/NAME:TAG, as the nodes pull it"
        )
    preparation = _prepare(cluster, installation, wishes, console)
    changes = _dry_run(cluster, installation, preparation)
    _show_plan(preparation, changes, console, all_objects=wishes.dry_run)
    if wishes.dry_run:
        console.print("\nDry run: nothing was changed, in the cluster or in E2B.")
        return
    if not wishes.yes and not typer.confirm("\nGo on?", default=True):
        raise CommandError("nothing was changed")
    _build_template(preparation, console)
    _apply(cluster, installation, preparation, console)
    if wishes.wait:
        _wait(cluster, installation, wishes.timeout_seconds, console)
    _next_steps(installation, preparation, console, waited=wishes.wait)


def _prepare(cluster: Cluster, installation: Installation, wishes: Wishes, console: Console) -> Preparation:
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    manifests = installation.manifests(wishes.image)
    system = installation.system_namespace
    needed = [
        *accesses("patch", manifests),
        *(Access(verb, "", "secrets", system) for verb in ("get", "create", "patch")),
        Access("list", "", "pods", system),
        Access("list", "managedagents.dev", "managedsessions", installation.namespace),
    ]
    refused = [str(each) for each in needed if not cluster.may(each)]
    if refused:
        raise CommandError(
            "this kubeconfig's user lacks rights that an installation needs: "
            + "; ".join(refused)
            + ". A cluster administrator has them."
        )
    console.print(f"Permissions  {len(needed)} needed, all there")
    namespaces = {
        name: cluster.get(Reference("v1", "Namespace", name)) for name in (installation.namespace, system)
    }
    for name, namespace in namespaces.items():
        if namespace is not None and "deletionTimestamp" in namespace["metadata"]:
            raise CommandError(
                f"the namespace {name} is being deleted, and everything in it: run this again when it is gone"
            )
    definition = definition_of(manifests)
    if has_more_fields(cluster.get(DEFINITION), definition):
        # An operator of the newer version would lose what it writes into them.
        manifests.remove(definition)
        console.print("Definition   newer than this command: it stays as it is")
    present = {name: cluster.get(installation.secret(name)) for name in keys.SECRETS}
    given = keys.from_environment(os.environ)
    available = {key: value for secret in present.values() for key, value in keys.values_of(secret).items()}
    available |= given
    if absent := keys.missing(available):
        raise CommandError(
            f"not set: {', '.join(absent)}. Set them in the environment (never on the command line); the "
            "cluster's Secrets do not have them either. The ID and the key are in the Claude Console under "
            "the self-hosted environment, the E2B key at https://e2b.dev/dashboard?tab=keys."
        )
    deployed = cluster.get(installation.deployment(OPERATOR))
    settings = cluster.get(installation.settings)
    name = template_setting(deployed, settings) or template_name()
    exists = check_keys(available, name, console)
    own_id = installation_id(deployed, settings, namespaces[system])
    stored = keys.values_of(present[OPERATOR]).get(keys.E2B_API_KEY, "")
    if own_id and not set(keys.lines(available[keys.E2B_API_KEY])) <= set(keys.lines(stored)):
        sessions = cluster.list(API_VERSION, KIND, installation.namespace)
        asyncio.run(check_team(sessions, own_id, stored, available[keys.E2B_API_KEY]))
    return Preparation(manifests, available, keys.plan_writes(given, present), name, not exists)


def _dry_run(
    cluster: Cluster, installation: Installation, preparation: Preparation
) -> list[tuple[Reference, Change]]:
    """What an apply would do to each object, as the API server says.

    An object whose namespace does not exist yet can only be new; the server cannot check it.
    """
    there = {
        name
        for name in (installation.namespace, installation.system_namespace)
        if cluster.get(Reference("v1", "Namespace", name))
    }
    changes = []
    for manifest in preparation.manifests:
        reference = Reference.to(manifest)
        if reference.namespace and reference.namespace not in there:
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
    console.print("\nThis is what it does:\n")
    built = "is built in E2B, which takes a few minutes" if preparation.build_template else "exists"
    console.print(f"  Template {preparation.template} {built}")
    for write in preparation.secrets:
        line = f"  Secret {write.name}: "
        if write.values:
            line += ("changed: " if write.exists else "created with ") + ", ".join(sorted(write.values))
        else:
            line += "unchanged" if write.exists else "none yet (no value was given)"
        kept = ", ".join(write.kept)
        console.print(line + (f"; kept: {kept}" if write.values and kept else ""))
    unchanged = [reference for reference, how in changes if how is Change.UNCHANGED]
    for reference, how in changes:
        if all_objects or how is not Change.UNCHANGED:
            console.print(f"  {reference}: {how}")
    if unchanged and not all_objects:
        console.print(f"  {len(unchanged)} other objects are as they should be")


def _build_template(preparation: Preparation, console: Console) -> None:
    if not preparation.build_template:
        return
    options = e2b_options(keys.lines(preparation.credentials[keys.E2B_API_KEY])[0])
    with console.status(f"Building the template {preparation.template}"):
        try:
            asyncio.run(ensure_template(preparation.template, **options))
        except TemplateError as error:
            raise CommandError(str(error)) from None
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
    """Create the Secret or change those of its values that differ."""
    if not write.values:
        return
    if write.exists:
        cluster.merge(installation.secret(write.name), {"data": keys.encoded(write.values)})
    else:
        cluster.create(keys.secret_manifest(write, installation.system_namespace))


def _wait_established(cluster: Cluster) -> None:
    deadline = time.monotonic() + _ESTABLISH_SECONDS
    while True:
        definition = cluster.get(DEFINITION) or {}
        conditions = definition.get("status", {}).get("conditions") or []
        if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return
        if time.monotonic() > deadline:
            raise CommandError(f"{DEFINITION.name} was not established within {_ESTABLISH_SECONDS:g} s")
        time.sleep(0.2)


def rollouts(cluster: Cluster, installation: Installation) -> list[Rollout]:
    """How far both Deployments are."""
    found = []
    for name in (OPERATOR, WEBHOOK):
        labels = {"app.kubernetes.io/name": name}
        pods = cluster.list("v1", "Pod", installation.system_namespace, labels=labels)
        found.append(rollout(name, cluster.get(installation.deployment(name)), pods))
    return found


def _wait(cluster: Cluster, installation: Installation, seconds: float, console: Console) -> None:
    deadline = time.monotonic() + seconds
    said: set[str] = set()
    with console.status("Waiting for the pods") as status:
        while True:
            try:
                now = rollouts(cluster, installation)
            except ClusterError as error:
                # An API server that restarts meanwhile is no reason to give up.
                if time.monotonic() > deadline:
                    raise
                console.print(f"  {error}", markup=False)
                now = []
            if now and all(each.done for each in now):
                break
            status.update("Waiting for the pods: " + "; ".join(f"{r.name}: {r.progress}" for r in now))
            for blocker in (blocker for each in now for blocker in each.blockers if blocker not in said):
                said.add(blocker)
                console.print(f"  ! {blocker}", markup=False)
            if time.monotonic() > deadline:
                lines = [f"{each.name}: {each.progress}" for each in now if not each.done]
                lines += [blocker for each in now for blocker in each.blockers]
                raise CommandError(
                    "\n  ".join([f"the pods were not ready within {seconds:g} s:", *lines])
                    + "\nEverything is applied and the rollout goes on. `managed-sessions doctor` "
                    "looks at all parts."
                )
            time.sleep(_POLL_SECONDS)
    console.print("Pods ready: " + ", ".join(f"{each.name} ({each.progress})" for each in now))


def _next_steps(
    installation: Installation, preparation: Preparation, console: Console, *, waited: bool
) -> None:
    where = installation.system_namespace
    done = "Installed. Sessions" if waited else "Applied. As soon as the pods are ready, sessions"
    console.print(f"\n[bold green]{done} of the environment are served: the operator polls the queue.[/]\n")
    console.print("The webhook makes it faster and tells about ends. To use it:\n")
    console.print(
        f"  1. Publish the Service {WEBHOOK} (port 8000, namespace {where}) under a public name with HTTPS "
        "on port 443: by an Ingress, a Gateway or a tunnel; see docs/exposing.md."
    )
    console.print(
        "  2. In the Claude Console, under Manage > Webhooks, create an endpoint for "
        "https://YOUR-NAME/webhook with these events (leave out what is not offered):"
    )
    for event in EVENT_TYPES:
        console.print(f"       {event}")
    if keys.SIGNING_KEY not in preparation.credentials:
        console.print(
            "  3. It shows a signing key once. Set ANTHROPIC_WEBHOOK_SIGNING_KEY to it and run this command "
            "again; until then the webhook answers 503. Nothing is restarted."
        )
    console.print("\nThen try it: managed-sessions smoke")
