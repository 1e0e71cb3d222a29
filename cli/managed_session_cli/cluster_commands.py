"""Defines the commands that work on the cluster of the current kubeconfig: their options and help."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    CostBy,
    CostOutput,
    Kubeconfig,
    MostMib,
    Namespace,
    Session,
    SystemNamespace,
    Wake,
    Yes,
)

if TYPE_CHECKING:
    from managed_session_cli.cluster import Cluster
    from managed_session_cli.installation import Installation

PANEL = "On a cluster"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command, examples in _COMMANDS.items():
        lines = "\n\n".join(f"managed-sessions {example}" for example in examples)
        app.command(rich_help_panel=PANEL, epilog=f"Examples:\n\n{lines}")(command)


def install(
    image: Annotated[
        str, typer.Option(help="Image of the webhook and the operator: REGISTRY/NAME:TAG, as nodes pull it.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run all checks and list the changes without making them.")
    ] = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the pods are ready.")] = True,
    timeout: Annotated[float, typer.Option(help="How long to wait for the pods, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install or upgrade managed-sessions on a cluster.

    Reads credentials from the environment variables ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and
    E2B_API_KEY, and optionally ANTHROPIC_API_KEY and ANTHROPIC_WEBHOOK_SIGNING_KEY. First checks the cluster
    and your permissions, and tries the credentials at Anthropic and E2B. Then shows the planned changes and
    asks for confirmation, builds the worker template if it does not exist, writes the Secrets, applies the
    manifests and waits for the pods.

    Run it again to upgrade, or to add or replace a credential. Only differences are applied: a credential
    that is not in the environment stays as it is in the cluster.
    """
    from managed_session_cli import install as command  # noqa: PLC0415 - quick --help

    options = command.Options(image, dry_run, yes, wait, timeout)
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.install(cluster, installation, options, stdout_console())


