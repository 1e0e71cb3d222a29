"""Completes the names of sessions from the cluster, and gives up quickly."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

_MOST = 200


def session_names(ctx: Any, args: list[str], incomplete: str) -> list[tuple[str, str]]:  # noqa: ARG001
    """Return the sessions' names that begin so, each with what it does; or their IDs, if these do.

    No error must disturb a command line that is being typed: then there is nothing to complete.
    """
    from managed_session_cli.cluster import QUICK, Cluster  # noqa: PLC0415 - quick --help
    from managed_session_cli.errors import CommandError  # noqa: PLC0415
    from managed_session_cli.session_tables import Selection, list_table  # noqa: PLC0415

    given = ctx.params
    namespace = "" if given.get("all_namespaces") else given.get("namespace") or ""
    already = given.get("sessions") or given.get("names") or ()
    with suppress(CommandError, OSError):
        cluster = Cluster(given.get("kubeconfig"), given.get("context"), QUICK)
        table = list_table(cluster, Selection(namespace), objects=False)
        columns = [each.name for each in table.columns]
        session, reason = columns.index("SESSION"), columns.index("REASON")
        names = [(row.name, row.cells[reason] or "new") for row in table.rows]
        ids = [(row.cells[session], row.cells[reason] or "new") for row in table.rows]
        by_name = [each for each in names if each[0].startswith(incomplete)]
        found = by_name or [each for each in ids if each[0].startswith(incomplete)]
        return [each for each in found if each[0] not in already][:_MOST]
    return []
