"""The Helm chart: the objects of deploy/, values that change them, and a life on a real API server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_cli.manifests import DELETION_GUARD, load_manifests
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.control_plane.binaries import resolve_binaries

from ..support.go_programs import run_helm
from ..support.waiting import eventually
from .test_deletion_guard import guards
from .test_manifests import kustomized

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/managed-sessions"
NAMESPACE = "managed-sessions-system"
KEEP = "helm.sh/resource-policy"
SESSION = {
    "apiVersion": "managedagents.dev/v1alpha1",
    "kind": "ManagedSession",
    "metadata": {"name": "one", "namespace": "managed-sessions"},
    "spec": {"sessionID": "sesn_01Example"},
}


def identity(manifest: dict[str, Any]) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def template(
    values: dict[str, Any] | None = None, namespace: str = NAMESPACE
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What `helm template` makes, without hooks."""
    rendered = run_helm(
        "template",
        "managed-sessions",
        str(CHART),
        f"--namespace={namespace}",
        "--no-hooks",
        f"--set-json={json.dumps(values or {})}",
    )
    assert rendered.returncode == 0, rendered.stderr
    return {identity(each): each for each in yaml.safe_load_all(rendered.stdout) if each}


def refused(values: dict[str, Any]) -> str:
    """What Helm says about values that the schema does not admit."""
    rendered = run_helm("template", "managed-sessions", str(CHART), f"--set-json={json.dumps(values)}")
    assert rendered.returncode != 0
    return rendered.stderr


def kept(manifest: dict[str, Any]) -> bool:
    """Take off the annotation by which Helm keeps an object, and return whether it was there."""
    annotations: dict[str, str] = manifest["metadata"].get("annotations", {})
    found = annotations.pop(KEEP, None) == "keep"
    if not annotations:
        manifest["metadata"].pop("annotations", None)
    return found


def test_chart_passes_strict_lint() -> None:
    linted = run_helm("lint", "--strict", str(CHART))
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_chart_and_base_give_the_same_objects() -> None:
    base = {identity(each): each for each in kustomized(ROOT / "deploy/kustomize/base", resolve_binaries())}
    made = template({"namespaces": {"system": True}})
    keeps = {name for name, each in made.items() if kept(each)}
    assert made == base
    assert keeps == {name for name in base if name[0] == "CustomResourceDefinition"} | {
        ("Namespace", "", "managed-sessions")
    }


def test_dashboard_is_that_of_its_folder_and_there_if_asked_for() -> None:
    folder = ROOT / "deploy/kustomize/dashboard"
    wanted = {identity(each): each for each in kustomized(folder, resolve_binaries())}
    without = template()
    assert not wanted.keys() & without.keys()
    made = template({"dashboard": {"enabled": True}})
    assert {name: each for name, each in made.items() if name not in without} == wanted


def test_only_the_releases_own_namespace_is_left_to_helm_by_default() -> None:
    assert template({"namespaces": {"system": True}}).keys() - template().keys() == {
        ("Namespace", "", NAMESPACE)
    }


def test_release_in_other_namespaces_is_what_the_command_line_installs_there() -> None:
    """Except for the guard: that of the chart knows its namespaces, and has a name of its own."""
    made = template({"resourceNamespace": "here", "namespaces": {"system": True}}, namespace="here-system")
    for each in made.values():
        kept(each)
    guards = [made.pop(name) for name in [*made] if name[2] == f"{DELETION_GUARD}-here"]
    (settings, other) = (
        made.pop(("ConfigMap", "here-system", f"managed-session-{name}")) for name in ("operator", "webhook")
    )
    assert settings["data"] == other["data"] == {"MANAGED_SESSIONS_NAMESPACE": "here"}
    for name in ("operator", "webhook"):
        deployment = made["Deployment", "here-system", f"managed-session-{name}"]
        assert deployment["spec"]["template"]["metadata"].pop("annotations").keys() == {
            "managedagents.dev/settings"
        }
    moved = {identity(each): each for each in load_manifests("here", "here-system")}
    assert made == moved
    assert len(guards) == 2
    assert "managed-sessions-system" not in json.dumps(guards)
    assert "--namespace=managed-sessions" not in json.dumps(guards)


