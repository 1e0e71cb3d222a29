"""Where credentials must not be: sandboxes, resources, Events and logs, looked through while a turn runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from managed_session_api.credentials import Credential
from managed_session_devkit.simulators.anthropic.credentials import TOKEN_PREFIX
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

from ..support.held import WAIT, let_go
from ..support.sessions import begin, sandboxes_of
from ..support.systems import StartSystem
from ..support.waiting import eventually

LARGEST_BYTES = 5_000_000


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    # Of a sandbox at work some files and folders are gone by then: `os.walk` passes over the folders.
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and path.stat().st_size < LARGEST_BYTES:
                    yield str(path), path.read_bytes()


def processes_of(sandbox: SimulatedSandbox) -> Iterator[tuple[str, bytes]]:
    for process in sandbox.processes:
        for what in ("environ", "cmdline"):
            path = Path("/proc") / str(process.host_pid) / what
            with suppress(FileNotFoundError, ProcessLookupError):
                yield str(path), path.read_bytes()


@pytest.mark.parametrize("log_level", ["info", "debug"])
async def test_credentials_are_nowhere_but_where_they_are_used(
    start_system: StartSystem, log_level: str
) -> None:
    settings = {"log_level": log_level.upper()}
    system = await start_system(operator_settings=settings, webhook_settings=settings)
    # Calls that fail may quote what was sent.
    await system.e2b_admin.add_fault("create", {"status": 500, "body": {"code": 500, "message": "no"}})
    await system.anthropic_admin.add_fault("work.ack", {"status": 500})
    credentials = {
        name: value.encode()
        for name, value in {
            **system.clouds.only((Credential.ANTHROPIC_ENVIRONMENT_KEY, Credential.E2B_API_KEY)),
            "signing key": (system.webhook.credentials / "anthropic-webhook-signing-key").read_text().strip(),
        }.items()
    }
    assert len(credentials) == 3
    session_token = TOKEN_PREFIX.encode()
    async with begin(system) as conversation:
        await conversation.send(
            f"Run: env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; {WAIT}"
        )

        async def works() -> list[SimulatedSandbox]:
            report = await system.anthropic_admin.session(conversation.session_id)
            running = await sandboxes_of(system, conversation.session_id, "running")
            return running if report.counts["leases"] and running else []

        (sandbox,) = await eventually("the worker works", works)
        assert sandbox.root is not None
        inside = [*processes_of(sandbox), *files_below(sandbox.root)]
        assert any(name.endswith("cmdline") for name, _ in inside)
        assert any(name.endswith("worker.log") for name, _ in inside)

        async def no_token() -> bool:
            listed = [
                await system.control_plane.kubectl(f"--namespace={each}", "get", "secrets", "--output=name")
                for each in (system.namespace, system.system_namespace)
            ]
            return "token" not in "".join(listed)

        await eventually("the session token's Secret is gone since the first heartbeat", no_token)
        let_go(sandbox)
        answer = await conversation.answer()
        inside += [("the agent's answer", answer.encode()), *files_below(sandbox.root)]

        outside: list[tuple[str, bytes]] = [
            (name, path.read_bytes()) for name, path in system.logs.items() if "simulator" not in name
        ]
        for kind in ("managedsessions", "events", "configmaps", "leases"):
            found = await system.control_plane.kubectl("get", kind, "--all-namespaces", "--output=yaml")
            outside.append((kind, found.encode()))

        for where, content in inside + outside:
            for name, value in credentials.items():
                assert value not in content, f"the {name} is in {where}"
            assert session_token not in content, f"a session token is in {where}"
