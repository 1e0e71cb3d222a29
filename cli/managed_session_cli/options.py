"""Defines the options that the commands on a cluster share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from managed_session_api.names import RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

from managed_session_cli.session_names import session_names

Kubeconfig = Annotated[
    Path | None,
    typer.Option(help="Kubeconfig file. Default: KUBECONFIG, or else ~/.kube/config.", show_default=False),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig. Default: its current context.", show_default=False),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the ManagedSessions.")]
SystemNamespace = Annotated[str, typer.Option(help="Namespace of the pods and their credentials.")]
Session = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help="ID of the session, name of its ManagedSession, or a unique beginning of either.",
        show_default=False,
        autocompletion=session_names,
    ),
]
Sessions = Annotated[
    list[str],
    typer.Argument(
        metavar="SESSION",
        help="IDs of sessions, names of their ManagedSessions, or unique beginnings of either.",
        show_default=False,
        autocompletion=session_names,
    ),
]
Snapshot = Annotated[
    str | None,
    typer.Option("--snapshot", metavar="ID", help="E2B's ID of the snapshot.", show_default=False),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]
WaitSeconds = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait, in seconds.", min=1)
]
Wake = Annotated[
    bool, typer.Option("--wake", help="Resume a paused sandbox, transfer the files, and pause it again.")
]
MostMib = Annotated[int, typer.Option("--limit-mib", help="Refuse to download more MiB than this.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

DEFAULT_NAMESPACE = RESOURCE_NAMESPACE
DEFAULT_SYSTEM_NAMESPACE = SYSTEM_NAMESPACE


class CostBy(StrEnum):
    """What each row of a report of costs stands for."""

    AGENT = "agent"
    CLASS = "class"
    SESSION = "session"
    DAY = "day"


class CostOutput(StrEnum):
    """Forms of a report of costs."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
