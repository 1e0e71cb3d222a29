"""`managed-sessions install` on a real API server: what it checks, writes, keeps and leaves alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_local.control_plane import ControlPlane

from .command_line import E2B_KEY, IMAGE, Site, simulated_site
from .systems import unique_name

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


async def test_everything_is_there_after_one_command(site: Site) -> None:
    ended = await site.install()
    assert ended.code == 0, ended.text
    for name in (OPERATOR, WEBHOOK):
        deployment = await site.get("deployment", name, site.system_namespace)
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
    assert await values(site, OPERATOR) == {
        "anthropic-environment-id": site.settings.environment_id,
        "anthropic-environment-key": site.settings.environment_key,
        "e2b-api-key": E2B_KEY,
    }
    assert await values(site, WEBHOOK) == {}
    built = json.dumps(await site.e2b.templates())
    assert "managed-session-worker" in built
    for step in ("https://YOUR-NAME/webhook", "session.status_run_started", "ANTHROPIC_WEBHOOK_SIGNING_KEY"):
        assert step in ended.output


async def test_second_run_changes_nothing(site: Site) -> None:
    assert (await site.install()).code == 0
    before = await objects(site)
    await site.e2b.clear_ledger()
    ended = await site.install()
    assert ended.code == 0, ended.text
    assert await objects(site) == before
    assert "build" not in json.dumps(dict((await site.e2b.ledger()).operations))


async def test_dry_run_writes_nothing_and_lists_what_would_be_new(site: Site) -> None:
    for template in await site.e2b.templates():
        await site.e2b.delete_template(template["templateID"])
    ended = await site.install("--dry-run")
    assert ended.code == 0, ended.text
    assert await site.get("namespace", site.system_namespace) == {}
    assert await site.e2b.templates() == []
    assert f"Deployment {OPERATOR} in {site.system_namespace}: created" in ended.output
    assert "is built in E2B" in ended.output
