"""Lists and watches of sessions: pages, selectors, and a watch that the API server ends or forgets."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError
from managed_session_cli.session_tables import Selection, list_table, watch_rows

COLUMNS = [{"name": "Name", "priority": 0}, {"name": "Phase", "priority": 1}]


def table(*names: str, version: str = "1", following: str = "") -> dict[str, Any]:
    rows = [
        {"cells": [each, None], "object": {"metadata": {"name": each, "resourceVersion": f"{version}0"}}}
        for each in names
    ]
    return {
        "columnDefinitions": COLUMNS,
        "rows": rows,
        "metadata": {"resourceVersion": version, "continue": following},
    }


class ApiServer(BaseHTTPRequestHandler):
    """Answers each request with the next of the prepared answers: one table, or the lines of a watch."""

    answers: ClassVar[list[Any]] = []
    asked: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        query = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
        self.asked.append({"path": urlsplit(self.path).path, **query})
        answer = self.answers.pop(0)
        lines = answer if isinstance(answer, list) else [answer]
        body = b"".join(json.dumps(each).encode() + b"\n" for each in lines)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    ApiServer.answers, ApiServer.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    yield Cluster(path)
    server.shutdown()
    server.server_close()


def test_all_pages_are_read_with_full_selectors(cluster: Cluster) -> None:
    ApiServer.answers = [table("a", following="more"), table("b", version="2")]
    found = list_table(cluster, Selection("ns", "team=x", "phase=Running,class!=gold,metadata.name=a"))
    assert [row.name for row in found.rows] == ["a", "b"]
    assert [(each.name, each.wide) for each in found.columns] == [("NAME", False), ("PHASE", True)]
    first, second = ApiServer.asked
    assert first["path"] == "/apis/managedagents.dev/v1alpha1/namespaces/ns/managedsessions"
    assert first["labelSelector"] == "team=x"
    assert first["fieldSelector"] == "status.phase=Running,status.class.name!=gold,metadata.name=a"
    assert second["continue"] == "more"


def test_a_watch_that_ends_is_continued_from_the_newest_version(cluster: Cluster) -> None:
    ApiServer.answers = [
        [{"type": "ADDED", "object": table("a", version="5")}],
        [{"type": "BOOKMARK", "object": table()}, {"type": "DELETED", "object": table("b", version="6")}],
    ]
    rows = itertools.islice(watch_rows(cluster, Selection(""), "4"), 2)
    assert [row.name for row in rows] == ["a", "b"]
    assert [each["resourceVersion"] for each in ApiServer.asked] == ["4", "50"]
    assert ApiServer.asked[0]["path"] == "/apis/managedagents.dev/v1alpha1/managedsessions"


def test_a_version_that_is_forgotten_costs_a_new_list_and_shows_what_has_changed(cluster: Cluster) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    ApiServer.answers = [
        [{"type": "ADDED", "object": table("a", version="5")}, gone],
        {**table("a", "b", version="5"), "metadata": {"resourceVersion": "9"}},
        [{"type": "ADDED", "object": table("c", version="10")}],
    ]
    rows = itertools.islice(watch_rows(cluster, Selection("ns"), "4"), 3)
    assert [row.name for row in rows] == ["a", "b", "c"], "a is unchanged in the list"
    assert ApiServer.asked[-1]["resourceVersion"] == "9"


def test_another_error_of_the_watch_is_passed_on(cluster: Cluster) -> None:
    ApiServer.answers = [[{"type": "ERROR", "object": {"kind": "Status", "code": 500}}]]
    with pytest.raises(ClusterError, match="has ended the watch"):
        next(watch_rows(cluster, Selection("ns"), "4"))
