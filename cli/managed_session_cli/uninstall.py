"""`managed-sessions uninstall`: sessions with their sandboxes, then operator, Secrets and definition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import typer
from managed_session_api.names import (
    API_VERSION,
    FINALIZER,
    KIND,
    METADATA_INSTALLATION,
    METADATA_RESOURCE_UID,
    METADATA_SESSION,
    identity,
    token_secret_name,
)
from managed_session_local.manifests import DELETION_GUARD
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.clouds import AnthropicEnvironment, CloudError, E2BTeam, Sandbox
from managed_session_cli.cluster import Access, Cluster, Object, Reference
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import (
    DEFINITION,
    OPERATOR,
    WEBHOOK,
    Installation,
)
from managed_session_cli.operator_presence import presence
from managed_session_cli.removal import cluster_wide_stays, describe_waiting, removal_order
from managed_session_cli.uninstall_guard import guard, put_guard
from managed_session_cli.uninstall_survey import Found, look

_POLL_SECONDS = 0.5
_LEADER_SECONDS = 20.0
_GUARD_SECONDS = 15.0


@dataclass(frozen=True)
class Wishes:
    """The options of the command."""

    yes: bool
    keep_crd: bool
    force: bool
    timeout_seconds: float
    installation_id: str | None


def uninstall(cluster: Cluster, installation: Installation, wishes: Wishes, console: Console) -> None:
    """Remove the installation.

    Raises:
        CommandError: something is in the way; what has been removed until then stays removed, and the
            command can be repeated.
    """
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    found = look(cluster, installation, wishes.installation_id)
    sessions = _sessions(cluster, installation)
    alive = _operator_acts(cluster, installation, console)
    if sessions and not alive and not wishes.force:
        raise CommandError(_operator_gone(installation, len(sessions)))
    if not alive and wishes.force and sessions:
        _need_keys_for_force(found)
    _confirm(installation, sessions, found, wishes, console)

    deadline = time.monotonic() + wishes.timeout_seconds
    _refuse_new_sessions(cluster, installation, found, console)
    cluster.delete(installation.deployment(WEBHOOK))
    _until_pods_are_gone(cluster, installation, WEBHOOK, deadline)
    if alive:
        _delete_sessions(cluster, installation, deadline, console)
    else:
        _delete_sessions_without_operator(cluster, installation, found, console)
    _delete(cluster, installation.deployment(OPERATOR))
    _until_pods_are_gone(cluster, installation, OPERATOR, deadline)
    _make_sure_of_sandboxes(found, console)
    _delete_rest(cluster, installation, found, wishes, deadline, console)


def _sessions(cluster: Cluster, installation: Installation) -> list[Object]:
    return cluster.list(API_VERSION, KIND, installation.namespace)


def _operator_acts(cluster: Cluster, installation: Installation, console: Console) -> bool:
    """Whether an operator acts; one whose pods run is given time to take the Lease."""
    deadline = time.monotonic() + _LEADER_SECONDS
    while True:
        seen = presence(
            cluster.get(installation.deployment(OPERATOR)), cluster.get(installation.lease), datetime.now(UTC)
        )
        if not seen.acts or "leads" in seen.explanation or time.monotonic() > deadline:
            console.print(f"Operator     {seen.explanation}")
            return seen.acts
        time.sleep(_POLL_SECONDS)


def _operator_gone(installation: Installation, count: int) -> str:
    return (
        f"the operator is gone, and {count} ManagedSessions of {installation.namespace} are still there. "
        "Only the operator confirms that a sandbox is gone, so their deletion would hang on its finalizer.\n"
        "Either bring it back (`managed-sessions install`) and repeat this command, or repeat it with "
        "--force: it then kills the sandboxes itself by their metadata in E2B, stops live work in the queue, "
        f"removes the finalizer {FINALIZER} and goes on. It needs the E2B key, from the cluster's Secret or "
        "E2B_API_KEY."
    )


def _need_keys_for_force(found: Found) -> None:
    if found.e2b_key is None:
        raise CommandError(
            "the sandboxes cannot be killed without E2B's key: neither the Secret "
            f"{OPERATOR} nor E2B_API_KEY has one that E2B accepts"
        )


def _confirm(
    installation: Installation, sessions: Sequence[Object], found: Found, wishes: Wishes, console: Console
) -> None:
    names = [each["metadata"]["name"] for each in found.namespaces]
    if not names:
        console.print(
            f"There is neither the namespace {installation.namespace} nor {installation.system_namespace}: "
            "is the installation in others (--namespace, --system-namespace)? What may be left elsewhere is "
            "removed."
        )
    console.print(
        "\nFirst remove the webhook endpoint in the Claude Console (Manage > Webhooks): Anthropic would go "
        "on sending events there and disable it after failures. Work that is queued in the environment stays "
        "there unserved.\n"
    )
    console.print(
        f"This deletes {len(sessions)} ManagedSessions with their sandboxes and the files in them, then the "
        "operator, the webhook, the roles, the Secrets"
        + "".join(
            f", the namespace {name} with everything in it" for name in names if name not in found.given
        )
        + ("." if wishes.keep_crd or found.refused else ", and the definition where nobody else uses it.")
        + "".join(f" The namespace {name} stays: it was there before." for name in sorted(found.given))
    )
    if not wishes.yes and not typer.confirm("\nThe endpoint is removed, go on?", default=False):
        raise CommandError("nothing was changed")


def _refuse_new_sessions(
    cluster: Cluster, installation: Installation, found: Found, console: Console
) -> None:
    """Let no new resource come up; who administers a given namespace alone may not do so."""
    names = [n["metadata"]["name"] for n in found.namespaces if "deletionTimestamp" not in n["metadata"]]
    if installation.namespace not in names:
        return
    try:
        put_guard(cluster, installation)
    except ClusterError as error:
        if error.status != 403:
            raise
        console.print(
            "  ! you may write no ResourceQuota, so that sessions which begin meanwhile are not kept out: "
            "repeat this command if some are left",
        )


def _delete_sessions(cluster: Cluster, installation: Installation, deadline: float, console: Console) -> None:
    """Delete all resources and wait until the operator has confirmed each sandbox's end."""
    empty_looks = 0
    asked: set[str] = set()
    with console.status("Deleting sessions") as status:
        while empty_looks < 2:
            sessions = _sessions(cluster, installation)
            empty_looks = empty_looks + 1 if not sessions else 0
            for session in sessions:
                if session["metadata"]["uid"] not in asked:
                    cluster.delete(_reference(session))
                    asked.add(session["metadata"]["uid"])
            if sessions and time.monotonic() > deadline:
                raise CommandError(
                    "\n  ".join(
                        ["these sessions' sandboxes are not confirmed gone:", *describe_waiting(sessions)]
                    )
                    + "\nThe operator goes on with it. Remove the cause and repeat this command, or bring "
                    "the webhook back by `managed-sessions install`."
                )
            status.update(f"Waiting for {len(sessions)} of {len(asked)} sessions' sandboxes to be gone")
            time.sleep(_POLL_SECONDS)
    console.print(f"Sessions     {len(asked)} deleted, their sandboxes confirmed gone by the operator")


