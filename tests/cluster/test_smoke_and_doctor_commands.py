"""`managed-sessions smoke` and `doctor` against an installation that works, and against broken ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from managed_session_api import names
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import becomes, begin
from ..support.waiting import eventually
from .command_line import E2B_KEY, Site


@pytest.fixture(scope="module")
async def system(site: Site) -> AsyncIterator[LocalSystem]:
    async with site.running() as running:
        yield running


def user(site: Site) -> dict[str, str]:
    """What the smoke test needs of its user; the environment's ID it takes from the cluster."""
    return {"ANTHROPIC_API_KEY": site.settings.api_key, "ANTHROPIC_AGENT_ID": site.settings.agent_id}


async def doctor(site: Site, *arguments: str) -> dict[str, dict[str, str]]:
    """What the doctor says, by check."""
    ended = await site.run("doctor", "--json", *arguments, keys={})
    checks = json.loads(ended.output)
    assert ended.code == int(any(each["result"] == "failed" for each in checks))
    return {each["check"]: each for each in checks}


async def test_smoke_shows_every_step_and_leaves_nothing(site: Site, system: LocalSystem) -> None:
    ended = await site.run("smoke", "--second-turn", keys=user(site))
    assert ended.code == 0, ended.text
    for step in (
        "session created",
        "resource appeared",
        "sandbox assigned",
        "worker's first heartbeat",
        "tool executed",
        "answered",
        "session idle again",
        "sandbox paused",
    ):
        assert f"✓ {step}" in ended.output, step
    assert ended.output.count("✓ sandbox paused") == 2
    assert "cleaned up: session deleted, its sandbox is gone" in ended.output
    assert "✗" not in ended.output
    assert await system.kubectl("get", names.PLURAL, "--output=name") == ""
    assert await site.e2b.sandboxes("running", "paused") == []


@pytest.mark.usefixtures("system")
async def test_smoke_explains_a_missing_template(site: Site) -> None:
    for template in await site.e2b.templates():
        await site.e2b.delete_template(template["templateID"])
    try:
        ended = await site.run("smoke", "--timeout=30", keys=user(site))
    finally:
        built = await site.run("install", "--image=any", "--yes", "--no-wait")
        assert built.code == 0
    assert ended.code == 1
    assert "✗ sandbox assigned" in ended.output
    assert "TemplateNotFound" in ended.output
    assert "managed-sessions template build" in ended.output


async def test_smoke_without_its_credentials_says_what_it_needs(site: Site) -> None:
    ended = await site.run("smoke", keys={})
    assert ended.code == 1
    assert "ANTHROPIC_AGENT_ID is not set" in ended.errors


@pytest.mark.usefixtures("system")
async def test_doctor_names_what_is_wrong_and_what_to_do(site: Site) -> None:
    # No pods run on this control plane; everything else is as it should be.
    expected = dict.fromkeys(
        (
            "cluster",
            "CRD ManagedSession",
            "CRD ManagedSessionClass",
            "leader",
            "environment key",
            "template",
            "work queue",
            "sandboxes",
        ),
        "ok",
    ) | dict.fromkeys(("managed-session-operator", "managed-session-webhook", "webhook service"), "failed")

    async def look() -> dict[str, dict[str, str]] | None:
        found = await doctor(site)
        results = {name: check["result"] for name, check in found.items()}
        failed = {name for name, result in results.items() if result == "failed"}
        told = expected.items() <= results.items() and failed <= expected.keys()
        return found if told else None

    # What an earlier test has left in queue and cloud goes within a moment.
    checks = await eventually("the doctor names these, and nothing else", look, seconds=60)
    results = {name: check["result"] for name, check in checks.items()}
    assert results["secret managed-session-webhook"] == "warning"
    assert "ANTHROPIC_WEBHOOK_SIGNING_KEY" in checks["secret managed-session-webhook"]["remedy"]


async def test_doctor_explains_a_refused_key_and_the_session_that_waits_for_it(
    site: Site, system: LocalSystem
) -> None:
    await site.e2b.change_settings(api_keys=["e2b_another"])
    try:
        async with begin(system) as conversation:
            await conversation.send("Run: echo hello")
            session_id = conversation.session_id
            await becomes(system, session_id, "SandboxCredentialRejected")
            checks = await doctor(site)
            assert checks["template"]["result"] == "failed"
            assert "E2B rejected E2B_API_KEY" in checks["template"]["detail"]
            session = checks[f"session {session_id}"]
            assert session["result"] == "failed"
            assert "SandboxCredentialRejected" in session["detail"]
            assert "e2b-api-key" in session["remedy"]
    finally:
        await site.e2b.change_settings(api_keys=[E2B_KEY])

    async def served() -> bool:
        return (await doctor(site, session_id))[f"session {session_id}"]["result"] == "ok"

    await eventually("the session is served", served)


async def test_doctor_with_few_permissions_lists_what_it_skips(site: Site) -> None:
    await site.kubectl("create", "serviceaccount", "viewer", f"--namespace={site.namespace}")
    await site.kubectl(
        "create", "rolebinding", "viewer", "--clusterrole=managed-sessions-view",
        f"--serviceaccount={site.namespace}:viewer", f"--namespace={site.namespace}",
    )  # fmt: skip
    viewer = await site.control_plane.service_account_kubeconfig(site.namespace, "viewer")
    checks = await doctor(site, f"--kubeconfig={viewer}")
    assert checks["sessions"]["result"] == "ok"
    for name in ("CRDs", "managed-session-operator", "secrets", "leader"):
        assert checks[name]["result"] == "skipped"
        assert "missing permission" in checks[name]["detail"]
    assert "ANTHROPIC_ENVIRONMENT_KEY" in checks["environment key"]["detail"]
