"""The manifests of deploy/, moved to other namespaces for tests."""

import json

from managed_session_cli.manifests import load_manifests

GUARD = ("ValidatingAdmissionPolicy", "managed-sessions-deletion-guard")
WEBHOOK_POLICY = ("ValidatingAdmissionPolicy", "managed-session-webhook")


def test_default_namespaces_change_nothing() -> None:
    text = json.dumps(load_manifests())
    assert load_manifests("managed-sessions", "managed-sessions-system") == json.loads(text)


def test_nothing_stays_in_the_default_namespaces() -> None:
    moved = load_manifests("here", "here-system")
    spaces = {each["metadata"].get("namespace") for each in moved}
    assert spaces == {None, "here", "here-system"}
    subjects = {subject["namespace"] for each in moved for subject in each.get("subjects", ())}
    assert subjects == {"here-system"}
    names = {each["metadata"]["name"] for each in moved if each["kind"] == "Namespace"}
    assert names == {"here", "here-system"}
    rules = [rule for each in moved if each["kind"] == "Role" for rule in each["rules"]]
    assert [rule["resourceNames"] for rule in rules if rule["resources"] == ["namespaces"]] == [
        ["here-system"]
    ]


def test_guard_of_the_default_namespaces_does_not_cover_others() -> None:
    usual, moved = (
        {(each["kind"], each["metadata"]["name"]) for each in manifests}
        for manifests in (load_manifests(), load_manifests("here", "here-system"))
    )
    assert {GUARD, WEBHOOK_POLICY} <= usual
    assert GUARD not in moved
    assert WEBHOOK_POLICY in moved


def test_deployments_can_be_left_out() -> None:
    assert {"Deployment", "Service"} <= {each["kind"] for each in load_manifests()}
    without = {each["kind"] for each in load_manifests(pods=False)}
    assert "Service" in without
    assert not without & {"Deployment", "PodDisruptionBudget", "NetworkPolicy"}
