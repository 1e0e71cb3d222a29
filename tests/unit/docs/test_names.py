"""Metrics, settings, reasons and files that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from managed_session_api.conditions import REASONS, ConditionType
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.settings import describe_settings
from managed_session_webhook.metrics import WebhookMetrics
from managed_session_webhook.settings import WebhookSettings
from prometheus_client import CollectorRegistry

from .test_generated_docs import GENERATOR

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOCAL_SETTINGS = re.compile(
    r"MANAGED_SESSIONS_(KUBERNETES_VERSION|CONTROL_PLANE|\w+_DOWNLOAD_|DOWNLOAD_|AUDIT_)\w*"
)


def by_name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_metrics_exist(page: Path) -> None:
    registry = CollectorRegistry()
    WebhookMetrics(registry)
    families = [family for each in (registry, Metrics().registry) for family in each.collect()]
    known = {family.name for family in families}
    known |= {f"{family.name}_total" for family in families if family.type == "counter"}
    named = set(re.findall(r"`(managed_sessions_\w+)", page.read_text()))
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_settings_exist(page: Path) -> None:
    known = {row.variable for cls in (WebhookSettings, OperatorSettings) for row in describe_settings(cls)}
    named = set(re.findall(r"MANAGED_SESSIONS_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    assert {name for name in named - known if not LOCAL_SETTINGS.fullmatch(name)} == set()


def test_reasons_in_the_pages_for_people_exist() -> None:
    known = {reason.value for reason in REASONS} | {type_.value for type_ in ConditionType}
    known |= {*GENERATOR.WORKER_EXITS, *GENERATOR.OPERATOR_EXITS}
    for page in (
        "troubleshooting.md",
        "operate.md",
        "credentials.md",
        "uninstall.md",
        "upgrade.md",
        "exposing.md",
    ):
        text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)`", text))
        of_kubernetes = {
            "ErrImagePull",
            "ImagePullBackOff",
            "CrashLoopBackOff",
            "LoadBalancer",
            "PodSecurity",
        }
        assert named - known - of_kubernetes == set(), page


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_files_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"`((?:deploy|tests|crds|docs|worker|operator|local|benchmarks)/[\w./-]+)`", page.read_text()
        )
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
