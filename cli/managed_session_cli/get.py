"""`managed-sessions get`: sessions as a table, names or objects, once or whenever they change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml
from managed_session_api.names import GROUP, SINGULAR

from managed_session_cli.cluster import Cluster, Object
from managed_session_cli.session_tables import Column, Row, Selection, Table, list_table, watch_rows
from managed_session_cli.sessions import chosen


class Output(StrEnum):
    """The forms in which sessions are printed."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    names: tuple[str, ...]
    output: Output
    watch: bool
    selection: Selection
    phases: frozenset[str]


def get(cluster: Cluster, options: Options) -> None:
    """Print the sessions.

    Raises:
        CommandError: one of the names is that of no session or of several, or the API server rejected a call.
    """
    table = list_table(cluster, options.selection)
    wanted = _named(table, options.names)
    rows = [row for row in table.rows if _is_wanted(row, wanted, options.phases)]
    printer = Printer(table.columns, options)
    printer.show(rows)
    if options.watch:
        for row in watch_rows(cluster, options.selection, table.version):
            if _is_wanted(row, wanted, options.phases):
                printer.add(row)


def _named(table: Table, names: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return namespace and name of the sessions that were asked for by name; empty for all."""
    rows = [(row.name, str(row.object["spec"].get("sessionID", "")), row) for row in table.rows]
    found = [chosen(rows, wanted) for wanted in names]
    return frozenset((each.namespace, each.name) for each in found)


def _is_wanted(row: Row, wanted: frozenset[tuple[str, str]], phases: frozenset[str]) -> bool:
    if wanted and (row.namespace, row.name) not in wanted:
        return False
    phase = str(row.object.get("status", {}).get("phase", ""))
    return not phases or phase.lower() in phases


class Printer:
    """Prints sessions in the form that was asked for."""

    def __init__(self, columns: Sequence[Column], options: Options) -> None:
        self._options = options
        self._everywhere = not options.selection.namespace
        self._shown = [
            index for index, column in enumerate(columns) if options.output is Output.WIDE or not column.wide
        ]
        names = [columns[index].name for index in self._shown]
        self._head = ["NAMESPACE", *names] if self._everywhere else names
        self._widths = [len(name) for name in self._head]

    def show(self, rows: Sequence[Row]) -> None:
        """Print all sessions that there are."""
        match self._options.output:
            case Output.TABLE | Output.WIDE:
                self._show_table(rows)
            case Output.NAME:
                self._print_names(rows)
            case _ if self._options.watch:
                for row in rows:
                    self.add(row)
            case _:
                one = len(self._options.names) == 1
                self._print_object(rows[0].object if one else _as_list(rows))

    def add(self, row: Row) -> None:
        """Print a session that has changed."""
        match self._options.output:
            case Output.TABLE | Output.WIDE:
                print(self._line(self._cells(row)), flush=True)
            case Output.NAME:
                self._print_names([row])
            case Output.JSON:
                print(json.dumps(row.object), flush=True)
            case Output.YAML:
                print("---")
                self._print_object(row.object)

    def _show_table(self, rows: Sequence[Row]) -> None:
        cells = [self._cells(row) for row in rows]
        if not cells and not self._options.watch:
            where = f" in the namespace {self._options.selection.namespace}" if not self._everywhere else ""
            print(f"No sessions found{where}.")
            return
        self._widths = [max(map(len, column)) for column in zip(self._head, *cells, strict=True)]
        for line in (self._head, *cells):
            print(self._line(line), flush=True)

    def _cells(self, row: Row) -> list[str]:
        cells = [row.cells[index] for index in self._shown]
        return [row.namespace, *cells] if self._everywhere else cells

    def _line(self, cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        return "   ".join(padded).rstrip()

    def _print_names(self, rows: Iterable[Row]) -> None:
        for row in rows:
            print(f"{SINGULAR}.{GROUP}/{row.name}", flush=True)

    def _print_object(self, content: Object) -> None:
        if self._options.output is Output.JSON:
            print(json.dumps(content, indent=2), flush=True)
        else:
            print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="", flush=True)


def _as_list(rows: Sequence[Row]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": [row.object for row in rows]}
