"""Repositories, files, a script and hooks, by which a sandbox is made ready for its session."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.git_server import GitServer, git_server
from managed_session_devkit.system.local_system import LocalSystem

from ..support.certificates import BareAuthority, issue_bare
from ..support.classes import delete_classes, make_class, only_sandbox
from ..support.sessions import QUICK, becomes, begin, condition, paused, sandboxes_of, warned
from ..support.systems import local_system
from ..support.waiting import eventually

TOKEN = "ghp_0123456789secret9876543210"
PASSWORD = ("x-access-token", TOKEN)
AUTHORITY = "/opt/authority.pem"


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


@pytest.fixture
async def system(shared: LocalSystem) -> AsyncIterator[LocalSystem]:
    yield shared
    await delete_classes(shared)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> BareAuthority:
    return issue_bare(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: BareAuthority) -> Iterator[GitServer]:
    with git_server(tmp_path_factory.mktemp("git"), authority.server_context()) as running:
        yield running


async def with_policy(system: LocalSystem, **sandbox: Any) -> None:
    """Make a class for the system's agent, whose sandboxes look for authorities in one file."""
    session = {"sandbox": {"env": {"GIT_SSL_CAINFO": AUTHORITY, "SSL_CERT_FILE": AUTHORITY}, **sandbox}}
    await make_class(system, "prepared", {"selector": {"agentIDs": [system.agent_id]}, "session": session})


async def apply(system: LocalSystem, kind: str, name: str, **data: str) -> None:
    """Make a Secret or a ConfigMap."""
    field = {"Secret": "stringData", "ConfigMap": "data"}[kind]
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data}
    await system.kubectl("apply", "--filename=-", input=json.dumps(body))


@asynccontextmanager
async def begin_with(system: LocalSystem, **metadata: str) -> AsyncIterator[Conversation]:
    """A new session with metadata of ours."""
    session = await system.user.beta.sessions.create(
        agent=system.agent_id,
        environment_id=system.clouds.environment_id,
        metadata={f"managedagents.dev/{name.replace('_', '-')}": value for name, value in metadata.items()},
    )
    async with Conversation.join(system.user, session.id) as conversation:
        yield conversation


async def trusts(system: LocalSystem, session_id: str, authority: BareAuthority) -> None:
    """Wait until a clone has failed for lack of the authority, and give it to the sandbox."""

    async def failed() -> str:
        found = await condition(system, session_id)
        sandboxes = await sandboxes_of(system, session_id, "running", "paused")
        lacks = any(not each.path(AUTHORITY).exists() for each in sandboxes)
        waits = found.get("reason") == "SetupFailed" and "does not exist" not in found["message"]
        return found["message"] if lacks and waits else ""

    assert "CA" in await eventually("the clone fails", failed)
    shutil.copy(authority.ca, (await only_sandbox(system, session_id)).path(AUTHORITY))


async def is_kept_nowhere(system: LocalSystem, session_id: str) -> None:
    """Look for the credential in all files and processes of the session's sandbox, as root."""
    root = (await only_sandbox(system, session_id)).path("/")
    needles = (TOKEN.encode(), base64.b64encode(":".join(PASSWORD).encode()))
    found = False
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or not path.is_file():
                continue
            content = path.read_bytes()
            found = found or b"from the secret" in content
            assert not any(needle in content for needle in needles), path
    assert found, "the search looks where secrets can be"
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and process.name != str(os.getpid()):
            try:
                root_of = (process / "root").readlink()
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if root_of == root or "supervisor" in text.decode(errors="replace"):
                assert TOKEN.encode() not in text, process


