"""The guide's smoke test on a real node: `deploy/` as it is, and the image as it is built."""

from __future__ import annotations

from managed_session_api import names

from .installation import DEPLOY, OPERATOR, RESOURCES, SYSTEM, WEBHOOK, Installation

WHO_AM_I = """
import os
print(os.getuid(), *(os.access(path, os.W_OK) for path in ("/opt/managed-sessions", "/tmp")))
"""
WHAT_IS_THERE = """
from importlib.util import find_spec
print(*(name for name in ("managed_session_operator", "managed_session_devkit", "typer") if find_spec(name)))
"""
OVERLAYS = sorted((DEPLOY / "kustomize").rglob("kustomization.yaml"))
SMOKE = "Use bash to echo webhook-smoke-ok. Answer only with that text."


async def test_manifests_have_only_fields_that_the_server_knows(installation: Installation) -> None:
    for manifests in (f"--filename={DEPLOY}", *(f"--kustomize={path.parent}" for path in OVERLAYS)):
        await installation.kubectl("apply", manifests, "--dry-run=server", "--validate=strict")


async def test_answer_is_what_bash_printed_in_the_sandbox(installation: Installation) -> None:
    async with installation.clouds.begin() as session:
        assert await session.say(SMOKE) == "webhook-smoke-ok"
        status = await installation.idle(session.session_id)
    assert {each["type"]: each["status"] for each in status["conditions"]}["Ready"] == "True"
    report = await installation.clouds.anthropic_admin.session(session.session_id)
    answers = {each["status"] for each in report.deliveries}
    assert answers == {204}, "the webhook's Service took every event"


async def test_second_turn_finds_the_first_ones_file_in_the_same_sandbox(installation: Installation) -> None:
    async with installation.clouds.begin() as session:
        await session.say("Run: echo left-by-the-first > /mnt/session/file")
        first = await installation.idle(session.session_id)
        assert await session.say("Run: cat /mnt/session/file") == "left-by-the-first"
        second = await installation.idle(session.session_id, turns=2)
    assert second["sandbox"]["id"] == first["sandbox"]["id"]
    assert (await installation.clouds.e2b_admin.sandbox(first["sandbox"]["id"])).resumes == 1


async def test_deleted_resource_removes_its_sandbox_and_token(installation: Installation) -> None:
    async with installation.clouds.begin() as session:
        await session.say(SMOKE)
        name = names.resource_name(session.session_id)
        await installation.kubectl(
            f"--namespace={RESOURCES}", "delete", "managedsession", name, "--timeout=30s"
        )
        assert await installation.clouds.sandboxes_of(session.session_id) == []
        secrets = await installation.kubectl.list(RESOURCES, "secrets")
        assert names.token_secret_name(name) not in {each["metadata"]["name"] for each in secrets}


async def test_pods_run_without_privileges_and_have_never_been_restarted(installation: Installation) -> None:
    namespace = await installation.kubectl.get("", "namespace", SYSTEM)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {restarts for _, restarts in await installation.lives()} == {0}
    for deployment in (WEBHOOK, OPERATOR):
        pods = await installation.pods(deployment)
        assert len(pods) == 2
        identity = await installation.kubectl(
            f"--namespace={SYSTEM}", "exec", pods[0]["metadata"]["name"], "--", "python", "-c", WHO_AM_I
        )
        assert identity.split() == ["65532", "False", "True"]


async def test_image_holds_no_simulator_and_no_command_line(installation: Installation) -> None:
    pod = (await installation.pods(OPERATOR))[0]["metadata"]["name"]
    exec_ = (f"--namespace={SYSTEM}", "exec", pod, "--")
    there = await installation.kubectl(*exec_, "python", "-c", WHAT_IS_THERE)
    assert there.split() == ["managed_session_operator"]
    command = await installation.kubectl(*exec_, "sh", "-c", "managed-sessions --help 2>&1 || true")
    assert command.startswith("error: the command line needs typer")
