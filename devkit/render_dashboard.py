"""Writes the Grafana dashboard `deploy/monitoring/dashboard.yaml` from the panels below.

With `--check` it writes nothing; the exit status says whether the committed file is up to date.
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "deploy" / "monitoring" / "dashboard.yaml"
COLUMNS = 3
WIDTH, HEIGHT = 24 // COLUMNS, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = '{namespace="$namespace"}'
PREFIX = "managed_sessions_"
HEAD = """\
# Made from devkit/render_dashboard.py by `make manifests`: change that file, not this one.
#
# For Grafana's sidecar, which loads ConfigMaps with this label (or another one: change it). By hand:
# `kubectl create --dry-run=client --filename=deploy/monitoring/dashboard.yaml
# --output=go-template='{{index .data "managed-sessions.json"}}'` prints the JSON for Grafana's import.
apiVersion: v1
kind: ConfigMap
metadata:
  name: managed-sessions-dashboard
  namespace: managed-sessions-system
  labels:
    app.kubernetes.io/part-of: managed-sessions
    grafana_dashboard: "1"
data:
  managed-sessions.json: |
"""


@dataclass(frozen=True)
class Panel:
    """A panel: its title, what it tells, its unit in Grafana's words, and its queries by legend."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    stacked: bool = False
    limit: float | None = None
    """A line that values should stay below."""


def newest(metric: str) -> str:
    """Return the query for a gauge that only the leader sets."""
    return f"max({PREFIX}{metric}{SELECTOR})"


def newest_by(label: str, metric: str) -> str:
    """Return the query for such a gauge with a label."""
    return f"max by ({label}) ({PREFIX}{metric}{SELECTOR})"


def named(label: str, nothing: str, query: str) -> str:
    """Return the query with a word for the label where that is empty."""
    return f'label_replace({query}, "{label}", "{nothing}", "{label}", "")'


def by_class(query: Callable[[str, str], str], metric: str) -> dict[str, str]:
    """Return the queries of a panel that shows each class, and what has none."""
    return {"{{session_class}}": named("session_class", "no class", query("session_class", metric))}


def rate_by(label: str, metric: str) -> str:
    """Return the query for a counter's rate per second, by a label."""
    return f"sum by ({label}) (rate({PREFIX}{metric}{SELECTOR}[$__rate_interval]))"


