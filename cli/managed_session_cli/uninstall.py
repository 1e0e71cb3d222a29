"""`managed-sessions uninstall`: removes sessions and sandboxes, then the operator, Secrets and the CRDs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import typer
from managed_session_api.credentials import Credential
from managed_session_api.names import (
    API_VERSION,
    CLASS_KIND,
    FINALIZER,
    KIND,
    METADATA_INSTALLATION,
    METADATA_RESOURCE_UID,
    METADATA_SESSION,
    identity,
    snapshot_prefix,
    token_secret_name,
)
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.anthropic_environment import AnthropicEnvironment
from managed_session_cli.clouds import CloudError, E2BTeam, Sandbox
from managed_session_cli.cluster import Cluster, Object, Permission, Reference
from managed_session_cli.errors import ClusterError, CommandError, NotFoundError
from managed_session_cli.installation import (
    CRDS,
    DASHBOARD,
    OPERATOR,
    WEBHOOK,
    Installation,
)
from managed_session_cli.manifests import DELETION_GUARD
from managed_session_cli.operator_presence import presence
from managed_session_cli.removal import cluster_wide_stays, describe_waiting, removal_order
from managed_session_cli.shared_sandboxes import delete_shared_sandboxes
from managed_session_cli.uninstall_guard import guard, put_guard
from managed_session_cli.uninstall_survey import Survey, survey
from managed_session_cli.wording import counted

_POLL_SECONDS = 0.5
_OF_DASHBOARD = (("v1", "Secret"), ("v1", "ConfigMap"))
"""What a user may have created for the dashboard."""
_LEADER_SECONDS = 20.0
_GUARD_SECONDS = 15.0


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    yes: bool
    keep_crd: bool
    force: bool
    timeout_seconds: float
    installation_id: str | None


def uninstall(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Remove the installation.

    Raises:
        CommandError: it cannot continue. What was removed stays removed, and the command can be run again.
    """
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    found = survey(cluster, installation, options.installation_id)
    sessions = _sessions(cluster, installation)
    alive = _operator_acts(cluster, installation, console)
    if sessions and not alive and not options.force:
        raise CommandError(_operator_gone(installation, len(sessions)))
    if not alive and options.force and sessions:
        _need_keys_for_force(found)
    _confirm(installation, sessions, found, options, console)

    deadline = time.monotonic() + options.timeout_seconds
    _reject_new_sessions(cluster, installation, found, console)
    cluster.delete(installation.deployment(WEBHOOK))
    _until_pods_are_gone(cluster, installation, WEBHOOK, deadline)
    if alive:
        _delete_sessions(cluster, installation, deadline, console)
    else:
        _delete_sessions_without_operator(cluster, installation, found, console)
    _delete(cluster, installation.deployment(OPERATOR))
    _until_pods_are_gone(cluster, installation, OPERATOR, deadline)
    delete_shared_sandboxes(cluster, installation, console)
    _kill_remaining_sandboxes(found, deadline, console)
    _name_what_stays(found, console)
    _delete_rest(cluster, installation, found, options, deadline, console)


def _sessions(cluster: Cluster, installation: Installation) -> list[Object]:
    return cluster.list(API_VERSION, KIND, installation.namespace)


def _operator_acts(cluster: Cluster, installation: Installation, console: Console) -> bool:
    """Return whether there is a working operator, after giving its pods time to take the Lease."""
    deadline = time.monotonic() + _LEADER_SECONDS
    while True:
        seen = presence(
            cluster.get(installation.deployment(OPERATOR)), cluster.get(installation.lease), datetime.now(UTC)
        )
        if not seen.acts or seen.leads or time.monotonic() > deadline:
            console.print(f"Operator     {seen.explanation}")
            return seen.acts
        time.sleep(_POLL_SECONDS)


def _operator_gone(installation: Installation, count: int) -> str:
    return (
        f"the operator is gone, and {installation.namespace} still has {counted(count, 'ManagedSession')}. "
        "Only the operator confirms that a sandbox is gone, so their deletion would never complete.\n"
        "Either run `managed-sessions install` to bring the operator back, and then this command again. Or "
        "run this command with --force: it kills the sandboxes from here, stops their work in the queue and "
        f"removes the finalizer {FINALIZER}. --force requires the E2B key, from the operator's Secret or "
        "from E2B_API_KEY."
    )


def _need_keys_for_force(found: Survey) -> None:
    if found.e2b_key is None:
        raise CommandError(
            f"cannot kill the sandboxes: neither the Secret {OPERATOR} nor E2B_API_KEY has a key that E2B "
            "accepts"
        )


