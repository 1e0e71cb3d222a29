"""Alerts and dashboard ask for metrics that the processes really have, with labels that these really bear."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_operator.metrics import Metrics
from managed_session_webhook.metrics import Outcome
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from ..support.prometheus import Prometheus
from ..support.sessions import QUICK, begin, resyncs_pass
from ..support.systems import local_system
from ..support.waiting import eventually

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]
DASHBOARD = json.loads(
    yaml.safe_load((MONITORING / "dashboard.yaml").read_text())["data"]["managed-sessions.json"]
)
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
RULE_QUERIES = {
    rule.get("alert") or rule["record"]: " ".join(rule["expr"].split())
    for group in RULES["groups"]
    for rule in group["rules"]
}
QUERIES = RULE_QUERIES | PANELS
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
}
METRICS = re.compile(r"(?<![\w:])(?:managed_sessions|process)_\w+(?![\w:])")
FROM_PROMETHEUS = {"namespace", "pod"}
"""Labels that the PodMonitor adds."""
BUSY = {"ManagedSessionsSlowStarts", "ManagedSessionsManySlowStarts"}
"""Alerts that a busy machine may cause by being slow."""


@dataclass(frozen=True)
class Watched:
    """A system after two turns, and the Prometheus that has scraped it."""

    system: LocalSystem
    prometheus: Prometheus


@pytest.fixture(scope="module")
async def watched(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    async with local_system(control_plane, operators=2, operator_settings=QUICK) as system:
        pods = {
            "webhook": system.webhook,
            "operator-1": system.operators[0],
            "operator-2": system.operators[1],
        }
        addresses = {name: pod.probe_url.removeprefix("http://") for name, pod in pods.items()}
        folder = tmp_path_factory.mktemp("prometheus")
        async with Prometheus(folder, addresses, system.system_namespace, RULES) as prometheus:
            # A counter has a rate from its second value on: the first is of before the turns.
            await prometheus.scraped(await prometheus.now())
            async with begin(system) as conversation:
                assert await conversation.say("Run: echo hello") == "hello"
            await system.e2b_admin.add_fault("create", {"status": 500})
            async with begin(system) as conversation:
                assert await conversation.say("Run: echo hello") == "hello"
            await resyncs_pass(system, 2)
            await prometheus.scraped(await prometheus.now())
            yield Watched(system, prometheus)


@pytest.fixture(scope="module")
async def exposed(watched: Watched) -> dict[str, set[str]]:
    """Each sample's name with its labels, from /metrics of both processes."""
    found: dict[str, set[str]] = {}
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        for pod in (watched.system.webhook, *watched.system.operators):
            text = (await client.get(f"{pod.probe_url}/metrics")).text
            for family in text_string_to_metric_families(text):
                for suffix in SUFFIXES.get(family.type, ()):
                    found.setdefault(family.name + suffix, set())
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
    # A counter that has not counted yet shows no label.
    for counter in vars(Metrics()).values():
        if isinstance(counter, Counter):
            found[f"{counter._name}_total"].update(counter._labelnames)
    return found


async def test_prometheus_reaches_every_pod(watched: Watched) -> None:
    found = await watched.prometheus.query("up")
    assert {sample["metric"]["pod"]: sample["value"][1] for sample in found} == {
        "webhook": "1",
        "operator-1": "1",
        "operator-2": "1",
    }


@pytest.mark.parametrize("metric", ["process_cpu_seconds_total", "process_resident_memory_bytes"])
async def test_each_pod_reports_what_its_process_uses(watched: Watched, metric: str) -> None:
    found = await watched.prometheus.query(metric)
    assert {sample["metric"]["pod"] for sample in found} == {"webhook", "operator-1", "operator-2"}


@pytest.mark.parametrize("name", PANELS)
async def test_panel_shows_something(watched: Watched, name: str) -> None:
    query = PANELS[name].replace("$namespace", watched.system.system_namespace)
    assert await watched.prometheus.query(query.replace("$__rate_interval", "10m"))


async def test_no_alert_fires_or_is_about_to_at_rest(watched: Watched) -> None:
    async def states() -> dict[str, str]:
        groups = (await watched.prometheus.get("/rules", type="alert"))["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    async def at_rest() -> bool:
        found = await states()
        return {name for name, state in found.items() if state != "inactive"} <= BUSY

    assert (await states()).keys() == {name for name in RULE_QUERIES if name.startswith("Managed")}
    await eventually("no alert is pending", at_rest)


async def test_rules_are_evaluated_without_errors(watched: Watched) -> None:
    groups = (await watched.prometheus.get("/rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(RULE_QUERIES)
    assert [rule for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize("name", QUERIES)
def test_query_is_promql(name: str) -> None:
    promql_parser.parse(QUERIES[name].replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("name", QUERIES)
async def test_query_asks_for_metrics_that_exist(exposed: dict[str, set[str]], name: str) -> None:
    asked = set(METRICS.findall(QUERIES[name]))
    assert asked or "namespace:" in QUERIES[name]
    assert asked - set(exposed) == set()


def test_recorded_series_that_queries_ask_for_are_recorded() -> None:
    asked = {name for query in QUERIES.values() for name in re.findall(r"\bnamespace:[\w:]+", query)}
    assert asked
    assert asked <= RULE_QUERIES.keys()


@pytest.mark.parametrize("name", QUERIES)
async def test_query_groups_and_selects_by_labels_that_exist(exposed: dict[str, set[str]], name: str) -> None:
    query = QUERIES[name]
    metrics = set(METRICS.findall(query))
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(", ")}
    selected = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", query))
    used = {label for metric in metrics for label in exposed[metric]}
    assert grouped | selected <= used | FROM_PROMETHEUS


@pytest.mark.parametrize("name", QUERIES)
def test_webhook_outcomes_in_queries_exist(name: str) -> None:
    for outcomes in re.findall(r"webhook_requests_total\{[^}]*outcome=~?\"([^\"]*)\"", QUERIES[name]):
        assert set(outcomes.split("|")) <= set(Outcome)
