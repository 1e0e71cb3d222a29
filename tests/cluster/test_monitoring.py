"""Alerts and dashboard ask for metrics that the processes really have, with labels that these really bear."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml
from managed_session_devkit.control_plane import ControlPlane
from managed_session_operator.metrics import Metrics
from managed_session_webhook.metrics import Outcome
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from ..support.sessions import begin
from ..support.systems import local_system

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
DASHBOARD = json.loads(
    yaml.safe_load((MONITORING / "dashboard.yaml").read_text())["data"]["managed-sessions.json"]
)
QUERIES = {
    rule["alert"]: " ".join(rule["expr"].split())
    for group in RULES["spec"]["groups"]
    for rule in group["rules"]
} | {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
}
FROM_PROMETHEUS = {"namespace", "pod"}
"""Labels that the PodMonitor adds."""


@pytest.fixture(scope="module")
async def exposed(control_plane: ControlPlane) -> AsyncIterator[dict[str, set[str]]]:
    """Each sample's name with its labels, from /metrics of both processes after one turn."""
    async with local_system(control_plane) as system:
        async with begin(system) as conversation:
            assert await conversation.say("Run: echo hello") == "hello"
        found: dict[str, set[str]] = {}
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
            for pod in (system.webhook, system.operator):
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
        yield found


@pytest.mark.parametrize("name", QUERIES)
def test_query_is_promql(name: str) -> None:
    promql_parser.parse(QUERIES[name].replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("name", QUERIES)
async def test_query_asks_for_metrics_that_exist(exposed: dict[str, set[str]], name: str) -> None:
    asked = set(re.findall(r"\bmanaged_sessions_\w+", QUERIES[name]))
    assert asked
    assert asked - set(exposed) == set()


@pytest.mark.parametrize("name", QUERIES)
async def test_query_groups_and_selects_by_labels_that_exist(exposed: dict[str, set[str]], name: str) -> None:
    query = QUERIES[name]
    metrics = set(re.findall(r"\bmanaged_sessions_\w+", query))
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(", ")}
    selected = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", query))
    used = {label for metric in metrics for label in exposed[metric]}
    assert grouped | selected <= used | FROM_PROMETHEUS


@pytest.mark.parametrize("name", QUERIES)
def test_webhook_outcomes_in_queries_exist(name: str) -> None:
    for outcomes in re.findall(r"webhook_requests_total\{[^}]*outcome=~?\"([^\"]*)\"", QUERIES[name]):
        assert set(outcomes.split("|")) <= set(Outcome)


@pytest.mark.parametrize("rule", RULES["spec"]["groups"][0]["rules"], ids=lambda rule: str(rule["alert"]))
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
