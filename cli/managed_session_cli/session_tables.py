"""Reads ManagedSessions as the API server prints them: the columns of the CRD, with the objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from managed_session_api.names import API_VERSION, PLURAL

from managed_session_cli.cluster import Cluster, Object
from managed_session_cli.errors import ClusterError

_TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
_PAGE = 500
_WHAT = "ManagedSessions"
_GONE = 410

SHORT_FIELDS = {
    "phase": "status.phase",
    "class": "status.class.name",
    "session": "spec.sessionID",
    "sandbox": "status.sandbox.id",
    "name": "metadata.name",
}
"""What may be written for the fields that the API server can select by."""


@dataclass(frozen=True)
class Column:
    """A column; those with `wide` are only shown if asked for."""

    name: str
    wide: bool


@dataclass(frozen=True)
class Row:
    """A line of the table, and the object that it is about."""

    cells: tuple[str, ...]
    object: Object

    @property
    def name(self) -> str:
        """The resource's name."""
        return str(self.object["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The resource's namespace."""
        return str(self.object["metadata"].get("namespace", ""))


@dataclass(frozen=True)
class Table:
    """The lines at one moment, which `version` names."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    version: str


@dataclass(frozen=True)
class Selection:
    """Which sessions are wanted.

    Attributes:
        namespace: where; empty for all namespaces.
        labels: a label selector.
        fields: a field selector; SHORT_FIELDS may be used.
    """

    namespace: str
    labels: str = ""
    fields: str = ""

    @property
    def path(self) -> str:
        """The path of the API."""
        where = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"/apis/{API_VERSION}{where}/{PLURAL}"

    def query(self) -> dict[str, str]:
        """Return the parameters of a request."""
        given = {"labelSelector": self.labels, "fieldSelector": _full(self.fields)}
        return {name: value for name, value in given.items() if value}


def list_table(cluster: Cluster, selection: Selection, *, objects: bool = True) -> Table:
    """Return all selected sessions.

    Args:
        cluster: the cluster.
        selection: which.
        objects: whether whole objects are needed, or their metadata will do.

    Raises:
        ClusterError: the API server rejected the call, or did not answer.
    """
    query = {
        **selection.query(),
        "limit": str(_PAGE),
        "includeObject": "Object" if objects else "Metadata",
    }
    columns: tuple[Column, ...] = ()
    rows: list[Row] = []
    while True:
        page = cluster.read(selection.path, query, accept=_TABLE, what=_WHAT)
        columns = columns or _columns(page)
        rows += _rows(page)
        following = page["metadata"].get("continue")
        if not following:
            return Table(columns, tuple(rows), str(page["metadata"].get("resourceVersion", "")))
        query["continue"] = following


def watch_rows(cluster: Cluster, selection: Selection, version: str) -> Iterator[Row]:
    """Yield each selected session that changes, from `version` on, until interrupted (raises as `list`).

    A watch that the API server ends is continued. If it has forgotten the version, what has changed
    meanwhile is found in a new list.
    """
    seen: dict[str, str] = {}
    while True:
        try:
            query = {**selection.query(), "resourceVersion": version, "includeObject": "Object"}
            for event in cluster.watch(selection.path, query, accept=_TABLE, what=_WHAT):
                for row in _changed(event):
                    version = _version(row)
                    seen[row.name] = version
                    yield row
        except ClusterError as error:
            if error.status not in (None, _GONE):
                raise
            table = list_table(cluster, selection)
            version = table.version
            for row in table.rows:
                if seen.get(row.name) != _version(row):
                    seen[row.name] = _version(row)
                    yield row


def _changed(event: Object) -> list[Row]:
    if event["type"] == "ERROR":
        raise ClusterError("the API server has ended the watch", int(event["object"].get("code", 0)))
    return _rows(event["object"]) if event["type"] != "BOOKMARK" else []


def _version(row: Row) -> str:
    return str(row.object["metadata"].get("resourceVersion", ""))


def _columns(table: Mapping[str, Any]) -> tuple[Column, ...]:
    return tuple(
        Column(str(each["name"]).upper(), int(each.get("priority", 0)) > 0)
        for each in table.get("columnDefinitions") or []
    )


def _rows(table: Mapping[str, Any]) -> list[Row]:
    return [
        Row(tuple("" if cell is None else str(cell) for cell in each["cells"]), each["object"])
        for each in table.get("rows") or []
    ]


def _full(selector: str) -> str:
    """Return a field selector with the fields' full names."""
    parts = []
    for part in filter(None, selector.split(",")):
        name, operator, value = _split(part.strip())
        parts.append(f"{SHORT_FIELDS.get(name, name)}{operator}{value}")
    return ",".join(parts)


def _split(requirement: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        name, found, value = requirement.partition(operator)
        if found:
            return name, found, value
    return requirement, "", ""
