"""The manifests of deploy/: their content, the restrictions of their pods, and the rights they give."""

import ipaddress
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_api import names
from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS
from managed_session_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "deploy").glob("*.yaml"))
OBJECTS: list[dict[str, Any]] = list(
    itertools.chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in FILES)
)
PROCESSES = ["managed-session-webhook", "managed-session-operator"]
UNPRIVILEGED_USER = 65532
CRDS = ["managedsessions.yaml", "managedsessionclasses.yaml", "managedsandboxes.yaml"]
API_SERVER_PORTS = {443, 6443, 8443, 16443}


def objects(kind: str) -> list[dict[str, Any]]:
    return [item for item in OBJECTS if item["kind"] == kind]


def deployment(name: str) -> dict[str, Any]:
    (found,) = (item for item in objects("Deployment") if item["metadata"]["name"] == name)
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(name)["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def test_crds_are_those_in_crds() -> None:
    for name, crd in zip(CRDS, objects("CustomResourceDefinition"), strict=True):
        assert crd == yaml.safe_load((ROOT / "crds" / name).read_text())


def test_referenced_objects_come_first() -> None:
    order = [item["kind"] for item in OBJECTS]
    assert order.index("CustomResourceDefinition") == order.count("Namespace")
    assert order.index("ServiceAccount") < order.index("Role") < order.index("Deployment")


def test_everything_is_in_one_of_the_two_namespaces() -> None:
    cluster_wide = {
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    namespaces = {item["metadata"]["name"] for item in objects("Namespace")}
    assert namespaces == {names.SYSTEM_NAMESPACE, names.RESOURCE_NAMESPACE}
    for item in OBJECTS:
        assert (item["metadata"].get("namespace") in namespaces) != (item["kind"] in cluster_wide)


def test_namespaces_enforce_the_restricted_pod_security_standard() -> None:
    for namespace in objects("Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_manifests_contain_no_secret() -> None:
    assert objects("Secret") == []


def test_processes_have_only_namespaced_rights() -> None:
    assert objects("ClusterRoleBinding") == []


def test_rights_have_no_wildcards() -> None:
    for role in objects("Role") + objects("ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]


def test_every_verb_has_a_comment_with_its_reason() -> None:
    lines = (ROOT / "deploy/30-roles.yaml").read_text().splitlines()
    verbs = [line for line in lines if line.startswith("      - ")]
    assert len(verbs) == sum(len(rule["verbs"]) for role in objects("Role") for rule in role["rules"])
    assert [line for line in verbs if " # " not in line] == []


def test_each_role_is_bound_to_its_service_account() -> None:
    roles = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in objects("Role")}
    bound = set()
    for binding in objects("RoleBinding"):
        name = binding["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": name, "namespace": names.SYSTEM_NAMESPACE}
        ]
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        bound.add((binding["metadata"]["namespace"], name))
    assert bound == roles


def test_only_pods_that_need_service_account_tokens_get_them() -> None:
    assert {account["metadata"]["name"] for account in objects("ServiceAccount")} == set(PROCESSES)
    for account in objects("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name in PROCESSES:
        assert pod(name)["automountServiceAccountToken"] is True
        assert pod(name)["serviceAccountName"] == name


@pytest.mark.parametrize("name", PROCESSES)
def test_two_pods_of_one_image_run_their_process(name: str) -> None:
    assert deployment(name)["spec"]["replicas"] == 2
    assert container(name)["image"].startswith("managed-sessions:")
    assert container(name)["command"] == [name]


def test_image_has_the_version_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for name in PROCESSES:
        version = container(name)["image"].rpartition(":")[2]
        assert f'version = "{version}"' in project


@pytest.mark.parametrize("name", PROCESSES)
def test_a_second_apply_keeps_the_strategy(name: str) -> None:
    """kubectl removes a strategy's type if the manifest lacks it."""
    assert deployment(name)["spec"]["strategy"]["type"] == "RollingUpdate"


@pytest.mark.parametrize("name", PROCESSES)
def test_pod_is_confined(name: str) -> None:
    assert pod(name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": UNPRIVILEGED_USER,
        "runAsGroup": UNPRIVILEGED_USER,
        "fsGroup": UNPRIVILEGED_USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container(name)["resources"]
    for resource in ("cpu", "memory", "ephemeral-storage"):
        assert resource in resources["requests"]
        assert resource in resources["limits"]


@pytest.mark.parametrize("name", PROCESSES)
def test_pod_is_probed_on_the_metrics_port(name: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    assert ports["metrics"] == 8080
    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        assert container(name)[probe]["httpGet"] == {"path": path, "port": "metrics"}


@pytest.mark.parametrize("name", PROCESSES)
def test_credentials_are_an_optional_secret_that_only_the_process_can_read(name: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    mounts = {mount["name"]: mount for mount in container(name)["volumeMounts"]}
    assert volumes["credentials"]["secret"] == {"secretName": name, "optional": True, "defaultMode": 0o440}
    assert mounts["credentials"]["mountPath"] == "/etc/managed-sessions/credentials"
    assert mounts["credentials"]["readOnly"] is True
    assert "emptyDir" in volumes["tmp"]
    assert mounts["tmp"]["mountPath"] == "/tmp"


def test_operator_knows_its_namespace() -> None:
    variables = {variable["name"]: variable for variable in container("managed-session-operator")["env"]}
    assert variables["MANAGED_SESSIONS_SYSTEM_NAMESPACE"]["valueFrom"] == {
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    }


def test_skills_are_cached_on_a_volume_that_is_larger_than_the_cache() -> None:
    name = "managed-session-operator"
    variables = {variable["name"]: variable for variable in container(name)["env"]}
    [mount] = [each for each in container(name)["volumeMounts"] if each["name"] == "skills"]
    [volume] = [each for each in pod(name)["volumes"] if each["name"] == "skills"]
    assert variables["MANAGED_SESSIONS_SKILL_CACHE_FOLDER"]["value"] == mount["mountPath"]
    limit = int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi"))
    assert OperatorSettings.model_fields["skill_cache_mib"].default < limit
    assert limit < int(container(name)["resources"]["limits"]["ephemeral-storage"].removesuffix("Mi"))


@pytest.mark.parametrize("name", PROCESSES)
def test_settings_come_from_an_optional_config_map(name: str) -> None:
    assert container(name)["envFrom"][0] == {"configMapRef": {"name": name, "optional": True}}


def test_only_the_operator_takes_headers_for_a_collector_from_an_optional_secret() -> None:
    secret = {"secretRef": {"name": "managed-session-operator-telemetry", "optional": True}}
    assert container("managed-session-operator")["envFrom"][1:] == [secret]
    assert container("managed-session-webhook")["envFrom"][1:] == []


@pytest.mark.parametrize("name", PROCESSES)
def test_pod_has_time_to_stop(name: str) -> None:
    delay = container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod(name)["terminationGracePeriodSeconds"] >= delay + 20


def test_operator_has_time_for_e2bs_answers_before_its_pod_ends() -> None:
    """E2B cancels a create, resume or pause if its connection closes."""
    assert pod("managed-session-operator")["terminationGracePeriodSeconds"] >= OPEN_SECONDS + 20


@pytest.mark.parametrize("name", PROCESSES)
def test_disruption_budget_covers_the_pods(name: str) -> None:
    (budget,) = (item for item in objects("PodDisruptionBudget") if item["metadata"]["name"] == name)
    labels = deployment(name)["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", PROCESSES)
def test_pods_of_one_version_are_spread_over_the_nodes(name: str) -> None:
    (spread,) = pod(name)["topologySpreadConstraints"]
    labels = deployment(name)["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    # Otherwise pods of the previous version, which are about to go, would count too.
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_service_leads_to_the_webhook_and_not_to_its_metrics() -> None:
    (service,) = objects("Service")
    labels = deployment("managed-session-webhook")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(8000, "http")]


def policy(name: str) -> dict[str, Any]:
    (found,) = (item for item in objects("NetworkPolicy") if item["metadata"]["name"] == name)
    spec: dict[str, Any] = found["spec"]
    return spec


def test_all_traffic_is_denied_by_default() -> None:
    assert policy("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", PROCESSES)
def test_network_policy_is_about_the_pods_of_its_name(name: str) -> None:
    labels = deployment(name)["spec"]["template"]["metadata"]["labels"]
    assert policy(name)["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy(name)["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("name", PROCESSES)
def test_every_port_of_a_pod_can_be_reached_and_no_other(name: str) -> None:
    allowed = {port["port"] for rule in policy(name)["ingress"] for port in rule["ports"]}
    assert allowed == {port["containerPort"] for port in container(name)["ports"]}


def test_webhook_reaches_no_public_address_and_no_dns() -> None:
    for rule in policy("managed-session-webhook")["egress"]:
        assert rule["to"], "no address would be every address"
        assert all(not ipaddress.ip_network(peer["ipBlock"]["cidr"]).is_global for peer in rule["to"])
        assert {port["port"] for port in rule["ports"]} == API_SERVER_PORTS


def test_operator_reaches_the_clouds_the_api_server_and_dns() -> None:
    dns, anywhere = policy("managed-session-operator")["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} >= {(53, "UDP"), (53, "TCP")}
    assert "to" not in anywhere
    assert {port["port"] for port in anywhere["ports"]} == API_SERVER_PORTS
    assert 443 in API_SERVER_PORTS
