"""Each alert fires in a real Prometheus when it should, rests when all is well, and leads to its runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ...support.prometheus import promtool
from .alert_cases import CASES, NAMESPACE, AlertCase

ROOT = Path(__file__).parents[3]
SPEC = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in SPEC["groups"] for rule in group["rules"] if "alert" in rule}
RECORDS = [rule["record"] for group in SPEC["groups"] for rule in group["rules"] if "record" in rule]
RUNBOOKS = ROOT / "docs/alerts.md"


def test_there_is_a_case_for_each_alert() -> None:
    assert CASES.keys() == ALERTS.keys()


def test_rules_are_valid_and_named_by_convention(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(SPEC))
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert [name for name in RECORDS if not re.fullmatch(r"namespace:\w+:\w+", name)] == []


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_fires(alert: str, tmp_path: Path) -> None:
    _verify(tmp_path, alert, CASES[alert].fires, [_fired(alert, CASES[alert])])


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_does_not_fire_when_all_is_well(alert: str, tmp_path: Path) -> None:
    _verify(tmp_path, alert, CASES[alert].rests, [])


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_is_wrong_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_leads_to_its_runbook(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook_url"].endswith(f"/alerts.html#{alert.lower()}")
    sections = dict(
        re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.MULTILINE | re.DOTALL)
    )
    assert {"**Meaning.**", "**Impact.**", "**Do.**"} <= set(re.findall(r"\*\*\w+\.\*\*", sections[alert]))


def test_there_is_a_runbook_for_nothing_else() -> None:
    assert set(re.findall(r"^## (Managed\w+)$", RUNBOOKS.read_text(), re.MULTILINE)) == ALERTS.keys()


def _fired(alert: str, case: AlertCase) -> dict[str, Any]:
    def told(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels[found[1]], text)
        return re.sub(r"\{\{ \$value .*? \}\}", case.value, text)

    rule = ALERTS[alert]
    return {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {name: told(text) for name, text in rule["annotations"].items()},
    }


def _verify(folder: Path, alert: str, series: dict[str, str], expected: list[dict[str, Any]]) -> None:
    case = CASES[alert]
    group = next(each for each in SPEC["groups"] if ALERTS[alert] in each["rules"])
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}))
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": f"{case.step_minutes}m",
        "tests": [
            {
                "interval": f"{case.step_minutes}m",
                "input_series": [
                    {"series": name.replace("{", f'{{namespace="{NAMESPACE}",', 1), "values": values}
                    for name, values in series.items()
                ],
                "alert_rule_test": [{"eval_time": f"{case.at}m", "alertname": alert, "exp_alerts": expected}],
            }
        ],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    tested = promtool("test", "rules", "test.yml", folder=folder)
    assert tested.returncode == 0, tested.stdout