def _delete_sessions_without_operator(
    cluster: Cluster, installation: Installation, found: Found, console: Console
) -> None:
    """Do the operator's part of the clean-up, then delete all resources."""
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
        try:
            cluster.merge(reference, {"metadata": {"finalizers": others or None}})
        except ClusterError as error:
            if error.status != 404:
                raise
    console.print(
        f"Sessions     {len(sessions)} deleted without the operator: {killed} sandboxes killed, "
        f"{stopped} work items stopped"
    )


async def _kill_sandboxes_of(sessions: Sequence[Object], team: E2BTeam) -> int:
    doomed: dict[str, Sandbox] = {}
    for session in sessions:
        marks = {
            METADATA_RESOURCE_UID: identity(session["metadata"]),
            METADATA_SESSION: session["spec"]["sessionID"],
        }
        for sandbox in await team.sandboxes(marks):
            doomed[sandbox.sandbox_id] = sandbox
    await team.kill(list(doomed.values()))
    return len(doomed)


def _stop_work(sessions: Sequence[Object], found: Found, console: Console) -> int:
    """Stop the sessions' work where the environment's key is there; a refusal is said, not fatal."""
    needed = (keys.ENVIRONMENT_ID, keys.ENVIRONMENT_KEY)
    if any(name not in found.credentials for name in needed):
        console.print("  ! live work is not stopped: there is no environment key")
        return 0
    environment = AnthropicEnvironment(*(found.credentials[name].split()[0] for name in needed))
    stopped = 0
    for session in sessions:
        work = session.get("status", {}).get("work", {})
        if not work.get("id") or work.get("finishedAt"):
            continue
        try:
            environment.stop(work["id"])
            stopped += 1
        except CloudError as error:
            console.print(
                f"  ! live work of {session['spec']['sessionID']} is not stopped: {error}", markup=False
            )
            return stopped
    return stopped