def increase(metric: str, selector: str = SELECTOR, by: str = "") -> str:
    """Return the query for how far a counter has gone, by a label where one is named."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({PREFIX}{metric}{selector}[$__rate_interval]))"


def last_day(label: str, metric: str) -> str:
    """Return the query for how far a counter has gone in 24 hours, by a label."""
    return f"sum by ({label}) (increase({PREFIX}{metric}{SELECTOR}[1d]))"


def quantiles(metric: str) -> dict[str, str]:
    """Return the queries for three quantiles of a histogram."""
    rate = f"sum by (le) (rate({PREFIX}{metric}_bucket{SELECTOR}[$__rate_interval]))"
    return {f"p{share * 100:g}": f"histogram_quantile({share}, {rate})" for share in (0.5, 0.95, 0.99)}


SECTIONS: dict[str, list[Panel]] = {
    "Objectives": [
        Panel(
            "From offer to first heartbeat",
            "How quickly turns begin. 99% of them should within 10 s.",
            "s",
            quantiles("offer_to_heartbeat_seconds"),
            limit=10,
        ),
        Panel(
            "Slow starts",
            "Share of turns that begin later than 10 s after their offer. More than 1% misses the objective, "
            "and more than 14.4% raises an alert at once.",
            "percentunit",
            {"last hour": f"max(namespace:managed_sessions_slow_starts:ratio_rate1h{SELECTOR})"},
            limit=0.01,
        ),
        Panel(
            "Turns lost, sessions stuck",
            "Interrupted: the user has to send the message again. Stuck: somebody has to help the session. "
            "Both should be 0.",
            "short",
            {
                "interrupted": increase("recoveries_total", '{namespace="$namespace",action="interrupted"}'),
                "stuck": f"sum({PREFIX}resources_by_reason"
                '{namespace="$namespace",reason=~"SessionStuck|WorkStranded|WorkLost"}) or vector(0)',
            },
        ),
    ],
    "Capacity": [
        Panel(
            "Sandboxes running",
            "Slots in use, configured, and allowed by E2B.",
            "short",
            {
                "in use": newest("sandbox_slots_used"),
                "slots": newest("sandbox_slots"),
                "allowed by E2B": newest("sandbox_slots_allowed"),
            },
        ),
        Panel(
            "Waiting for a sandbox slot",
            "Sessions that wait, and offers that are not yet recorded.",
            "short",
            {
                "resources": newest("waiting_resources"),
                "in the queue": newest("queue_depth"),
                "offers not yet recorded": newest("offers_waiting"),
            },
        ),
        Panel(
            "Longest wait",
            "How long the first session of the wait queue has waited. More than two minutes raises an alert.",
            "s",
            {"seconds": newest("oldest_wait_seconds")},
            limit=120,
        ),
        Panel(
            "Slots in use, by class",
            "Which class uses the slots.",
            "short",
            by_class(newest_by, "class_slots_used"),
            stacked=True,
        ),
        Panel(
            "Waiting for a slot, by class",
            "Which class waits.",
            "short",
            by_class(newest_by, "class_waiting_resources"),
            stacked=True,
        ),
        Panel(
            "Waiting for their user, by age",
            "Sessions that wait for a confirmation or a custom tool's result.",
            "short",
            {"{{age}}": newest_by("age", "awaiting_user_by_age")},
            stacked=True,
        ),
    ],
    "Sessions": [
        Panel(
            "Sessions by phase",
            "All resources.",
            "short",
            {"{{phase}}": named("phase", "new", f"sum by (phase) ({PREFIX}resources_by_reason{SELECTOR})")},
            stacked=True,
        ),
        Panel(
            "Turns by exit reason",
            "How workers end. Investigate any reason but Idle that grows.",
            "ops",
            {"{{reason}}": rate_by("reason", "turns_total") + " > 0"},
        ),
        Panel(
            "Failed steps by reason",
            "What fails and is tried again.",
            "ops",
            {"{{reason}}": rate_by("reason", "step_failures_total")},
        ),
    ],
    "Operator": [
        Panel(
            "Polls by outcome",
            "Polls of Anthropic's queue.",
            "ops",
            {"{{outcome}}": rate_by("outcome", "polls_total")},
        ),
        Panel(
            "Leader by pod",
            "1 for the pod that leads.",
            "short",
            {"{{pod}}": f"{PREFIX}leading{SELECTOR}"},
        ),
        Panel(
            "Resyncs, orphans, recoveries",
            "The comparison with E2B's list and the work list, and what it led to.",
            "short",
            {
                "resync {{outcome}}": increase("resyncs_total", by="outcome"),
                "orphans killed": increase("orphans_killed_total"),
                "recovery {{action}}": increase("recoveries_total", by="action"),
            },
        ),
        Panel(
            "Steps and writes",
            "Steps taken, and writes to a resource's status. Both are 0 at rest.",
            "ops",
            {
                "steps": f"sum(rate({PREFIX}steps_total{SELECTOR}[$__rate_interval]))",
                "status writes": f"sum(rate({PREFIX}status_writes_total{SELECTOR}[$__rate_interval]))",
            },
        ),
        Panel(
            "Processor time by pod",
            "Cores in use.",
            "short",
            {"{{pod}}": f"rate(process_cpu_seconds_total{SELECTOR}[$__rate_interval])"},
        ),
        Panel(
            "Memory by pod",
            "Resident memory.",
            "bytes",
            {"{{pod}}": f"process_resident_memory_bytes{SELECTOR}"},
        ),
    ],
    "Costs": [
        Panel(
            "List cost in 24 hours, by class",
            "What the sessions of each class cost at Anthropic's list prices.",
            "currencyUSD",
            by_class(last_day, "list_cost_dollars_total"),
            stacked=True,
        ),
        Panel(
            "List cost in 24 hours, by agent",
            "What the sessions of each agent cost at Anthropic's list prices.",
            "currencyUSD",
            {"{{agent}}": last_day("agent", "list_cost_dollars_total")},
            stacked=True,
        ),
        Panel(
            "Running time of sandboxes in 24 hours, by class",
            "What E2B bills, before its price for the size of the sandboxes.",
            "s",
            by_class(last_day, "sandbox_seconds_total"),
            stacked=True,
        ),
    ],
    "Webhook": [
        Panel(
            "Requests by outcome",
            "Investigate no_signing_key, bad_signature and kubernetes_unavailable.",
            "reqps",
            {"{{outcome}}": rate_by("outcome", "webhook_requests_total") + " > 0"},
        ),
        Panel(
            "Response time",
            "How long Anthropic waits for an answer.",
            "s",
            quantiles("webhook_request_duration_seconds"),
        ),
        Panel(
            "New turns, by what has found them",
            "If polling alone finds turns that events used to announce, events get lost.",
            "short",
            {"{{by}}": increase("turns_found_total", by="by")},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "namespace",
            "label": "Namespace",
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values({PREFIX}build_info, namespace)",
            "refresh": 2,
        },
    ]
    return {
        "uid": "managed-sessions",
        "title": "managed-sessions",
        "tags": ["managed-sessions"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "panels": [{"id": number, **each} for number, each in enumerate(_panels(), start=1)],
    }


def _panels() -> Iterator[dict[str, Any]]:
    y = 0
    for section, panels in SECTIONS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        yield {"type": "row", "title": section, "collapsed": False, "gridPos": place, "panels": []}
        for index, panel in enumerate(panels):
            row, column = divmod(index, COLUMNS)
            place = {"x": column * WIDTH, "y": y + 1 + row * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield _timeseries(panel, place)
        y += 1 + -(-len(panels) // COLUMNS) * HEIGHT


def _timeseries(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": custom}
    if panel.limit is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def main(arguments: list[str]) -> int:
    """Write the file, or compare it (`--check`). Return the exit status."""
    text = HEAD + textwrap.indent(json.dumps(dashboard(), indent=1), "    ") + "\n"
    if TARGET.read_text() == text:
        return 0
    if "--check" in arguments:
        print(f"{TARGET.name} is not what `make manifests` makes", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    print(TARGET.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
