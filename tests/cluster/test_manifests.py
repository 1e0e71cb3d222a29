"""What is in deploy/: made of one base, and valid by the API server's own strict judgement."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_devkit.control_plane import ControlPlane, KubectlError, established
from managed_session_devkit.control_plane.binaries import ControlPlaneBinaries, resolve_binaries

DEPLOY = Path(__file__).parents[2] / "deploy"
RENDER = DEPLOY.parent / "devkit/render_manifests.py"
BASE = DEPLOY / "kustomize/base"
RESTRICTED = DEPLOY / "kustomize/overlays/restricted"
OVERLAYS = [DEPLOY / "kustomize/overlays/kind", RESTRICTED]
EXAMPLES = DEPLOY / "examples"
MONITORING = DEPLOY / "monitoring"
DASHBOARD = DEPLOY / "dashboard"
DASHBOARD_SOURCE = DEPLOY / "kustomize/dashboard"
UPSTREAM = Path(__file__).parent / "upstream"
CLOUD_EXAMPLES = {EXAMPLES / f"health-check-{name}.yaml" for name in ("gke-ingress", "gke-gateway", "azure")}
"""Of kinds whose definitions no module publishes; tests/unit/deploy/test_health_checks.py looks at them."""
STRICT_DRY_RUN = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")


def kustomized(folder: Path, binaries: ControlPlaneBinaries) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run(
        [binaries.kubectl, "kustomize", folder], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def in_order(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        objects,
        key=lambda each: (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]),
    )


def test_flat_files_and_the_base_give_the_same_objects() -> None:
    flat = [each for path in sorted(DEPLOY.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    assert in_order(flat) == in_order(kustomized(BASE, resolve_binaries()))


def test_flat_files_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, RENDER, "--check"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_entry_in_an_overlay_changes_every_image(tmp_path: Path) -> None:
    # kustomize wants a relative path.
    base = Path("../" * (len(tmp_path.parts) - 1)) / (DEPLOY / "kustomize/base").relative_to("/")
    image = {"name": "managed-sessions", "newName": "registry.example.com/team/sessions", "newTag": "1.2.3"}
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [str(base)], "images": [image]})
    )
    images = {
        container["image"]
        for each in kustomized(tmp_path, resolve_binaries())
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example.com/team/sessions:1.2.3"}


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[ControlPlane]:
    """deploy/, and the definitions of Gateway API and Prometheus operator that examples need."""
    async with ControlPlane() as control_plane:
        await control_plane.kubectl("apply", f"--filename={DEPLOY}", f"--filename={UPSTREAM}")
        await established(control_plane.kubectl)
        await control_plane.kubectl("create", "namespace", "gateways")
        yield control_plane


def test_folders_are_those_that_are_validated_here() -> None:
    chart = DEPLOY / "helm"  # tests/cluster/test_chart.py looks at it
    folders = {path.parent for path in DEPLOY.rglob("*.yaml") if not path.is_relative_to(chart)}
    assert folders == {DEPLOY, DASHBOARD, BASE, *OVERLAYS, DASHBOARD_SOURCE, EXAMPLES, MONITORING}
    assert {path.name for path in DEPLOY.iterdir() if path.is_dir()} == {
        "helm",
        "kustomize",
        "dashboard",
        "examples",
        "monitoring",
    }


@pytest.mark.parametrize("folder", [EXAMPLES, MONITORING, DASHBOARD], ids=lambda folder: str(folder.name))
async def test_what_a_folder_holds_is_valid(cluster: ControlPlane, folder: Path) -> None:
    for path in sorted({*folder.glob("*.yaml")} - CLOUD_EXAMPLES):
        done = await cluster.kubectl(*STRICT_DRY_RUN, f"--filename={path}")
        assert done.count("(server dry run)") == len(list(yaml.safe_load_all(path.read_text())))


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS, DASHBOARD_SOURCE], ids=lambda folder: str(folder.name))
async def test_what_an_overlay_makes_is_valid(cluster: ControlPlane, folder: Path) -> None:
    done = await cluster.kubectl(*STRICT_DRY_RUN, f"--kustomize={folder}")
    assert done.count("(server dry run)") == len(kustomized(folder, resolve_binaries()))


async def test_what_is_misspelt_is_not_valid(cluster: ControlPlane) -> None:
    """The two tests above would find it, in kinds of others too."""
    for name, right in (("gateway.yaml", "parentRefs"), ("managed-session.yaml", "idleTTLSeconds")):
        wrong = (EXAMPLES / name).read_text().replace(f"{right}:", f"{right}s:")
        with pytest.raises(KubectlError, match=f"{right}s: field not declared in schema"):
            await cluster.kubectl(*STRICT_DRY_RUN, "--filename=-", input=wrong)


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def test_restricted_overlay_makes_nothing_cluster_wide() -> None:
    made = kustomized(RESTRICTED, resolve_binaries())
    assert {each["kind"] for each in made if "namespace" not in each["metadata"]} == set()


def test_restricted_overlay_names_every_peer() -> None:
    for policy in of_kind(kustomized(RESTRICTED, resolve_binaries()), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            peers = rule.get("from") or rule["to"]
            assert {} not in [peer.get("namespaceSelector") for peer in peers]
            for peer in peers:
                assert peer.get("ipBlock", {}).get("cidr", "/32").endswith("/32")


def test_restricted_overlay_gives_the_setting_for_the_right_that_it_takes_away() -> None:
    made = kustomized(RESTRICTED, resolve_binaries())
    resources = {r for role in of_kind(made, "Role") for rule in role["rules"] for r in rule["resources"]}
    assert "namespaces" not in resources
    (settings,) = of_kind(made, "ConfigMap")
    assert settings["data"]["MANAGED_SESSIONS_INSTALLATION_ID"]


def test_public_ways_lead_to_the_webhook_alone() -> None:
    ingress, _ = yaml.safe_load_all((EXAMPLES / "ingress.yaml").read_text())
    _, route = yaml.safe_load_all((EXAMPLES / "gateway.yaml").read_text())
    paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert [(path["path"], path["pathType"]) for path in paths] == [("/webhook", "Exact")]
    matches = [match["path"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert matches == [{"type": "Exact", "value": "/webhook"}]
    assert ingress["spec"]["tls"]


def test_a_challenge_over_http_reaches_its_pod_beside_the_ingress() -> None:
    """cert-manager runs it in the Ingress's namespace, where nothing may come in by default."""
    ingress, policy = yaml.safe_load_all((EXAMPLES / "ingress.yaml").read_text())
    assert policy["metadata"]["namespace"] == ingress["metadata"]["namespace"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"acme.cert-manager.io/http01-solver": "true"}
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 8089, "protocol": "TCP"}]}]


def test_a_gateways_own_pods_are_not_among_ours_and_it_admits_our_route() -> None:
    gateway, route = yaml.safe_load_all((EXAMPLES / "gateway.yaml").read_text())
    ours = route["metadata"]["namespace"]
    assert gateway["metadata"]["namespace"] != ours
    assert route["spec"]["parentRefs"][0]["namespace"] == gateway["metadata"]["namespace"]
    admitted = gateway["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["selector"]["matchLabels"]
    assert admitted == {"kubernetes.io/metadata.name": ours}
