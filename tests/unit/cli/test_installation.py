"""The manifests with an image and namespaces, the permissions for them, and what an apply changes."""

from __future__ import annotations

import copy

from managed_session_cli.changes import Change, change
from managed_session_cli.installation import (
    OPERATOR,
    Installation,
    installation_id,
    permissions_for,
    template_setting,
)

DEPLOYMENTS = [each for each in Installation().manifests("r/x:1") if each["kind"] == "Deployment"]
NAMESPACE = {"metadata": {"uid": "uid-1"}}


def test_every_pod_has_the_image() -> None:
    images = [c["image"] for each in DEPLOYMENTS for c in each["spec"]["template"]["spec"]["containers"]]
    assert images == ["r/x:1"] * 2


def test_pods_get_the_name_of_an_unusual_namespace() -> None:
    moved = Installation("here", "here-system").manifests("r/x:1")
    for each in (each for each in moved if each["kind"] == "Deployment"):
        assert each["metadata"]["namespace"] == "here-system"
        [container] = each["spec"]["template"]["spec"]["containers"]
        assert {"name": "MANAGED_SESSIONS_NAMESPACE", "value": "here"} in container["env"]


def test_permissions_name_resources_as_the_server_does() -> None:
    found = {str(each) for each in permissions_for("patch", Installation().manifests())}
    assert "patch customresourcedefinitions.apiextensions.k8s.io" in found
    assert "patch networkpolicies.networking.k8s.io in managed-sessions-system" in found
    assert "patch namespaces" in found


def test_installation_id_is_the_setting_or_the_namespaces_uid() -> None:
    plain = next(each for each in DEPLOYMENTS if each["metadata"]["name"] == OPERATOR)
    assert installation_id(plain, None, NAMESPACE) == "uid-1"
    settings = {"data": {"MANAGED_SESSIONS_INSTALLATION_ID": "mine", "MANAGED_SESSIONS_TEMPLATE": "t:1"}}
    assert installation_id(plain, settings, NAMESPACE) == "mine"
    assert template_setting(plain, settings) == "t:1"
    configured = copy.deepcopy(plain)
    configured["spec"]["template"]["spec"]["containers"][0]["env"].append(
        {"name": "MANAGED_SESSIONS_INSTALLATION_ID", "value": "spelled-out"}
    )
    assert installation_id(configured, settings, NAMESPACE) == "spelled-out"
    assert installation_id(None, None, None) is None


def test_fields_that_the_server_manages_are_no_change() -> None:
    before = {"metadata": {"name": "x", "resourceVersion": "1", "managedFields": []}, "spec": {"a": 1}}
    after = {"metadata": {"name": "x", "resourceVersion": "2"}, "spec": {"a": 1}, "status": {"b": 2}}
    assert change(before, after) is Change.UNCHANGED
    assert change(before, {**after, "spec": {"a": 2}}) is Change.CONFIGURED
    assert change(None, after) is Change.CREATED