async def test_agent_finds_repository_files_and_what_the_script_made_and_nothing_of_the_credential(
    system: LocalSystem, server: GitServer, authority: BareAuthority
) -> None:
    url = server.add("private", {"README.md": "cloned"}, password=PASSWORD)
    await apply(system, "ConfigMap", "settings", **{"app.json": "from the map"})
    repository = {"url": url, "credential": {"secretRef": {"name": "git-token", "key": "token"}}}
    files = [
        {"path": "app.json", "configMap": {"name": "settings", "key": "app.json"}},
        {"path": "/home/agent/key", "secret": {"name": "agent-key", "key": "key"}},
    ]
    setup = {"repositories": [repository], "files": files, "script": "echo made >> made; echo $HOME >> made"}
    await with_policy(system, setup=setup)
    show = "Run: cat private/README.md app.json /home/agent/key made; stat -c '%U %a' /home/agent/key private"
    expected = "clonedfrom the mapfrom the secretmade\n/home/agent\nagent 600\nagent 755"
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(show)
        missing = await becomes(system, session_id, "SetupFailed")
        assert "setup.repositories[0]: The Secret git-token does not exist" in missing["message"]
        await apply(system, "Secret", "git-token", token=TOKEN)
        await apply(system, "Secret", "agent-key", key="from the secret")
        await trusts(system, session_id, authority)
        assert await conversation.answer() == expected
        assert server.requests[-1][1].startswith("Basic ")
        await is_kept_nowhere(system, session_id)
        assert TOKEN not in json.dumps(json.loads(await system.kubectl("get", "msess", "--output=json")))

        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        clones = len(server.requests)
        assert await conversation.say("Run: echo mine > private/README.md; cat made") == "made\n/home/agent"
        assert len(server.requests) == clones, "nothing is cloned again after a pause"
        await eventually("the sandbox is paused", lambda: paused(system, session_id))

        await system.e2b_admin.vanish((await only_sandbox(system, session_id)).id)
        await conversation.send(show)
        await trusts(system, session_id, authority)
        note, _, answer = (await conversation.answer()).partition("\n")
        assert (note.startswith("[a new shell in "), answer) == (True, expected)
    for log in system.logs.values():
        assert TOKEN not in log.read_text(errors="replace")


async def test_session_names_its_repository_in_its_metadata(
    system: LocalSystem, server: GitServer, authority: BareAuthority
) -> None:
    url = server.add("named", {"README.md": "named"}, password=PASSWORD)
    await apply(system, "Secret", "for-sessions", token=TOKEN)
    credential = {"urlPrefix": f"{server.url}/", "secretRef": {"name": "for-sessions", "key": "token"}}
    rules = {"urlPrefixes": [f"{server.url}/"], "credentials": [credential]}
    await with_policy(system, setup={"fromSessionMetadata": rules})
    async with begin_with(system, repository=url, repository_path="code/it") as conversation:
        await conversation.send("Run: cat code/it/README.md")
        await trusts(system, conversation.session_id, authority)
        assert await conversation.answer() == "named"
    async with begin_with(system, repository="https://other.example.com/code") as conversation:
        await conversation.send("Run: echo served")
        refused = await becomes(system, conversation.session_id, "SetupFailed")
        assert "managedagents.dev/repository" in refused["message"]
        assert "urlPrefixes" in refused["message"]
        await system.user.beta.sessions.update(
            conversation.session_id, metadata={"managedagents.dev/repository": None}
        )
        assert await conversation.answer() == "served"


async def test_hooks_run_at_their_moments_and_only_the_first_can_stop_the_session(
    system: LocalSystem,
) -> None:
    hooks = {
        "onCreate": {"command": "echo create >> told; [ -e fine ]"},
        "afterResume": {"command": "echo resume >> told; echo why; exit 7"},
        "beforePause": {"command": "echo pause >> told; sleep 60", "timeoutSeconds": 1},
        "beforeKill": {"command": "echo kill >> told"},
    }
    await with_policy(system, hooks=hooks)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: cat told")
        stopped = await becomes(system, session_id, "SetupFailed")
        assert "hooks.onCreate" in stopped["message"]
        (await only_sandbox(system, session_id)).path("/mnt/session/fine").touch()
        # The sandbox may have been paused between two tries.
        assert set((await conversation.answer()).split()) - {"resume"} == {"create"}
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await warned(system, session_id, "HookFailed")
        assert (await conversation.say("Run: tail -n 2 told")).split() == ["pause", "resume"]
        failed = await condition(system, session_id, "HookFailed")
        assert "hooks.afterResume" in failed["message"]
        assert "why" in failed["message"]
        await conversation.send("Run: touch begun; sleep 60")
        sandbox = await only_sandbox(system, session_id)

        async def runs() -> bool:
            return sandbox.path("/mnt/session/begun").exists()

        await eventually("the call runs", runs)
        told = sandbox.path("/mnt/session/told").open()
        told.read()
        await system.kubectl("delete", "msess", "--all", "--wait=true")
        assert "kill" in told.read().split()
        told.close()