def _make_sure_of_sandboxes(found: Found, console: Console) -> None:
    """Kill what E2B still lists for this installation, and look until there is nothing."""
    if found.e2b_key is None or found.installation is None:
        console.print(
            "  ! E2B was not asked whether sandboxes are left: "
            + (
                "there is no key that it accepts"
                if found.installation
                else "the installation's ID is unknown"
            )
        )
        return
    killed = asyncio.run(_kill_all(E2BTeam(found.e2b_key), {METADATA_INSTALLATION: found.installation}))
    console.print("Sandboxes    none left in E2B" + (f" ({killed} were killed now)" if killed else ""))


async def _kill_all(team: E2BTeam, metadata: dict[str, str]) -> int:
    killed = 0
    while left := await team.sandboxes(metadata):
        await team.kill(left)
        killed += len(left)
    return killed


def _delete_rest(
    cluster: Cluster,
    installation: Installation,
    found: Found,
    wishes: Wishes,
    deadline: float,
    console: Console,
) -> None:
    if found.refused:
        stays: str | None = "you lack rights: " + "; ".join(found.refused)
    else:
        stays = cluster_wide_stays(
            cluster.list(API_VERSION, KIND),
            cluster.list("apps/v1", "Deployment", labels={"app.kubernetes.io/name": OPERATOR}),
            keep=wishes.keep_crd,
        )
    extra = [installation.secret(name) for name in keys.SECRETS]
    extra += [installation.settings, installation.lease]
    if cluster.may(Access("delete", "", "resourcequotas", installation.namespace)):
        extra.append(Reference.to(guard(installation)))
    order = removal_order(
        installation.manifests(),
        extra,
        cluster_wide=stays is None,
        given=found.given,
        guarded=not found.refused,
    )
    deleted = sum([_delete(cluster, reference) for reference in order])
    for reference in order:
        _until(partial(_is_gone, cluster, reference), f"{reference} to be gone", deadline)
    console.print(f"Cluster      {deleted} objects deleted")
    if stays:
        console.print(f"  ! the definition {DEFINITION.name} stays: {stays}", markup=False)
    console.print("\n[bold green]Uninstalled.[/]" if deleted else "\nThere was nothing to remove.")


def _delete(cluster: Cluster, reference: Reference) -> bool:
    """Delete an object; the guard of `deploy/` may take a moment to see that no session is left."""
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
            raise CommandError(f"waited too long for {what}; repeat this command to go on")
        time.sleep(_POLL_SECONDS)


def _reference(session: Object) -> Reference:
    return Reference.to({"apiVersion": API_VERSION, "kind": KIND, **session})