def _confirm(
    installation: Installation, sessions: Sequence[Object], found: Survey, options: Options, console: Console
) -> None:
    names = [each["metadata"]["name"] for each in found.namespaces]
    keeps_crd = options.keep_crd or found.missing_permissions
    if not names:
        console.print(
            f"The namespaces {installation.namespace} and {installation.system_namespace} do not exist. If "
            "the installation is in others, use --namespace and --system-namespace. Otherwise only "
            "cluster-wide objects are left to remove."
        )
    console.print(
        "\nFirst remove the webhook endpoint in the Claude Console (Manage > Webhooks). Otherwise Anthropic "
        "keeps sending events to it, and disables it after failures. Work that is queued in the environment "
        "stays there and is not served.\n"
    )
    console.print(
        f"This deletes {counted(len(sessions), 'ManagedSession')} with all sandboxes and their files, then "
        "the webhook, the operator, the roles, the Secrets"
        + "".join(
            f", the namespace {name} with everything in it" for name in names if name not in found.preexisting
        )
        + ("." if keeps_crd else ", and the CRDs unless another installation uses them.")
        + " ManagedSessionClasses go with their namespace or their CRD."
        + "".join(
            f" The namespace {name} stays: no installation created it." for name in sorted(found.preexisting)
        )
    )
    if not options.yes and not typer.confirm(
        "\nIs the endpoint removed, and do you want to continue?", default=False
    ):
        raise CommandError("nothing was changed")


def _reject_new_sessions(
    cluster: Cluster, installation: Installation, found: Survey, console: Console
) -> None:
    """Reject new ManagedSessions, if the user has the permission for that."""
    names = [n["metadata"]["name"] for n in found.namespaces if "deletionTimestamp" not in n["metadata"]]
    if installation.namespace not in names:
        return
    try:
        put_guard(cluster, installation)
    except ClusterError as error:
        if error.status != 403:
            raise
        console.print(
            "  ! you lack the permission to apply a ResourceQuota, so users can still start sessions. If "
            "sessions are left at the end, run this command again."
        )


def _delete_sessions(cluster: Cluster, installation: Installation, deadline: float, console: Console) -> None:
    """Delete all ManagedSessions, and wait until the operator has confirmed that each sandbox is gone."""
    empty_lists = 0
    asked: set[str] = set()
    with console.status("Deleting sessions") as status:
        while empty_lists < 2:
            sessions = _sessions(cluster, installation)
            empty_lists = empty_lists + 1 if not sessions else 0
            for session in sessions:
                if session["metadata"]["uid"] not in asked:
                    cluster.delete(_reference(session))
                    asked.add(session["metadata"]["uid"])
            if sessions and time.monotonic() > deadline:
                raise CommandError(
                    "\n  ".join(
                        ["the sandboxes of these sessions are not gone yet:", *describe_waiting(sessions)]
                    )
                    + "\nThe operator keeps trying. Fix the cause and run this command again, or run "
                    "`managed-sessions install` to bring the webhook back."
                )
            status.update(f"Waiting for {len(sessions)} of {len(asked)} sessions' sandboxes to be gone")
            time.sleep(_POLL_SECONDS)
    console.print(f"Sessions     {len(asked)} deleted; the operator confirmed that their sandboxes are gone")


def _delete_sessions_without_operator(
    cluster: Cluster, installation: Installation, found: Survey, console: Console
) -> None:
    """Do the operator's part of the clean-up, then delete all ManagedSessions."""
    sessions = _sessions(cluster, installation)
    if not sessions:
        return
    killed = asyncio.run(_kill_sandboxes_of(sessions, E2BTeam(found.e2b_key or "")))
    stopped = _stop_work(sessions, found, console)
    for session in sessions:
        reference = _reference(session)
        cluster.delete(Reference("v1", "Secret", token_secret_name(reference.name), reference.namespace))
        cluster.delete(reference)
        others = [each for each in session["metadata"].get("finalizers", []) if each != FINALIZER]
        with suppress(NotFoundError):
            cluster.merge(reference, {"metadata": {"finalizers": others or None}})
    console.print(
        f"Sessions     {len(sessions)} deleted without the operator: "
        f"{counted(killed, 'sandbox', 'sandboxes')} killed, {counted(stopped, 'work item')} stopped"
    )


async def _kill_sandboxes_of(sessions: Sequence[Object], team: E2BTeam) -> int:
    sandboxes: dict[str, Sandbox] = {}
    for session in sessions:
        metadata = {
            METADATA_RESOURCE_UID: identity(session["metadata"]),
            METADATA_SESSION: session["spec"]["sessionID"],
        }
        for sandbox in await team.sandboxes(metadata):
            sandboxes[sandbox.sandbox_id] = sandbox
    await team.kill(list(sandboxes.values()))
    return len(sandboxes)


def _stop_work(sessions: Sequence[Object], found: Survey, console: Console) -> int:
    """Stop the sessions' work if the environment key is known, and return how many items were stopped.

    A rejection is reported, and does not end the command.
    """
    needed = (Credential.ANTHROPIC_ENVIRONMENT_ID, Credential.ANTHROPIC_ENVIRONMENT_KEY)
    if any(name not in found.credentials for name in needed):
        console.print("  ! work in the queue is not stopped: the environment key is missing")
        return 0
    environment = AnthropicEnvironment(*(keys.first(found.credentials[name]) for name in needed))
    stopped = 0
    for session in sessions:
        work = session.get("status", {}).get("work", {})
        if not work.get("id") or work.get("finishedAt"):
            continue
        try:
            environment.stop(work["id"])
            stopped += 1
        except CloudError as error:
            console.print(f"  ! work of {session['spec']['sessionID']} is not stopped: {error}", markup=False)
            return stopped
    return stopped


