"""How the modules of a release are pinned, and that the workflow tests every release of the table."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from managed_session_devkit.control_plane.go_build import MODULES
from managed_session_devkit.control_plane.releases import DEFAULT, RELEASES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin_release", ROOT / "devkit" / "pin_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_in_tree_modules_are_replaced_by_the_published_ones_of_the_same_release(script: ModuleType) -> None:
    published: dict[str, Any] = {
        "Go": "1.23.0",
        "Godebug": [{"Key": "default", "Value": "go1.23"}, {"Key": "winsymlink", "Value": "0"}],
        "Replace": [{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}}],
    }
    lines = script.go_mod("kubernetes", "v1.32.13", published).splitlines()
    assert "require k8s.io/kubernetes v1.32.13 // indirect" in lines
    assert "replace k8s.io/api => k8s.io/api v0.32.13" in lines
    assert "\tdefault=go1.23" in lines, "the binaries behave like those that were built with this Go"
    assert "go 1.24.0" in lines, "the first version whose go.mod may name tools"


def test_etcd_is_required_without_a_replacement(script: ModuleType) -> None:
    published = {"Go": "1.26.0", "Replace": [{"Old": {"Path": "go.etcd.io/etcd/api/v3"}}]}
    text = script.go_mod("etcd", "v3.6.16", published)
    assert "require go.etcd.io/etcd/server/v3 v3.6.16 // indirect" in text
    assert "replace" not in text


@pytest.mark.parametrize("short", RELEASES)
def test_committed_modules_replace_all_in_tree_modules_by_their_release(short: str) -> None:
    version = RELEASES[short].kubernetes
    text = (MODULES / "kubernetes" / version / "go.mod").read_text()
    replaced = [line.split()[-1] for line in text.splitlines() if "=>" in line]
    assert len(replaced) > 20
    assert set(replaced) == {"v0" + version.removeprefix("v1")}


def test_workflow_runs_the_cluster_tests_on_every_release_of_the_table() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/cluster.yml").read_text())
    versions = workflow["jobs"]["kubernetes"]["strategy"]["matrix"]["version"]
    assert [*versions, DEFAULT.minor] == list(RELEASES)
