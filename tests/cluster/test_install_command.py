"""`managed-sessions install` on a real API server: what it checks, writes, keeps and leaves alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_worker.template import template_name

from ..support.systems import unique_name
from .command_line import E2B_KEY, IMAGE, OTHER_E2B_KEY, SIGNING_KEY, Site, simulated_site

OPERATOR = "managed-session-operator"
WEBHOOK = "managed-session-webhook"
KINDS = (
    "secrets,deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,"
    "resourcequotas"
)


@pytest.fixture(scope="module")
async def clouds(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder: Path = tmp_path_factory.mktemp("clouds")
    async with simulated_site(control_plane, folder) as site:
        yield site


@pytest.fixture
def site(clouds: Site) -> Site:
    """The clouds with namespaces of the test's own."""
    return Site(clouds.control_plane, clouds.anthropic, clouds.e2b, clouds.settings, unique_name())


@pytest.fixture(scope="module")
async def installed(clouds: Site) -> Site:
    """An installation that several tests share; each looks at what it changes itself."""
    site = Site(clouds.control_plane, clouds.anthropic, clouds.e2b, clouds.settings, unique_name())
    ended = await site.install()
    assert ended.code == 0, ended.text
    for step in ("https://YOUR-NAME/webhook", "session.status_run_started", "ANTHROPIC_WEBHOOK_SIGNING_KEY"):
        assert step in ended.output
    return site


async def image_of(site: Site) -> str:
    """The image that the operator's Deployment has."""
    deployment = await site.get("deployment", OPERATOR, site.system_namespace)
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


async def objects(site: Site) -> dict[tuple[str, str], str]:
    """Every object of both namespaces with its resourceVersion."""
    found: dict[tuple[str, str], str] = {}
    for namespace in (site.namespace, site.system_namespace):
        listed = json.loads(await site.kubectl("get", KINDS, f"--namespace={namespace}", "--output=json"))
        for each in listed["items"]:
            key = (each["kind"], f"{namespace}/{each['metadata']['name']}")
            found[key] = each["metadata"]["resourceVersion"]
    return found


async def values(site: Site, name: str) -> dict[str, str]:
    """The Secret's values."""
    data: dict[str, Any] = (await site.get("secret", name, site.system_namespace)).get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


async def test_everything_is_there_after_one_command(installed: Site) -> None:
    for name in (OPERATOR, WEBHOOK):
        deployment = await installed.get("deployment", name, installed.system_namespace)
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
    assert await values(installed, OPERATOR) == {
        "anthropic-environment-id": installed.settings.environment_id,
        "anthropic-environment-key": installed.settings.environment_key,
        "e2b-api-key": E2B_KEY,
    }
    assert await values(installed, WEBHOOK) == {}
    assert "managed-session-worker" in json.dumps(await installed.e2b.templates())


async def test_second_run_changes_nothing(installed: Site) -> None:
    before = await objects(installed)
    await installed.e2b.clear_ledger()
    ended = await installed.install()
    assert ended.code == 0, ended.text
    assert await objects(installed) == before
    assert "build" not in json.dumps(dict((await installed.e2b.ledger()).operations))


async def test_dry_run_writes_nothing_and_lists_what_would_be_new(site: Site) -> None:
    for template in await site.e2b.templates():
        await site.e2b.delete_template(template["templateID"])
    ended = await site.install("--dry-run")
    assert ended.code == 0, ended.text
    assert await site.get("namespace", site.system_namespace) == {}
    assert await site.e2b.templates() == []
    assert f"Deployment {OPERATOR} in {site.system_namespace}: created" in ended.output
    assert "will be built in E2B" in ended.output


async def test_dry_run_of_an_upgrade_changes_no_object(installed: Site) -> None:
    before = await objects(installed)
    keys = {**installed.keys(), "E2B_API_KEY": OTHER_E2B_KEY}
    ended = await installed.install("--dry-run", "--image=other:1", keys=keys)
    assert ended.code == 0, ended.text
    assert await objects(installed) == before
    assert f"Deployment {OPERATOR} in {installed.system_namespace}: configured" in ended.output
    assert f"Service {WEBHOOK} in {installed.system_namespace}: unchanged" in ended.output
    assert f"Secret {OPERATOR}: changed: e2b-api-key" in ended.output