def _kill_remaining_sandboxes(found: Survey, deadline: float, console: Console) -> None:
    """Kill the sandboxes that E2B still lists for this installation, until it lists none."""
    if found.e2b_key is None or found.installation_id is None:
        why = "the installation's ID is unknown" if found.e2b_key else "there is no key that E2B accepts"
        console.print(f"  ! cannot check whether sandboxes are left in E2B: {why}")
        return
    team, metadata = E2BTeam(found.e2b_key), {METADATA_INSTALLATION: found.installation_id}
    killed = asyncio.run(_kill_all(team, metadata, deadline))
    console.print("Sandboxes    none left in E2B" + (f" ({killed} killed now)" if killed else ""))


def _name_what_stays(found: Survey, console: Console) -> None:
    """Name the snapshots that outlive the installation. An error does not stop the removal."""
    if found.e2b_key is None or found.installation_id is None:
        return
    try:
        left = asyncio.run(E2BTeam(found.e2b_key).snapshots(snapshot_prefix(found.installation_id)))
    except CloudError as error:
        console.print(f"  ! cannot tell whether snapshots stay in E2B: {error}", markup=False)
        return
    if left:
        listed = "\n  ".join(left)
        console.print(
            f"Snapshots    {counted(len(left), 'snapshot')} of deleted sessions stay in E2B, which bills "
            f"their storage. Delete those that you do not need with E2B's tools:\n  {listed}",
            markup=False,
        )


async def _kill_all(team: E2BTeam, metadata: dict[str, str], deadline: float) -> int:
    killed: set[str] = set()
    while left := await team.sandboxes(metadata):
        await team.kill(left)
        killed |= {each.sandbox_id for each in left}
        if time.monotonic() > deadline:
            count = counted(len(left), "sandbox", "sandboxes")
            raise CommandError(f"E2B still lists {count} of this installation. Run this command again.")
        await asyncio.sleep(_POLL_SECONDS)
    return len(killed)


def _delete_rest(
    cluster: Cluster,
    installation: Installation,
    found: Survey,
    options: Options,
    deadline: float,
    console: Console,
) -> None:
    if found.missing_permissions:
        stays: str | None = f"you lack permissions: {'; '.join(found.missing_permissions)}"
    else:
        stays = cluster_wide_stays(
            cluster.list(API_VERSION, KIND),
            [
                each
                for each in cluster.list(API_VERSION, CLASS_KIND)
                if each["metadata"]["namespace"] != installation.namespace
            ],
            cluster.list("apps/v1", "Deployment", labels={"app.kubernetes.io/name": OPERATOR}),
            keep=options.keep_crd,
        )
    extra = [installation.secret(name) for name in keys.SECRETS]
    extra += [installation.settings, installation.lease]
    extra += [Reference(v, k, DASHBOARD, installation.system_namespace) for v, k in _OF_DASHBOARD]
    if cluster.may(Permission("delete", "", "resourcequotas", installation.namespace)):
        extra.append(Reference.to(guard(installation)))
    order = removal_order(
        found.manifests,
        extra,
        cluster_wide=stays is None,
        preexisting=found.preexisting,
        guarded=not found.missing_permissions,
    )
    deleted = sum([_delete(cluster, reference) for reference in order])
    for reference in order:
        _until(partial(_is_gone, cluster, reference), f"{reference} to be gone", deadline)
    console.print(f"Cluster      {counted(deleted, 'object')} deleted")
    if stays:
        *first, last = (each.name for each in CRDS)
        names = f"{', '.join(first)} and {last}"
        console.print(f"  ! the CRDs {names} stay: {stays}", markup=False)
    console.print("\n[bold green]Uninstalled.[/]" if deleted else "\nThere was nothing to remove.")


def _delete(cluster: Cluster, reference: Reference) -> bool:
    """Delete an object; the guard of `deploy/` may take a moment to notice that no session is left."""
    deadline = time.monotonic() + _GUARD_SECONDS
    while True:
        try:
            return cluster.delete(reference)
        except ClusterError as error:
            if DELETION_GUARD not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _is_gone(cluster: Cluster, reference: Reference) -> bool:
    return cluster.get(reference) is None


def _until_pods_are_gone(cluster: Cluster, installation: Installation, name: str, deadline: float) -> None:
    labels = {"app.kubernetes.io/name": name}
    _until(
        lambda: not cluster.list("v1", "Pod", installation.system_namespace, labels=labels),
        f"the pods of {name} to end",
        deadline,
    )


def _until(done: Callable[[], bool], what: str, deadline: float) -> None:
    while not done():
        if time.monotonic() > deadline:
            raise CommandError(f"timed out while waiting for {what}. Run this command again to continue.")
        time.sleep(_POLL_SECONDS)


def _reference(session: Object) -> Reference:
    return Reference.to({"apiVersion": API_VERSION, "kind": KIND, **session})
