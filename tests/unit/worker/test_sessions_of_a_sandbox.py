"""What the operator's clients do for one session of a shared sandbox, in the worker's template."""

from __future__ import annotations

import base64
import io
import os
import tarfile
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2b import E2B, AsyncSandbox
from managed_session_api.conditions import Reason
from managed_session_cli.sandbox_files import SandboxFiles
from managed_session_cli.sandbox_transfer import SandboxTransfer
from managed_session_operator.clients.e2b.sandbox_preparation import SandboxPreparations
from managed_session_operator.clients.e2b.sandbox_skills import SandboxSkills
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.e2b.worker_streams import WorkerStreams
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.preparation import Report
from managed_session_operator.domain.session_handle import SessionHandle
from managed_session_operator.domain.skills import Bounds, Installed, Upload
from managed_session_worker.paths import Paths
from managed_session_worker.template import worker_template

from ...support.simulator_process import simulator_process
from ..operator.examples import key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only a real root may mount in simulated sandboxes")

KEY = "e2b_0123456789"
COMMON = "/home/agent/common"
TRUSTED = {"certificates": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"}


@pytest.fixture(scope="module")
async def sdk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[E2B]:
    environ = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("shared")
    with simulator_process("e2b", folder, f"--state-dir={folder / 'state'}", settings={"fuse": True}) as run:
        sdk = E2B(api_key=KEY, api_url=run.url, sandbox_url=run.url)
        for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
            environ.setenv(name, run.url)
        await sdk.AsyncTemplate.build(worker_template(), "worker:1")
        yield sdk
    environ.undo()


@pytest.fixture
async def sandbox(sdk: E2B) -> AsyncSandbox:
    return await sdk.AsyncSandbox.create("worker:1")


@pytest.fixture
def sandboxes() -> Sandboxes:
    return Sandboxes(key("key"), fence=lambda: None, request_timeout=60, create_timeout=60)


def setup_of(name: str) -> list[Any]:
    """A plan's sections for the session of this name."""

    def file(path: str) -> dict[str, str]:
        content = base64.b64encode(name.encode()).decode()
        return {"step": path, "path": path, "mode": "0644", "content": content}

    script = {"step": "script", "text": f"pwd > where; echo {name} > script; cat script", "seconds": 60}
    files = [file("/mnt/session/own"), file(COMMON)]
    hooks = {"onCreate": {"command": "echo created >> hooked", "seconds": 60}}
    return [["trust", TRUSTED], ["setup", {"files": files, "script": script}], ["hooks", hooks]]


async def test_each_session_is_prepared_gets_its_skills_and_leaves(
    sandbox: AsyncSandbox, sandboxes: Sandboxes
) -> None:
    preparations = SandboxPreparations(sandboxes, patience=120)
    streams = WorkerStreams(sandboxes, on_change=lambda _: None, accept_timeout=60)
    one, two = SessionHandle(sandbox, "one"), SessionHandle(sandbox, "two")
    for handle in (one, two, one):
        plan = {"seconds": 60, "pause": "", "sections": setup_of(handle.session_key)}
        assert await preparations.prepare(handle, plan) == Report()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("SKILL.md", "of one")
    skills, upload = SandboxSkills(sandboxes, one), Upload("skill_1", "hello")
    await skills.add(upload, archive.getvalue())
    assert await skills.unpack([upload], Bounds(10_000, 10)) == {}
    await skills.record({"skill_1": Installed("v1", "hello")})
    assert await SandboxSkills(sandboxes, one).installed() == {"skill_1": Installed("v1", "hello")}
    assert await SandboxSkills(sandboxes, two).installed() == {}

    async def shown(handle: SessionHandle) -> list[str]:
        files = f"own script where hooked {COMMON}"
        command = f"cd /mnt/session; for f in {files}; do echo $(cat $f); done; ls skills; stat -c %U own"
        inside = Paths(session=handle.session_key).inside(command)
        return (await sandbox.commands.run(inside, user="root")).stdout.splitlines()

    assert await shown(one) == ["one", "one", "/mnt/session", "created", "one", "hello", "agent"]
    assert await shown(two) == ["two", "two", "/mnt/session", "created", "one", "agent"]
    here = "ls -A /mnt/session; grep -c CERT /opt/anthropic-managed-agents/added-authorities.pem"
    assert (await sandbox.commands.run(here, user="root")).stdout.split() == ["2"]
    await reads_only_its_own(sandbox.sandbox_id)
    await streams.leave(one)
    await streams.leave(one)
    assert await shown(two) == ["two", "two", "/mnt/session", "created", "one", "agent"]
    left = await sandbox.commands.run("find /opt/anthropic-managed-agents -name one", user="root")
    assert left.stdout == ""


async def reads_only_its_own(sandbox_id: str) -> None:
    """What the command line reads for a session is that session's."""
    for name in ("one", "two"):
        paths, archive = Paths(session=name), io.BytesIO()
        transfer = SandboxTransfer(KEY, sandbox_id, paths)
        await transfer.download(f"{paths.workdir}/own", archive, 10_000)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            assert [(tar.extractfile(each) or archive).read() for each in tar] == [name.encode()]
        archive.seek(0)
        await transfer.upload(archive, f"{paths.workdir}/sent")
        assert len((await transfer.files(f"{paths.workdir}/sent"))[0]) == 1
        log = await SandboxFiles(KEY, sandbox_id).read(paths.supervisor_log)
        assert f"session {name}: workers run as agent" in (log or b"").decode()


async def test_a_sandbox_of_an_earlier_template_says_that_it_cannot_be_shared(
    sdk: E2B, sandboxes: Sandboxes
) -> None:
    sandbox = await sdk.AsyncSandbox.create("base")
    usage = 'import sys\nsys.stderr.write("usage: supervisorctl.py start CLAIM | status\\\\n")\nsys.exit(2)'
    program = f"{Paths().package}/supervisorctl.py"
    await sandbox.files.write(program, usage, user="root")
    streams = WorkerStreams(sandboxes, on_change=lambda _: None, accept_timeout=60)
    handle = SessionHandle(sandbox, "three")
    with pytest.raises(OperationError) as raised:
        await streams.watch("name", handle, "C1", 1)
    assert raised.value.kind is ErrorKind.USER_ACTION
    assert raised.value.reason is Reason.WORKER_START_FAILED
    assert "Build the template again" in raised.value.message
    await streams.leave(handle)
    plan = {"seconds": 60, "pause": "", "sections": setup_of("three")[1:]}
    report = await SandboxPreparations(sandboxes, patience=120).prepare(handle, plan)
    assert report.failed is not None
    assert "earlier version" in report.failed.why