def test_values_reach_both_deployments() -> None:
    pods: dict[str, Any] = {
        "replicas": 3,
        "resources": {"limits": {"memory": "2Gi"}},
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"team": "agents"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "agents", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "credentialsSecret": "elsewhere",
        "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
        "extraVolumeMounts": [{"name": "authorities", "mountPath": "/authorities"}],
    }
    made = template(
        {
            "image": {
                "repository": "registry.example.com:5000/team/sessions",
                "digest": f"sha256:{'0' * 64}",
            },
            "imagePullSecrets": [{"name": "registry"}],
            "operator": pods,
            "webhook": pods,
        }
    )
    for name in ("operator", "webhook"):
        spec = made["Deployment", NAMESPACE, f"managed-session-{name}"]["spec"]
        pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
        assert spec["replicas"] == 3
        assert spec["template"]["metadata"]["annotations"] == pods["podAnnotations"]
        assert spec["template"]["metadata"]["labels"]["team"] == "agents"
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        assert container["image"] == f"registry.example.com:5000/team/sessions@sha256:{'0' * 64}"
        assert container["resources"]["limits"]["memory"] == "2Gi"
        assert container["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}
        assert pods["extraVolumeMounts"][0] in container["volumeMounts"]
        assert pods["extraVolumes"][0] in pod["volumes"]
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
            assert pod[key] == pods[key]
        assert [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each] == ["elsewhere"]


def test_settings_become_strings_and_a_change_restarts_the_pods() -> None:
    def made(slots: int) -> tuple[dict[str, str], str, str]:
        settings = {"MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES": slots, "MANAGED_SESSIONS_E2B_PLAN": "pro"}
        objects = template(
            {"settings": {"HTTPS_PROXY": "http://proxy:3128"}, "operator": {"settings": settings}}
        )
        operator, webhook = (
            objects["Deployment", NAMESPACE, f"managed-session-{name}"]["spec"]["template"]["metadata"]
            for name in ("operator", "webhook")
        )
        data = objects["ConfigMap", NAMESPACE, "managed-session-operator"]["data"]
        return data, operator["annotations"], webhook["annotations"]

    data, operator, webhook = made(1_000_000)
    assert data == {
        "HTTPS_PROXY": "http://proxy:3128",
        "MANAGED_SESSIONS_E2B_PLAN": "pro",
        "MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES": "1000000",
    }
    _, changed, unchanged = made(50)
    assert operator != changed
    assert webhook == unchanged


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"operator": {"settings": {"MANAGED_SESSIONS_MAX_SANDBOXES": 5}}}, "MANAGED_SESSIONS_MAX_SANDBOXES"),
        ({"webhook": {"settings": {"MANAGED_SESSIONS_E2B_PLAN": "pro"}}}, "MANAGED_SESSIONS_E2B_PLAN"),
        ({"operator": {"replica": 1}}, "replica"),
        ({"image": {"repository": "registry.example.com/sessions:1.0"}}, "repository"),
        ({"webhook": {"ingress": {"enabled": True}}}, "host"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_would_have_no_effect_are_refused(values: dict[str, Any], named: str) -> None:
    assert named in refused(values)


def test_monitoring_and_ingress_are_those_of_deploy() -> None:
    made = template(
        {
            "webhook": {
                "ingress": {
                    "enabled": True,
                    "host": "sessions.example.com",
                    "className": "nginx",
                    "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
                    "acmeSolver": True,
                }
            },
            "monitoring": {
                "podMonitor": {"enabled": True},
                "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
                "grafanaDashboard": {"enabled": True},
            },
        }
    )
    files = [*(ROOT / "deploy/monitoring").glob("*.yaml"), ROOT / "deploy/examples/ingress.yaml"]
    wanted = [each for path in files for each in yaml.safe_load_all(path.read_text())]
    assert len(wanted) == 5
    for each in wanted:
        found = made[identity(each)]
        labels = each["metadata"].get("labels", {})
        assert found["metadata"].pop("labels").items() >= labels.items()
        each["metadata"].pop("labels", None)
        assert found == each


def test_alerts_lead_to_the_pages_that_values_name() -> None:
    alerts = {"enabled": True, "docsUrl": "https://docs.example.net/sessions"}
    made = template({"monitoring": {"alerts": alerts}})
    text = json.dumps(made["PrometheusRule", NAMESPACE, "managed-sessions"])
    assert "https://docs.example.net/sessions/alerts.html#managedsessionsnoleader" in text
    assert "managed-sessions.example.com" not in text


def test_further_objects_are_templates() -> None:
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "for-{{ .Release.Name }}"}}
    assert ("ConfigMap", "", "for-managed-sessions") in template({"extraObjects": [extra]})


