"""The installation's life by the Helm chart: install, a turn, an upgrade under a running turn, uninstall."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.credentials import Credential

from ..support.go_programs import run_helm
from .images import split
from .installation import DEPLOY, OPERATOR, RESOURCES, SYSTEM, WEBHOOK, Installation
from .turns import held_turn

CHART = DEPLOY / "helm" / "managed-sessions"
PLURALS = (names.PLURAL, names.CLASS_PLURAL, names.SHARED_PLURAL)
SMOKE = "Use bash to echo webhook-smoke-ok. Answer only with that text."


async def helm(installation: Installation, *arguments: str) -> str:
    """Run Helm as the cluster's administrator; fails with what Helm says."""
    done = await asyncio.to_thread(
        run_helm, *arguments, f"--namespace={SYSTEM}", kubeconfig=installation.kubectl.kubeconfig
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(installation: Installation) -> dict[str, Any]:
    """What the tests' overlay does, said by values."""
    settings, network_policy = installation.own_objects()
    name, tag = split(installation.image)
    return {
        "image": {
            "repository": name,
            "tag": tag,
            "pullPolicy": "IfNotPresent" if installation.pulls else "Never",
        },
        "operator": {"settings": settings["data"]},
        "extraObjects": [network_policy],
    }


@pytest.fixture
async def nothing_installed(installed: Installation) -> Installation:
    if await installed.left_over():
        await installed.remove()
    return installed


async def test_install_turn_upgrade_and_uninstall_by_the_chart(nothing_installed: Installation) -> None:
    installation, kubectl = nothing_installed, nothing_installed.kubectl
    chosen = values(installation)
    await kubectl("create", "namespace", SYSTEM)
    await installation.register()
    release = ("upgrade", "managed-sessions", str(CHART), "--install", "--wait", "--timeout=3m")
    await helm(installation, *release, f"--set-json={json.dumps(chosen)}")
    await installation.rolled_out()
    await installation.credential_reached(WEBHOOK, Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)
    async with installation.clouds.begin() as session:
        assert await session.say(SMOKE) == "webhook-smoke-ok"
        await installation.idle(session.session_id)

    before = await installation.lives()
    async with held_turn(installation) as running:
        chosen["operator"]["settings"]["MANAGED_SESSIONS_LOG_LEVEL"] = "DEBUG"
        await helm(installation, *release, f"--set-json={json.dumps(chosen)}")
        await installation.rolled_out()
        replaced = {uid for uid, _ in before} - {uid for uid, _ in await installation.lives()}
        assert len(replaced) == len(await installation.pods(OPERATOR)), "the webhook has no new setting"
        await running.finish()

    await installation.delete_sessions()
    assert await installation.clouds.alive() == []
    await helm(installation, "uninstall", "managed-sessions")
    assert await kubectl.list(SYSTEM, "deployments") == []
    assert {*await installation.left_over()} == {
        f"Namespace/{RESOURCES}",
        *(f"CustomResourceDefinition/{plural}.{names.GROUP}" for plural in PLURALS),
    }
    await kubectl("delete", "namespace", SYSTEM, RESOURCES, "--timeout=60s", timeout_seconds=70)
    definitions = (f"crd/{plural}.{names.GROUP}" for plural in PLURALS)
    await kubectl("delete", *definitions, "--timeout=60s", timeout_seconds=70)
