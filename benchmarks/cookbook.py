"""The vendor's cookbook `app-webhooks` on the same simulators and latencies: what users have today.

It runs where a checkout of e2b-dev/e2b-cookbook is beside this one (`../e2b-cookbook`), or where the variable
`COOKBOOK` names one. `COOKBOOK_PYTHON` names the interpreter that has what its pyproject.toml asks for
(Python 3.12 or newer); without it, that of a virtual environment `.venv` beside the example's pyproject.toml.
Nothing of it is committed here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2b
import httpx
from anthropic import AsyncAnthropic
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_devkit.system.clouds import SIMULATED_E2B_KEY
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.simulator_process import SimulatorProcess

from benchmarks.figures import Figure, NotMeasuredError, middle_and_longest
from benchmarks.latency_model import (
    ANTHROPIC_MODEL,
    E2B_MODEL,
    LIMIT_AT_ONCE_IS,
    LIMIT_COLD_MS,
    LIMIT_IS,
    LIMIT_PAUSED_MS,
    latency,
    limits_at_once,
)
from benchmarks.sessions import turn

ROOT = Path(__file__).parents[1]
EXAMPLE = Path("examples", "anthropic-managed-agents", "python")
AT_ONCE = 20
"""It serves about one session a second."""
READY_SECONDS = 60.0
TEMPLATE = "anthropic-managed-agents"
PACKAGE = "/opt/anthropic-managed-agents/anthropic_managed_agents_e2b"
SERVER = "from anthropic_managed_agents_e2b import cli; cli.start_app_webhook_server_main()"
EARLIER = (
    "2.1 to 2.9 s for a cold turn and 2.6 s for one from paused; with 200 sessions at once 146 s in the "
    "middle and 280 s at the longest, and with stub workers 104 s and 203 s"
)
"""What an earlier run measured until the first heartbeat, with the SDKs anthropic 2.12.0 and e2b 2.63.0."""
EARLIER_AT_ONCE = {
    ("at-once-p50", 200): ("median, 200 at once with stub workers", 104),
    ("at-once-max", 200): ("longest, 200 at once with stub workers", 203),
}


@dataclass(frozen=True)
class Example:
    """A checkout of the example, and an interpreter that can run it."""

    folder: Path
    python: Path

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Example:
        """Find the example. Raises NotMeasuredError."""
        folder = Path(environ.get("COOKBOOK") or ROOT.parent / "e2b-cookbook") / EXAMPLE
        if not folder.is_dir():
            raise NotMeasuredError("there was no checkout of the cookbook")
        python = Path(environ.get("COOKBOOK_PYTHON") or folder / ".venv" / "bin" / "python")
        if not python.is_file():
            raise NotMeasuredError("there was no Python environment for the cookbook")
        return cls(folder, python)


@dataclass(frozen=True)
class Clouds:
    """Both simulators, with their control surfaces."""

    anthropic: AnthropicSimulator
    e2b: E2BSimulatorClient
    environment: dict[str, str]
    settings: AnthropicSettings
    user: AsyncAnthropic


@asynccontextmanager
async def clouds(folder: Path, example: Example) -> AsyncIterator[Clouds]:
    """Run both simulators."""
    settings = AnthropicSettings()
    environment = base_environment(os.environ)
    e2b_settings: dict[str, Any] = {
        "api_keys": [SIMULATED_E2B_KEY],
        "warm_pool": AT_ONCE + 2,
        # Its sandboxes import the SDK of its own environment.
        "extra_read_only_paths": [str(example.python.resolve().parents[1]), str(example.python.parents[1])],
    }
    anthropic = SimulatorProcess("anthropic", folder, settings.model_dump(mode="json"), environment)
    sandboxes = SimulatorProcess("e2b", folder, e2b_settings, environment, f"--state-dir={folder}")
    async with AsyncExitStack() as stack:
        for simulator in (anthropic, sandboxes):
            stack.push_async_callback(simulator.stop)
            await simulator.start()
        variables = {
            **environment,
            "ANTHROPIC_BASE_URL": anthropic.url,
            "ANTHROPIC_API_KEY": settings.api_key,
            "ANTHROPIC_ENVIRONMENT_ID": settings.environment_id,
            "ANTHROPIC_ENVIRONMENT_KEY": settings.environment_key,
            "E2B_API_URL": sandboxes.url,
            "E2B_SANDBOX_URL": sandboxes.url,
            "E2B_API_KEY": SIMULATED_E2B_KEY,
            "APP_SANDBOX_STORE_PATH": str(folder / "store.json"),
        }
        yield Clouds(
            await stack.enter_async_context(AnthropicSimulator(anthropic.url)),
            await stack.enter_async_context(E2BSimulatorClient(sandboxes.url)),
            variables,
            settings,
            await stack.enter_async_context(AsyncAnthropic(base_url=anthropic.url, api_key=settings.api_key)),
        )


async def build_template(example: Example, found: Clouds, folder: Path) -> None:
    """Build what a real build of the example's template leaves: its folders, and a Python with its libraries.

    The simulator does not run most steps of a build, because packages are those of the host. The address of
    Anthropic's simulator is set where Python starts, because the example does not hand it over.
    """
    (folder / "prepare.sh").write_text(
        f"""set -e