@dataclass(frozen=True)
class Cluster:
    """An API server of its own, with nothing of ours on it."""

    plane: ControlPlane

    def helm(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_helm(verb, *arguments, f"--namespace={NAMESPACE}", kubeconfig=self.plane.kubeconfig)

    def install(self, *arguments: str, chart: Path = CHART) -> None:
        done = self.helm(
            "upgrade", "managed-sessions", str(chart), "--install", "--create-namespace", *arguments
        )
        assert done.returncode == 0, done.stderr

    async def versions(self) -> dict[str, str]:
        """The version of each object that the release has."""
        kinds = (
            "customresourcedefinitions,deployments,services,roles,rolebindings,clusterroles,serviceaccounts"
        )
        kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings,networkpolicies,namespaces"
        found = json.loads(
            await self.plane.kubectl(
                "get",
                f"{kinds},poddisruptionbudgets",
                "--all-namespaces",
                "--selector=app.kubernetes.io/part-of=managed-sessions",
                "--output=json",
            )
        )
        return {f"{identity(each)}": each["metadata"]["resourceVersion"] for each in found["items"]}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with ControlPlane() as plane:
        yield Cluster(plane)


async def test_a_release_is_installed_upgraded_and_uninstalled_but_not_under_sessions(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubectl = cluster.plane.kubectl
    cluster.install()
    before = await cluster.versions()
    assert len(before) == len(template())
    cluster.install()
    assert await cluster.versions() == before

    next_chart = tmp_path / "chart"
    shutil.copytree(CHART, next_chart)
    crd = next_chart / "templates/10-managedsessions.yaml"
    crd.write_text(
        crd.read_text().replace("categories: [managed-sessions]", "categories: [managed-sessions, agents]")
    )
    cluster.install(chart=next_chart)
    changed = {name for name, version in (await cluster.versions()).items() if before[name] != version}
    assert changed == {"('CustomResourceDefinition', '', 'managedsessions.managedagents.dev')"}

    await kubectl("create", "--filename=-", input=json.dumps(SESSION))
    await guards(
        cluster.plane, "deployment/managed-session-operator", f"--namespace={NAMESPACE}", session="one"
    )
    before = await cluster.versions()
    uninstalled = cluster.helm("uninstall", "managed-sessions")
    assert uninstalled.returncode != 0
    assert "there are ManagedSessions in the namespace managed-sessions, such as one" in uninstalled.stderr
    assert await cluster.versions() == before

    await kubectl("delete", "managedsession", "one", "--namespace=managed-sessions")

    async def uninstalls() -> bool:
        return cluster.helm("uninstall", "managed-sessions").returncode == 0

    await eventually("the API server has noticed that no session is left", uninstalls)
    left = {name.split("'")[1] for name in await cluster.versions()}
    assert left == {"CustomResourceDefinition", "Namespace"}
    cluster.install()


async def test_a_release_takes_over_what_kubectl_has_installed(cluster: Cluster) -> None:
    await cluster.plane.kubectl("apply", "--server-side", f"--filename={ROOT / 'deploy'}")
    cluster.install("--take-ownership", "--force-conflicts")
    uninstalled = cluster.helm("uninstall", "managed-sessions")
    assert uninstalled.returncode == 0, uninstalled.stderr
