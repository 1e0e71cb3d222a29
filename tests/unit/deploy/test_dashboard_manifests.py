"""The manifests of deploy/dashboard/: an optional, confined pod that can change nothing."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import yaml
from managed_session_api import names
from managed_session_cli.manifests import load_dashboard_manifests, load_manifests

ROOT = Path(__file__).parents[3]
NAME = "managed-session-dashboard"
OBJECTS = load_dashboard_manifests()
READING = {"get", "list", "watch"}
QUESTIONS = {"tokenreviews", "subjectaccessreviews"}


def objects(kind: str) -> list[dict[str, Any]]:
    return [each for each in OBJECTS if each["kind"] == kind]


def pod() -> dict[str, Any]:
    (deployment,) = objects("Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_plain_installation_lacks_it() -> None:
    assert [each for each in load_manifests() if NAME in each["metadata"]["name"]] == []


def test_rights_are_to_read_and_to_ask() -> None:
    for role in objects("Role") + objects("ClusterRole"):
        for rule in role["rules"]:
            if set(rule["resources"]) <= QUESTIONS:
                assert rule["verbs"] == ["create"]
            else:
                assert role["kind"] == "Role"
                assert set(rule["verbs"]) <= READING
                assert "secrets" not in rule["resources"]


def test_every_verb_has_a_comment_with_its_reason() -> None:
    lines = (ROOT / "deploy/dashboard/30-roles.yaml").read_text().splitlines()
    verbs = [line for line in lines if line.startswith("      - ")]
    roles = objects("Role") + objects("ClusterRole")
    assert len(verbs) == sum(len(rule["verbs"]) for role in roles for rule in role["rules"])
    assert [line for line in verbs if " # " not in line] == []


def test_account_to_sign_in_with_is_no_pods() -> None:
    accounts = {each["metadata"]["name"] for each in objects("ServiceAccount")}
    assert accounts == {NAME, f"{NAME}-viewer"}
    assert pod()["serviceAccountName"] == NAME
    for account in objects("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_pod_is_confined_as_the_others_are() -> None:
    (other,) = (
        each["spec"]["template"]["spec"]
        for each in load_manifests()
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "managed-session-webhook"
    )
    (container,), (others_container,) = pod()["containers"], other["containers"]
    assert pod()["securityContext"] == other["securityContext"]
    assert container["securityContext"] == others_container["securityContext"]
    assert container["image"] == others_container["image"]
    assert container["command"] == [NAME]
    for resource in ("cpu", "memory", "ephemeral-storage"):
        assert {resource} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"


def test_pod_reaches_the_api_server_only() -> None:
    (policy,) = objects("NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": NAME}
    for rule in policy["spec"]["egress"]:
        assert all(not ipaddress.ip_network(peer["ipBlock"]["cidr"]).is_global for peer in rule["to"])
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {8000, 8080}


def test_installations_beside_each_other_have_bindings_of_their_own() -> None:
    moved = load_dashboard_manifests("one", "one-system")
    (binding,) = (each for each in moved if each["kind"] == "ClusterRoleBinding")
    assert binding["metadata"]["name"] == f"{NAME}-one-system"
    assert binding["subjects"][0]["namespace"] == "one-system"
    namespaces = {each["metadata"].get("namespace") for each in moved}
    assert namespaces == {None, "one", "one-system"}
    assert {each["metadata"].get("namespace") for each in OBJECTS} == {
        None,
        names.RESOURCE_NAMESPACE,
        names.SYSTEM_NAMESPACE,
    }


def test_sources_are_those_of_the_overlays() -> None:
    kustomization = yaml.safe_load((ROOT / "deploy/kustomize/dashboard/kustomization.yaml").read_text())
    flat = sorted(path.name for path in (ROOT / "deploy/dashboard").glob("*.yaml"))
    assert kustomization["resources"] == flat
