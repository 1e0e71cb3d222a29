"""Defines the commands about snapshots of sandboxes: their options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    Kubeconfig,
    Namespace,
    Session,
    Snapshot,
    SystemNamespace,
    WaitSeconds,
)
from managed_session_cli.plain_help import Commands
from managed_session_cli.targets import stdout_console, target

SNAPSHOTS = "Keep and restore files"


def snapshot(
    session: Session,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the snapshot: letters, digits, - and . Default: the time.", show_default=False
        ),
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Only list the session's snapshots.")] = False,
    timeout: WaitSeconds = 300,
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
    snapshot_id: Snapshot = None,
    timeout: WaitSeconds = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Bring a session's sandbox back to a snapshot.

    What the sandbox has now is lost; the session's history at Anthropic stays as it is. The present sandbox
    is killed once the restored one exists. Without --snapshot, the newest one is restored.
    """
    from managed_session_cli import snapshots as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.restore(cluster, installation, session, snapshot_id, timeout, stdout_console())


def fork(
    session: Session,
    to: Annotated[
        str, typer.Option(help="ID of the other session, which has had no message yet.", show_default=False)
    ],
    snapshot_id: Snapshot = None,
    timeout: WaitSeconds = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let another session start with the files of this one.

    Prepares the ManagedSession of a session that has no sandbox yet. Its first message starts in a sandbox of
    its own, with the snapshot's files and without the processes, shells and tokens of this session. Without
    --snapshot, a new one is taken.
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


COMMANDS: Commands = {
    snapshot: (
        SNAPSHOTS,
        (
            "snapshot sesn_01AbCdEf --name before-migration",
            "snapshot sesn_01AbCdEf --list",
        ),
    ),
    restore: (
        SNAPSHOTS,
        (
            "restore sesn_01AbCdEf",
            "restore sesn_01AbCdEf --snapshot team/msess-…:default",
        ),
    ),
    fork: (SNAPSHOTS, ("fork sesn_01AbCdEf --to sesn_01GhIjKl",)),
    retained: (
        SNAPSHOTS,
        (
            "retained",
            "retained --adopt team/msess-…:default --to sesn_01GhIjKl",
            "retained --adopt sesn_01AbCdEf --to sesn_01GhIjKl",
            "retained --delete team/msess-…:default",
        ),
    ),
}
"""The commands, each with its topic and with examples of its use."""
