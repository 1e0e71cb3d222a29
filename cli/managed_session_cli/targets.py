"""Turns the options that all commands on a cluster share into what these work with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from managed_session_cli.options import DEFAULT_SYSTEM_NAMESPACE

if TYPE_CHECKING:
    from rich.console import Console

    from managed_session_cli.cluster import Cluster
    from managed_session_cli.installation import Installation


def target(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str,
    system_namespace: str = DEFAULT_SYSTEM_NAMESPACE,
) -> tuple[Cluster, Installation]:
    """Return the cluster and the installation that the options name."""
    from managed_session_cli.cluster import Cluster  # noqa: PLC0415 - quick --help
    from managed_session_cli.installation import Installation  # noqa: PLC0415

    return Cluster(kubeconfig, context), Installation(namespace, system_namespace)


def stdout_console() -> Console:
    """Return the console that a command prints its results on."""
    from rich.console import Console  # noqa: PLC0415 - quick --help

    return Console(highlight=False, emoji=False, soft_wrap=True)