async def test_upgrade_changes_the_image_alone(installed: Site) -> None:
    before = await objects(installed)
    ended = await installed.install("--image=registry.example.com/team/managed-sessions:10")
    assert ended.code == 0, ended.text
    after = await objects(installed)
    changed = {key for key in after if after[key] != before.get(key)}
    assert {kind for kind, _ in changed} == {"Deployment"}
    assert len(changed) == 2


async def test_keys_that_the_environment_lacks_are_kept_as_the_cluster_has_them(installed: Site) -> None:
    before = await objects(installed)
    kept = await values(installed, OPERATOR)
    image = await image_of(installed)
    ended = await installed.install(f"--image={image}", keys={"ANTHROPIC_WEBHOOK_SIGNING_KEY": SIGNING_KEY})
    assert ended.code == 0, ended.text
    assert await values(installed, OPERATOR) == kept
    assert await values(installed, WEBHOOK) == {"anthropic-webhook-signing-key": SIGNING_KEY}
    after = await objects(installed)
    secret = ("Secret", f"{installed.system_namespace}/{WEBHOOK}")
    assert {key for key in after if after[key] != before.get(key)} == {secret}


@pytest.mark.parametrize("image", ["", "two words", "https://registry.example.com/team/name:1", "Team/Name"])
async def test_what_is_no_image_reference_is_refused_before_anything_is_asked(site: Site, image: str) -> None:
    ended = await site.install(f"--image={image}")
    assert ended.code == 1
    assert "REGISTRY/NAME:TAG" in ended.errors
    assert ended.output == ""


async def test_wrong_keys_are_all_named_before_anything_is_written(site: Site) -> None:
    wrong = {
        # An API key is no environment key.
        "ANTHROPIC_ENVIRONMENT_KEY": site.settings.api_key,
        "E2B_API_KEY": "e2b_wrong",
        "ANTHROPIC_API_KEY": "sk-ant-api03-wrong",
        "ANTHROPIC_WEBHOOK_SIGNING_KEY": "nonsense",
    }
    ended = await site.install(keys={**site.keys(), **wrong})
    assert ended.code == 1
    assert "Anthropic rejected ANTHROPIC_ENVIRONMENT_KEY" in ended.errors
    assert "E2B rejected E2B_API_KEY" in ended.errors
    assert "Anthropic rejected ANTHROPIC_API_KEY" in ended.errors
    assert "ANTHROPIC_WEBHOOK_SIGNING_KEY does not begin" in ended.errors
    assert all(value not in ended.text for value in wrong.values())
    assert await site.get("namespace", site.system_namespace) == {}


async def test_missing_key_is_named_before_anything_is_written(site: Site) -> None:
    ended = await site.install(keys={"ANTHROPIC_ENVIRONMENT_ID": site.settings.environment_id})
    assert ended.code == 1
    assert "not set: ANTHROPIC_ENVIRONMENT_KEY, E2B_API_KEY" in ended.errors
    assert await site.get("namespace", site.system_namespace) == {}


async def test_missing_permission_is_named_before_anything_is_written(site: Site) -> None:
    await site.kubectl("create", "namespace", site.namespace)
    await site.kubectl("create", "serviceaccount", "visitor", f"--namespace={site.namespace}")
    visitor = await site.control_plane.service_account_kubeconfig(site.namespace, "visitor")
    ended = await site.install(f"--kubeconfig={visitor}")
    assert ended.code == 1
    assert "lacks permissions" in ended.errors
    assert "patch customresourcedefinitions.apiextensions.k8s.io" in ended.errors
    assert await site.get("namespace", site.system_namespace) == {}


async def test_without_a_yes_nothing_is_changed(site: Site) -> None:
    ended = await site.run("install", f"--image={IMAGE}", "--no-wait", answer="n\n")
    assert ended.code == 1
    assert "nothing was changed" in ended.errors
    assert await site.get("namespace", site.system_namespace) == {}