mkdir -p /mnt/session {PACKAGE}
chmod 777 /mnt/session {Path(PACKAGE).parent} {PACKAGE}
rm -f /usr/local/bin/python
cat > /usr/local/bin/python <<'END'
#!/bin/sh
export ANTHROPIC_BASE_URL={found.environment["ANTHROPIC_BASE_URL"]}
exec {example.python} "$@"
END
chmod 755 /usr/local/bin/python
"""
    )
    template = (
        e2b.AsyncTemplate(file_context_path=folder)
        .from_python_image("3.12-slim")
        .copy("prepare.sh", "/opt/prepare.sh", user="root")
        .set_user("root")
        .run_cmd("sh /opt/prepare.sh")
        .set_user("user")
        .set_workdir("/mnt/session")
    )
    await e2b.AsyncTemplate.build(
        template, TEMPLATE, api_key=SIMULATED_E2B_KEY, api_url=found.environment["E2B_API_URL"]
    )


@asynccontextmanager
async def router(example: Example, found: Clouds, log: Path) -> AsyncIterator[None]:
    """Run the example's webhook server, registered at the simulator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = await found.anthropic.add_webhook(f"http://127.0.0.1:{port}/webhook")
    environment = {**found.environment, "ANTHROPIC_WEBHOOK_SIGNING_KEY": endpoint.secret}
    with log.open("a") as output:
        process = await asyncio.create_subprocess_exec(
            example.python, "-c", SERVER, "--host=127.0.0.1", f"--port={port}",
            cwd=example.folder, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            await _answers(f"http://127.0.0.1:{port}/health", log)
            yield
        finally:
            process.kill()
            await process.wait()


async def _answers(url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                (await client.get(url)).raise_for_status()
                return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
    raise RuntimeError(f"the cookbook's server does not answer: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text()[-500:]


async def heartbeats(found: Clouds, conversations: list[Conversation], number: int) -> list[float]:
    """Return the milliseconds from message `number` to its worker's first heartbeat, of each session."""
    ledger = await found.anthropic.ledger(calls=False)
    times = [ledger.sessions[each.session_id].turns[number].to_heartbeat_ms for each in conversations]
    return [each for each in times if each is not None]


async def play(found: Clouds) -> list[Figure]:
    """Play a cold turn, one from the paused sandbox, and new sessions at once."""
    async with AsyncExitStack() as stack:

        async def begin() -> Conversation:
            return await stack.enter_async_context(
                Conversation.begin(
                    found.user,
                    agent_id=found.settings.agent_id,
                    environment_id=found.settings.environment_id,
                )
            )

        first = await begin()  # fills the simulator's pool
        await turn(first)
        single = await begin()
        await turn(single)
        await _pause(found)
        await turn(single)
        cold, paused = await heartbeats(found, [single], 0), await heartbeats(found, [single], 1)
        many = [await begin() for _ in range(AT_ONCE)]
        await asyncio.gather(*(turn(each) for each in many))
        at_once = await heartbeats(found, many, 0)
    return [
        *middle_and_longest("cold", "first message to first heartbeat", cold,
                            limits=(LIMIT_COLD_MS,) * 2, limit_is=LIMIT_IS)[:1],
        *middle_and_longest("paused", "message to a paused session to first heartbeat", paused,
                            limits=(LIMIT_PAUSED_MS,) * 2, limit_is=LIMIT_IS)[:1],
        *middle_and_longest("real-at-once", "first message to first heartbeat", at_once,
                            limits=limits_at_once(AT_ONCE), limit_is=LIMIT_AT_ONCE_IS, scale=AT_ONCE),
    ]  # fmt: skip


async def _pause(found: Clouds) -> None:
    """Let the countdown of every sandbox end, once no worker has a lease.

    The example does not pause: its worker ends after 30 idle seconds, and E2B pauses the sandbox after 300.
    """
    while any(item["state"] not in ("stopped", "queued") for item in (await found.anthropic.work())[0]):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.5)
    for sandbox in await found.e2b.sandboxes():
        if sandbox.state == "running":
            await found.e2b.expire(sandbox.id)
    while any(each.state != "paused" for each in await found.e2b.sandboxes()):  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.1)


async def measure() -> list[Figure]:
    """Measure the cookbook. Raises NotMeasuredError if it is not there."""
    example = Example.find()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "cookbook.log"
        async with clouds(folder, example) as found:
            await build_template(example, found, folder)
            async with router(example, found, log):
                await found.e2b.change_settings(
                    latencies={name: latency(model) for name, model in E2B_MODEL.items()}
                )
                await found.anthropic.change_settings(latencies={"*": latency(ANTHROPIC_MODEL)})
                return await play(found)
