import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from e2b import E2B, AsyncTemplate, NotFoundException
from e2b.exceptions import BuildException, SandboxException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

from ....support.simulator_process import RunningSimulator


async def test_build_records_steps_and_materialises_copied_files(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str
) -> None:
    template = next(entry for entry in await control.templates() if entry["name"] == "worker")
    request = template["builds"][-1]["request"]
    assert [step["type"] for step in request["steps"]] == ["RUN", "ENV", "COPY", "USER"]
    assert request["fromImage"] == "python:3.12"
    assert set(template["tags"]) == {"v1", "stable"}
    sandbox = await e2b.AsyncSandbox.create(worker_name)
    assert "import anthropic" in await sandbox.files.read("/opt/anthropic-managed-agents/lib/worker.py")


async def test_start_command_already_runs_in_a_new_sandbox(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str
) -> None:
    sandbox = await e2b.AsyncSandbox.create(worker_name, envs={"CREATED": "1"}, metadata={"a": "b"})
    state = json.loads(await sandbox.files.read("/tmp/ready", user="root"))
    assert state == {"argv": ["/opt/anthropic-managed-agents/lib/worker.py", "one"], "name": "__main__"}
    processes = (await control.sandbox(sandbox.sandbox_id)).processes
    assert [process.command for process in processes] == [
        "python3 /opt/anthropic-managed-agents/lib/worker.py one"
    ]


async def test_start_command_sees_template_variables_and_commands_those_of_create(
    e2b: E2B, tmp_path: Path
) -> None:
    template = (
        AsyncTemplate(file_context_path=str(tmp_path))
        .from_base_image()
        .set_envs({"FOR_START": "yes"})
        .set_start_cmd("env > /tmp/environment; sleep 1000", "test -s /tmp/environment")
    )
    await e2b.AsyncTemplate.build(template, "environment")
    sandbox = await e2b.AsyncSandbox.create("environment", envs={"CREATED": "1"})
    started_with = await sandbox.files.read("/tmp/environment")
    assert "FOR_START=yes" in started_with
    assert "CREATED" not in started_with
    ran_with = (await sandbox.commands.run("env", envs={"OWN": "2"})).stdout
    assert "CREATED=1" in ran_with
    assert "OWN=2" in ran_with
    assert "FOR_START" not in ran_with
    assert "host-secret-key" not in started_with + ran_with


@pytest.mark.usefixtures("worker_name")
async def test_names_tags_and_aliases(e2b: E2B) -> None:
    templates = e2b.AsyncTemplate
    assert await templates.exists("worker")
    assert not await templates.exists("nobody-built-this")
    await templates.assign_tags("worker:v1", ["next"])
    assert {tag.tag for tag in await templates.get_tags("worker")} == {"v1", "stable", "next"}
    await templates.remove_tags("worker", ["next"])
    assert {tag.tag for tag in await templates.get_tags("worker")} == {"v1", "stable"}


@pytest.mark.usefixtures("worker_name")
@pytest.mark.parametrize("name", ["nobody-built-this", "worker:no-such-tag"])
async def test_create_from_an_unknown_template_is_not_found(e2b: E2B, name: str) -> None:
    with pytest.raises((SandboxException, NotFoundException)) as caught:
        await e2b.AsyncSandbox.create(name)
    assert "not found" in str(caught.value)


async def test_failing_start_command_fails_the_build(e2b: E2B) -> None:
    template = AsyncTemplate().from_base_image().set_start_cmd("exit 3", "false")
    with pytest.raises(BuildException, match="start command failed"):
        await e2b.AsyncTemplate.build(template, "broken")
    assert not await e2b.AsyncTemplate.exists("broken")


async def test_build_on_an_unknown_template_fails(e2b: E2B) -> None:
    template = AsyncTemplate().from_template("nobody-built-this").set_workdir("/srv")
    async with asyncio.timeout(60):
        with pytest.raises(BuildException, match="template 'nobody-built-this' not found"):
            await e2b.AsyncTemplate.build(template, "orphan")


async def test_unknown_step_fails_the_build(
    simulator: RunningSimulator, until: Callable[..., Awaitable[None]]
) -> None:
    headers = {"X-API-Key": "e2b_0123456789"}
    async with httpx.AsyncClient(base_url=simulator.url, headers=headers, trust_env=False) as client:
        asked = (await client.post("/v3/templates", json={"name": "odd"})).json()
        build = f"/templates/{asked['templateID']}/builds/{asked['buildID']}"
        await client.post(f"/v2{build}", json={"steps": [{"type": "RUN", "args": []}]})

        async def ended() -> bool:
            return str((await client.get(f"{build}/status")).json()["status"]) == "error"

        await until(ended)
        assert (await client.get(f"{build}/status")).json()["reason"]["step"] == "1"


async def test_copy_follows_e2bs_rules_for_files_and_directories(e2b: E2B, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "leaf.txt").write_text("leaf")
    (tmp_path / "single.txt").write_text("single")
    template = (
        AsyncTemplate(file_context_path=str(tmp_path))
        .from_base_image()
        .copy("tree", "/srv/tree/")
        .copy("single.txt", "/srv/renamed.txt", mode=0o600)
        .copy("single.txt", "/srv/inside/")
    )
    await e2b.AsyncTemplate.build(template, "copies")
    sandbox = await e2b.AsyncSandbox.create("copies")
    listing = (await sandbox.commands.run("cd /srv && find . -type f | sort", user="root")).stdout.split()
    assert listing == ["./inside/single.txt", "./renamed.txt", "./tree/deep/leaf.txt"]
    assert (await sandbox.commands.run("stat -c %a /srv/renamed.txt", user="root")).stdout.strip() == "600"


@pytest.mark.parametrize(
    "name", ["Bad Name!:x:y", "a b", "a.b", "a/b/c", "/a", "worker:", "worker:a b", "näme"]
)
async def test_invalid_template_name_is_refused(e2b: E2B, name: str) -> None:
    with pytest.raises(SandboxException, match="400: Invalid name"):
        await e2b.AsyncSandbox.create(name)
    with pytest.raises(BuildException, match="400: Invalid name"):
        await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), name)


async def test_invalid_tag_is_refused(e2b: E2B) -> None:
    with pytest.raises(BuildException, match="'no tag' may hold only"):
        await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "fine", tags=["no tag"])


async def test_name_in_a_namespace_is_accepted_and_read_in_lower_case(e2b: E2B) -> None:
    await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "team-1/Some_Name-2:v1.2")
    assert await e2b.AsyncTemplate.exists("some_name-2")
    assert {tag.tag for tag in await e2b.AsyncTemplate.get_tags("some_name-2")} == {"v1.2"}
    assert await (await e2b.AsyncSandbox.create("team-1/SOME_NAME-2:v1.2")).is_running()
