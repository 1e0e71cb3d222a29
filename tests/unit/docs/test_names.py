"""The metrics, settings, reasons and files that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from managed_session_api.conditions import ConditionType
from managed_session_api.reasons import REASONS
from managed_session_dashboard.metrics import DashboardMetrics
from managed_session_dashboard.settings import DashboardSettings
from managed_session_operator.cost_metrics import CostMetrics
from managed_session_operator.metrics import AnnouncementMetrics, Metrics
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.probes import publish_build_info
from managed_session_runtime.settings import describe_settings
from managed_session_webhook.metrics import WebhookMetrics
from managed_session_webhook.settings import WebhookSettings
from managed_session_worker.protocol import ExitReason
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).parents[3]
AT_THE_ROOT = ("README.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in AT_THE_ROOT), *sorted((ROOT / "docs").glob("*.md"))]
OPERATOR = ROOT / "operator" / "managed_session_operator"
LOCAL_SETTINGS = re.compile(
    r"MANAGED_SESSIONS_(KUBERNETES_VERSION|CONTROL_PLANE|\w+_DOWNLOAD_|DOWNLOAD_|AUDIT_)\w*"
)


def by_name(path: Path) -> str:
    return path.name


def text_of(page: Path) -> str:
    """Return the page's text, without the old names in the first columns of the upgrade page's tables."""
    text = page.read_text()
    return re.sub(r"^\|[^|\n]*\|", "|", text, flags=re.MULTILINE) if page.name == "upgrade.md" else text


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_metrics_exist(page: Path) -> None:
    registry = CollectorRegistry()
    WebhookMetrics(registry)
    DashboardMetrics(registry)
    CostMetrics(registry)
    AnnouncementMetrics(registry)
    families = [family for each in (registry, Metrics().registry) for family in each.collect()]
    known = {family.name for family in families}
    known |= {f"{family.name}_total" for family in families if family.type == "counter"}
    known |= {"managed_sessions_build_info"}
    named = set(re.findall(r"`(managed_sessions_\w+)", text_of(page)))
    assert named - known == set()


def test_each_metric_is_explained() -> None:
    registry = CollectorRegistry()
    WebhookMetrics(registry)
    CostMetrics(registry)
    DashboardMetrics(registry)
    AnnouncementMetrics(registry)
    publish_build_info("any", registry)
    families = [family for each in (registry, Metrics().registry) for family in each.collect()]
    ends = {"counter": "_total", "info": "_info"}
    names = {f"{each.name}{ends.get(each.type, '')}" for each in families if each.name.startswith("managed_")}
    rows = re.findall(r"^\| (`managed_sessions.*?) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(managed_sessions_\w+)`", row)} == names


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_settings_exist(page: Path) -> None:
    known = {
        row.variable
        for cls in (WebhookSettings, OperatorSettings, DashboardSettings)
        for row in describe_settings(cls)
    }
    named = set(re.findall(r"MANAGED_SESSIONS_[A-Z0-9_]*[A-Z0-9]", text_of(page)))
    assert {name for name in named - known if not LOCAL_SETTINGS.fullmatch(name)} == set()


def test_reasons_in_the_pages_exist() -> None:
    known = {reason.value for reason in REASONS} | {type_.value for type_ in ConditionType}
    known |= {reason.value for reason in ExitReason}
    for page in (
        "troubleshooting.md",
        "operate.md",
        "credentials.md",
        "uninstall.md",
        "upgrade.md",
        "exposing.md",
        "backup.md",
        "metrics.md",
        "capacity.md",
        "recovery.md",
        "turn.md",
        "crash-matrix.md",
        "glossary.md",
        "classes.md",
    ):
        text = re.sub(r"^```.*?^```", "", text_of(ROOT / "docs" / page), flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)`", text))
        of_kubernetes = {
            "ErrImagePull",
            "ImagePullBackOff",
            "CrashLoopBackOff",
            "LoadBalancer",
            "PodSecurity",
            "NotIn",
            "DoesNotExist",
        }
        assert named - known - of_kubernetes == set(), page


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_files_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"`((?:deploy|tests|crds|docs|worker|operator|cli|devkit|benchmarks)/[\w./-]+)`", page.read_text()
        )
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_modules_of_the_operator_exist(page: Path) -> None:
    rooms = "domain|capacity|clients|steps|resync|controller"
    named = set(re.findall(rf"`((?:{rooms})/[\w/.]*)`", page.read_text()))
    assert [name for name in sorted(named) if not (OPERATOR / name).exists()] == []


def test_the_map_of_the_operator_has_each_room_with_modules_that_exist() -> None:
    page = (ROOT / "docs" / "development.md").read_text()
    section = page.partition("\n## The operator's modules\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", section, re.MULTILINE))
    assert rows.keys() == {each.parent.name for each in OPERATOR.glob("*/__init__.py")}
    named = [f"{room}/{module}" for room, text in rows.items() for module in re.findall(r"`(\w+\.py)`", text)]
    assert [module for module in named if not (OPERATOR / module).exists()] == []