def uninstall(
    yes: Yes = False,
    keep_crd: Annotated[
        bool, typer.Option("--keep-crd", help="Keep the CRDs and the other cluster-wide objects.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="If no operator runs: kill the sandboxes from this machine and remove the finalizers.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="How long the whole removal may take, in seconds.", min=1)
    ] = 600,
    installation_id: Annotated[
        str | None,
        typer.Option(
            help="ID in the metadata of the sandboxes. Needed only if MANAGED_SESSIONS_INSTALLATION_ID was "
            "set and the operator's Deployment and ConfigMap are gone.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Remove an installation from a cluster.

    Remove the webhook endpoint in the Claude Console first. This command then deletes, in this order: the
    webhook; the ManagedSessions, waiting until the operator confirms that their sandboxes are gone; the
    operator; sandboxes that E2B still lists; and roles, Secrets and namespaces. The CRDs go last, unless
    another installation uses them.

    If the command is interrupted, run it again. If the operator is already gone and sessions are left, it
    stops and explains what to do.
    """
    from managed_session_cli import uninstall as command  # noqa: PLC0415 - quick --help

    options = command.Options(yes, keep_crd, force, timeout, installation_id)
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.uninstall(cluster, installation, options, stdout_console())


def logs(
    session: Session,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")
    ] = False,
    wake: Annotated[
        bool, typer.Option("--wake", help="Resume a paused sandbox, read its log, and pause it again.")
    ] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print worker.log from a session's sandbox.

    If the sandbox is paused, resumes it only with --wake. Without --wake, prints what the ManagedSession
    records about the newest worker instead, and exits with code 1. The E2B key comes from E2B_API_KEY, or
    else from the operator's Secret if you may read it.
    """
    from managed_session_cli import logs as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.logs(cluster, installation, command.Options(session, follow, wake), stdout_console())


def outputs(
    session: Session,
    download: Annotated[
        Path | None,
        typer.Option("--download", "-d", help="Write the files into this directory.", show_default=False),
    ] = None,
    wake: Wake = False,
    most_mib: MostMib = 1024,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List or download the files in /mnt/session/outputs of a session's sandbox.

    Links and special files are left out. A download writes nothing outside the directory. The E2B key comes
    from E2B_API_KEY, or else from the operator's Secret if you may read it.
    """
    from managed_session_cli import outputs as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    options = command.Options(wake, most_mib)
    command.outputs(cluster, installation, session, download, options, stdout_console())


def cp(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="SESSION:PATH, or a local path.", show_default=False)
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="A local path, or SESSION:PATH.", show_default=False)
    ],
    wake: Wake = False,
    most_mib: MostMib = 1024,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Copy a file or a directory from or to a session's sandbox.

    A path in the sandbox that does not begin with / is below /mnt/session. Files are read and written with
    the rights of the agent's user. What is copied goes into DESTINATION if that ends with /, and else gets
    its name. Links and special files are left out.
    """
    from managed_session_cli import outputs as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.copy(
        cluster, installation, source, destination, command.Options(wake, most_mib), stdout_console()
    )


def doctor(
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION",
            help="Check only this session: its ID, or the name of its ManagedSession.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as a JSON list.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check every part of an installation and explain how to fix what is wrong.

    Changes nothing and wakes no sandbox. Checks that you have no permission for are skipped, and listed as
    such. Credentials come from the Secrets of the installation, or from the environment if you may not read
    those. Exits with code 1 if a check failed.
    """
    from managed_session_cli import doctor as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if not command.doctor(cluster, installation, session, stdout_console(), as_json=as_json):
        raise typer.Exit(1)


def cost(
    by: Annotated[CostBy, typer.Option("--by", help="What each row stands for.")] = CostBy.AGENT,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS|DATE",
            help="Only what was recorded since then (UTC): 7d for today and the six days before, or a date.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        CostOutput, typer.Option("--output", "-o", help="Form of the report.")
    ] = CostOutput.TABLE,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what sessions have cost, by agent, class, session or day.

    Adds up `status.cost` of the ManagedSessions that exist: Anthropic's list cost, the running time of
    sandboxes, and their estimated cost if the operator has a price. Deleted sessions and turns that run now
    are not in it. Amounts in JSON and YAML are cents.
    """
    from managed_session_cli import cost as command  # noqa: PLC0415 - quick --help

    today = datetime.now(UTC).date()
    first = command.parse_since(since, today) if since is not None else None
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.cost(cluster, installation, command.Options(by, first, output), stdout_console())


def smoke(
    second_turn: Annotated[
        bool,
        typer.Option(
            "--second-turn", help="Play a second turn, which reads a file that the first one wrote."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the session at the end.")] = False,
    timeout: Annotated[float, typer.Option(help="How long to wait for each turn, in seconds.", min=1)] = 180,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run a smoke test against an installation and explain the step that fails.

    Creates a session in the environment that the installation serves, sends it a message, reports each step
    until the sandbox is paused, and deletes the session. Requires ANTHROPIC_API_KEY and ANTHROPIC_AGENT_ID
    from the environment's workspace. Exits with code 1 if a step is not reached.
    """
    from managed_session_cli import smoke as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if not command.smoke(
        cluster, installation, command.Options(second_turn, keep, timeout), stdout_console()
    ):
        raise typer.Exit(1)


def snapshot(
    session: Session,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the snapshot: letters, digits, - and . Default: the time.", show_default=False
        ),
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Only list the session's snapshots.")] = False,
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Take a snapshot of a session's sandbox, or list its snapshots.

    The operator takes it at the end of the turn that runs, or else at once; a paused sandbox is resumed for
    it and paused again. If you interrupt the command, the operator goes on.
    """
    from managed_session_cli import snapshots as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if only_list:
        command.show(cluster, installation, session, stdout_console())
    else:
        command.snapshot(cluster, installation, session, name, timeout, stdout_console())


def restore(
    session: Session,
    snapshot_id: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="ID",
            help="E2B's ID of the snapshot. Default: the newest.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Bring a session's sandbox back to a snapshot.

    What the sandbox has now is lost; the session's history at Anthropic stays as it is. The present sandbox
    is killed once the restored one exists.
    """
    from managed_session_cli import snapshots as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.restore(cluster, installation, session, snapshot_id, timeout, stdout_console())


def fork(
    session: Session,
    to: Annotated[
        str, typer.Option(help="ID of the other session, which has had no message yet.", show_default=False)
    ],
    snapshot_id: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="ID",
            help="E2B's ID of the snapshot. Default: a new one.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let another session start with the files of this one.

    Prepares the ManagedSession of a session that has no sandbox yet. Its first message starts in a sandbox of
    its own, with the snapshot's files and without the processes, shells and tokens of this session.
    """
    from managed_session_cli import snapshots as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.fork(cluster, installation, session, to, snapshot_id, timeout, stdout_console())


def retained(
    delete: Annotated[
        str | None, typer.Option(metavar="ID", help="Delete this snapshot.", show_default=False)
    ] = None,
    adopt: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Let the session --to start from this snapshot, or from the newest one that this deleted "
            "session or its sandbox has left.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="With --adopt: ID of the session.", show_default=False)
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List the snapshots that have outlived their ManagedSession, delete one, or let a session start from it.

    They are those of sessions that were deleted with `deletionPolicy: Retain`, and those that other sandboxes
    were created from. E2B bills their storage. The E2B key comes from E2B_API_KEY, or else from the
    operator's Secret if you may read it.
    """
    from managed_session_cli import snapshots as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if delete is not None:
        command.delete_retained(cluster, installation, delete, stdout_console())
    elif adopt is not None:
        command.adopt_retained(cluster, installation, adopt, to or "", stdout_console())
    else:
        command.list_retained(cluster, installation, stdout_console())


def target(
    kubeconfig: Path | None, context: str | None, namespace: str, system_namespace: str
) -> tuple[Cluster, Installation]:
    """Return the cluster and the installation that the options name."""
    from managed_session_cli.cluster import Cluster  # noqa: PLC0415 - quick --help
    from managed_session_cli.installation import Installation  # noqa: PLC0415

    return Cluster(kubeconfig, context), Installation(namespace, system_namespace)


def stdout_console() -> Console:
    """Return the console that a command prints its results on."""
    return Console(highlight=False, emoji=False, soft_wrap=True)


_COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    install: (
        "install --image registry.example.com/team/managed-sessions:0.1.0 --dry-run",
        "install --image registry.example.com/team/managed-sessions:0.1.0 --yes",
    ),
    uninstall: (
        "uninstall",
        "uninstall --yes --keep-crd",
        "uninstall --force",
    ),
    smoke: (
        "smoke",
        "smoke --second-turn --keep",
    ),
    logs: (
        "logs sesn_01AbCdEf",
        "logs sesn_01AbCdEf --follow",
        "logs sesn_01AbCdEf --wake",
    ),
    outputs: (
        "outputs sesn_01AbCdEf --wake",
        "outputs sesn_01AbCdEf --wake --download ./results",
    ),
    cp: (
        "cp sesn_01AbCdEf:outputs/report.pdf . --wake",
        "cp ./data sesn_01AbCdEf:data",
    ),
    snapshot: (
        "snapshot sesn_01AbCdEf --name before-migration",
        "snapshot sesn_01AbCdEf --list",
    ),
    restore: (
        "restore sesn_01AbCdEf",
        "restore sesn_01AbCdEf --snapshot team/msess-…:default",
    ),
    fork: ("fork sesn_01AbCdEf --to sesn_01GhIjKl",),
    retained: (
        "retained",
        "retained --adopt team/msess-…:default --to sesn_01GhIjKl",
        "retained --adopt sesn_01AbCdEf --to sesn_01GhIjKl",
        "retained --delete team/msess-…:default",
    ),
    cost: (
        "cost",
        "cost --by day --since 7d",
        "cost --by session --output json",
    ),
    doctor: (
        "doctor",
        "doctor sesn_01AbCdEf",
        "doctor --json",
    ),
}
"""The commands with examples of their use."""