async def test_waits_for_the_pods_and_reports_what_blocks_them(installed: Site) -> None:
    site = installed
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "operator-1", "labels": {"app.kubernetes.io/name": OPERATOR}},
        "spec": {
            "containers": [
                {
                    "name": "operator",
                    "image": IMAGE,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }
            ],
            "serviceAccountName": OPERATOR,
        },
    }
    where = f"--namespace={site.system_namespace}"
    await site.control_plane.kubectl("create", "--filename=-", where, input=json.dumps(pod))
    status = {"containerStatuses": [_waits(waiting)]}
    await site.kubectl(
        "patch",
        "pod",
        "operator-1",
        where,
        "--subresource=status",
        f"--patch={json.dumps({'status': status})}",
    )
    ended = await site.run("install", f"--image={IMAGE}", "--yes", "--timeout=3")
    assert ended.code == 1
    assert f"ImagePullBackOff of {IMAGE}" in ended.errors
    assert "not ready within 3 s" in ended.errors

    for name in (OPERATOR, WEBHOOK):
        ready = {
            "observedGeneration": 5,
            "replicas": 2,
            "updatedReplicas": 2,
            "readyReplicas": 2,
            "availableReplicas": 2,
        }
        await site.kubectl(
            "patch", "deployment", name, where, "--subresource=status", "--type=merge",
            f"--patch={json.dumps({'status': ready})}",
        )  # fmt: skip
    ended = await site.run("install", f"--image={IMAGE}", "--yes", "--timeout=20")
    assert ended.code == 0, ended.text
    assert "Pods ready" in ended.output


def _waits(waiting: dict[str, str]) -> dict[str, Any]:
    return {
        "name": "operator",
        "image": IMAGE,
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }


async def test_namespace_that_is_being_deleted_is_not_installed_into(site: Site) -> None:
    await site.kubectl("create", "namespace", site.system_namespace)
    # It stays so here, where no controller empties namespaces.
    await site.kubectl("delete", "namespace", site.system_namespace, "--wait=false")
    ended = await site.install()
    assert ended.code == 1
    assert f"the namespace {site.system_namespace} is being deleted" in ended.errors
    assert await site.get("namespace", site.namespace) == {}


async def test_key_of_another_team_is_refused_while_sessions_have_their_sandboxes_in_this_one(
    site: Site,
) -> None:
    assert (await site.install()).code == 0
    await session_with_a_paused_sandbox(site)
    another = "e2b_00000000000000000000000000000000deadbeef"
    await site.e2b.change_settings(other_teams_keys=[another])
    before = await values(site, OPERATOR)
    refused = await site.install(keys={**site.keys(), "E2B_API_KEY": another})
    assert refused.code == 1
    assert "another E2B team" in refused.errors
    assert await values(site, OPERATOR) == before
    ended = await site.install(keys={**site.keys(), "E2B_API_KEY": OTHER_E2B_KEY})
    assert ended.code == 0, ended.text
    assert (await values(site, OPERATOR))["e2b-api-key"] == OTHER_E2B_KEY


async def session_with_a_paused_sandbox(site: Site) -> None:
    """As an operator leaves it after a turn."""
    marks = {names.METADATA_INSTALLATION: await site.installation_id()}
    [sandbox_id] = await site.e2b.add_paused(template_name(), [marks])
    session = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "rests", "namespace": site.namespace},
        "spec": {"sessionID": "sesn_rests"},
    }
    await site.control_plane.kubectl("create", "--filename=-", input=json.dumps(session))
    status = json.dumps({"status": {"sandbox": {"id": sandbox_id, "state": "Paused"}}})
    await site.kubectl(
        "patch", names.PLURAL, "rests", f"--namespace={site.namespace}", "--subresource=status",
        "--type=merge", f"--patch={status}",
    )  # fmt: skip


async def test_definition_of_a_newer_version_is_left_as_it_is(site: Site) -> None:
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/addedLater"
    definition = ("crd", f"{names.PLURAL}.{names.GROUP}")

    async def patch(**operation: Any) -> None:
        change = json.dumps([{"path": path, **operation}])
        await site.kubectl("patch", *definition, "--type=json", f"--patch={change}")

    assert (await site.install()).code == 0
    await patch(op="add", value={"type": "string"})
    try:
        ended = await site.install()
        assert ended.code == 0, ended.text
        assert "newer than this command" in ended.output
        assert "addedLater" in await site.kubectl("get", *definition, "--output=json")
    finally:
        await patch(op="remove")
