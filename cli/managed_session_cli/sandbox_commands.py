"""Defines the commands that look into a session's sandbox: their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    Kubeconfig,
    MostMib,
    Namespace,
    Session,
    SystemNamespace,
    Wake,
)
from managed_session_cli.plain_help import Commands
from managed_session_cli.targets import stdout_console, target

SANDBOX = "Work in a session's sandbox"


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


def shell(
    session: Session,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]", help="A command to run instead of a shell.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a paused sandbox, and pause it again at the end.")
    ] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Open a shell in a session's sandbox, or run a command there.

    The shell starts in /mnt/session and has the rights of the agent's user. Its exit status becomes that of
    this command. Before it opens, the Event SandboxAccessed of the ManagedSession names you, and the kind of
    access; what you do is recorded nowhere. The E2B key comes from E2B_API_KEY, or else from the operator's
    Secret if you may read it.
    """
    from managed_session_cli import shell as program  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    options = program.Options(session, tuple(command or ()), resume)
    raise typer.Exit(program.shell(cluster, installation, options))


COMMANDS: Commands = {
    shell: (
        SANDBOX,
        (
            "shell sesn_01AbCdEf",
            "shell sesn_01AbCdEf --resume",
            "shell sesn_01AbCdEf -- git -C project status",
        ),
    ),
    logs: (
        SANDBOX,
        (
            "logs sesn_01AbCdEf",
            "logs sesn_01AbCdEf --follow",
            "logs sesn_01AbCdEf --wake",
        ),
    ),
    outputs: (
        SANDBOX,
        (
            "outputs sesn_01AbCdEf --wake",
            "outputs sesn_01AbCdEf --wake --download ./results",
        ),
    ),
    cp: (
        SANDBOX,
        (
            "cp sesn_01AbCdEf:outputs/report.pdf . --wake",
            "cp ./data sesn_01AbCdEf:data",
        ),
    ),
}
"""The commands, each with its topic and with examples of its use."""
