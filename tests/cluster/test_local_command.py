"""`managed-sessions local` as another program uses it: one line of JSON, a turn, SIGTERM, nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from anthropic import AsyncAnthropic
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane, ProcessFailedError
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_devkit.system.simulator_process import SimulatorProcess

from ..support.systems import local_system
from ..support.waiting import eventually

COMMAND = (sys.executable, "-m", "managed_session_cli.main")
SIGNING_KEY = "whsec_c2lnbmluZy1rZXktb2YtYXQtbGVhc3QtMzItYnl0ZXM="
E2B_KEY = "e2b_0123456789abcdef0123456789abcdef01234567"
START_SECONDS = 60.0
END_SECONDS = 60.0


@dataclass
class Command:
    """A running `managed-sessions local --json` and the line that it printed."""

    process: asyncio.subprocess.Process
    printed: dict[str, Any]
    children: list[psutil.Process]

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), END_SECONDS)

    def left(self) -> list[psutil.Process]:
        """Which of its processes still run, after some time to end."""
        return list(psutil.wait_procs(self.children, timeout=END_SECONDS)[1])

    async def kubectl(self, *args: str) -> str:
        process = await asyncio.create_subprocess_exec(
            self.printed["kubectl"],
            *args,
            env={"KUBECONFIG": self.printed["kubeconfig"], "HOME": os.environ["HOME"]},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return output.decode()


@pytest.fixture(scope="module")
async def assets(control_plane: ControlPlane) -> Path:
    """Where kube-apiserver, etcd and kubectl are."""
    return control_plane.binaries.folder


def environment(assets: Path, data: Path, **variables: str) -> dict[str, str]:
    """What the command is started with: nothing of the clouds but what the test says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "E2B_"))}
    return kept | {
        "KUBEBUILDER_ASSETS": str(assets),
        "XDG_DATA_HOME": str(data),
        "MANAGED_SESSIONS_MAX_IDLE_SECONDS": "1",
        **variables,
    }


@asynccontextmanager
async def running(variables: Mapping[str, str], *options: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "local", "--json", *options, env=dict(variables), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        children = psutil.Process(process.pid).children(recursive=True)
        yield Command(process, json.loads(line), children)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def ask(command: Command, text: str, api_key: str) -> str:
    async with AsyncAnthropic(base_url=command.printed["anthropicURL"], api_key=api_key) as client:
        begin = Conversation.begin(
            client,
            agent_id=AnthropicSettings().agent_id,
            environment_id=command.printed["environmentID"],
        )
        async with begin as session:
            return await session.say(text)


async def test_line_of_json_says_how_to_use_it_and_sigterm_leaves_nothing(
    assets: Path, tmp_path: Path
) -> None:
    async with running(environment(assets, tmp_path)) as command:
        printed = command.printed
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
            health = await client.get(printed["webhookURL"].replace("/webhook", "/health"))
        assert health.json()["ok"] is True
        assert await ask(command, "Run: echo hello", printed["anthropicAPIKey"]) == "hello"
        listed = json.loads(
            await command.kubectl("get", "managedsessions", "-n", printed["namespace"], "-o", "json")
        )
        assert [each["spec"]["environmentID"] for each in listed["items"]] == [printed["environmentID"]]
        assert printed["simulated"] is True

        assert await command.end(signal.SIGTERM) == 0
    assert command.left() == []
    assert not Path(printed["kubeconfig"]).parent.exists()


async def test_nothing_runs_on_when_the_command_is_killed(assets: Path, tmp_path: Path) -> None:
    async with running(environment(assets, tmp_path)) as command:
        await command.end(signal.SIGKILL)
    assert command.left() == []


async def test_operator_that_was_killed_is_started_again(assets: Path, tmp_path: Path) -> None:
    quick = {
        "MANAGED_SESSIONS_LEASE_DURATION_SECONDS": "4",
        "MANAGED_SESSIONS_LEASE_RENEW_SECONDS": "0.5",
        "MANAGED_SESSIONS_RECLAIM_SECONDS": "5",
    }
    async with running(environment(assets, tmp_path, **quick)) as command:

        def operators() -> list[psutil.Process]:
            found = []
            for each in psutil.Process(command.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    line = " ".join(each.cmdline())
                    if "managed" in line and "operator" in line:
                        found.append(each)
            return found

        [first] = operators()
        first.kill()

        async def started_again() -> bool:
            return any(each.pid != first.pid for each in operators())

        await eventually("another operator runs", started_again)
        assert await ask(command, "Run: echo back", command.printed["anthropicAPIKey"]) == "back"


@dataclass
class Clouds:
    """Two simulators that the command does not know as its own."""

    anthropic: AnthropicSimulator
    e2b: E2BSimulatorClient
    settings: AnthropicSettings

    def variables(self) -> dict[str, str]:
        """What a user of the real clouds sets, and the SDKs' own addresses."""
        return {
            "ANTHROPIC_BASE_URL": self.anthropic.url,
            "ANTHROPIC_ENVIRONMENT_ID": self.settings.environment_id,
            "ANTHROPIC_ENVIRONMENT_KEY": self.settings.environment_key,
            "ANTHROPIC_WEBHOOK_SIGNING_KEY": SIGNING_KEY,
            "E2B_API_URL": self.e2b.url,
            "E2B_SANDBOX_URL": self.e2b.url,
            "E2B_API_KEY": E2B_KEY,
        }


@pytest.fixture
async def clouds(tmp_path: Path) -> AsyncIterator[Clouds]:
    settings = AnthropicSettings(environment_id="env_01Real", environment_key="sk-ant-oat01-real-environment")
    plain = dict(os.environ)
    async with AsyncExitStack() as stack:
        anthropic = SimulatorProcess("anthropic", tmp_path, settings.model_dump(mode="json"), plain)
        e2b = SimulatorProcess("e2b", tmp_path, {"api_keys": [E2B_KEY]}, plain)
        for each in (anthropic, e2b):
            stack.push_async_callback(each.stop)
            await each.start()
        yield Clouds(
            await stack.enter_async_context(AnthropicSimulator(anthropic.url)),
            await stack.enter_async_context(E2BSimulatorClient(e2b.url)),
            settings,
        )


async def test_credentials_in_the_environment_lead_to_the_clouds_that_the_sdks_variables_name(
    assets: Path, tmp_path: Path, clouds: Clouds
) -> None:
    async with running(environment(assets, tmp_path, **clouds.variables())) as command:
        printed = command.printed
        assert (printed["simulated"], printed["environmentID"]) == (False, "env_01Real")
        assert "anthropicAPIKey" not in printed
        await clouds.anthropic.add_webhook(printed["webhookURL"], secrets=[SIGNING_KEY])
        assert await ask(command, "Run: echo real", clouds.settings.api_key) == "real"
        deliveries = (await clouds.anthropic.ledger()).deliveries
        assert {each["status"] for each in deliveries} == {204}

        async def paused() -> bool:
            return [each.state for each in await clouds.e2b.sandboxes()] == ["paused"]

        await eventually("its sandbox is paused", paused)
        templates = {name for each in await clouds.e2b.templates() for name in json.dumps(each).split('"')}
        assert "managed-session-worker" in templates

        assert await command.end(signal.SIGTERM) == 0
        assert {each.state for each in await clouds.e2b.sandboxes()} == {"killed"}


async def test_turn_is_served_without_any_webhook(assets: Path, tmp_path: Path, clouds: Clouds) -> None:
    variables = clouds.variables()
    del variables["ANTHROPIC_WEBHOOK_SIGNING_KEY"]
    async with running(environment(assets, tmp_path, **variables)) as command:
        assert await ask(command, "Run: echo polled", clouds.settings.api_key) == "polled"
        assert await command.end(signal.SIGTERM) == 0


async def test_sandboxes_that_a_killed_run_left_in_the_cloud_are_gone_after_the_next(
    assets: Path, tmp_path: Path, clouds: Clouds
) -> None:
    variables = environment(assets, tmp_path, **clouds.variables())
    async with running(variables) as command:
        assert await ask(command, "Run: echo one", clouds.settings.api_key) == "one"
        await command.end(signal.SIGKILL)
    [left] = await clouds.e2b.sandboxes("running", "pausing", "paused")
    async with running(variables) as command:
        assert await command.end(signal.SIGTERM) == 0
    assert (await clouds.e2b.sandbox(left.id)).state == "killed"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "E2B_"))}
    return subprocess.run(
        [*COMMAND, *arguments], env=kept | variables, capture_output=True, text=True, timeout=120
    )


def test_missing_credential_is_named_in_one_line(assets: Path) -> None:
    failed = run(
        "local",
        "--json",
        KUBEBUILDER_ASSETS=str(assets),
        ANTHROPIC_ENVIRONMENT_ID="env_1",
        E2B_API_KEY="e2b_x",
    )
    assert failed.returncode != 0
    assert failed.stderr.startswith("error: ANTHROPIC_ENVIRONMENT_KEY is not set")
    assert failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1


async def test_refused_e2b_key_is_said_in_one_line(assets: Path, tmp_path: Path, clouds: Clouds) -> None:
    variables = environment(assets, tmp_path, **clouds.variables()) | {"E2B_API_KEY": "e2b_wrong"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "local", "--json",
        env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), START_SECONDS)
    last = errors.decode().splitlines()[-1]
    assert (process.returncode, output) == (1, b"")
    assert last.startswith("error: E2B rejected E2B_API_KEY")
    assert "e2b_wrong" not in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_template_is_built_by_a_command(clouds: Clouds) -> None:
    address = {"E2B_API_URL": clouds.e2b.url, "E2B_API_KEY": E2B_KEY}
    built = await asyncio.to_thread(run, "template", "build", **address)
    assert built.returncode == 0, built.stderr
    [template] = [each for each in await clouds.e2b.templates() if each["name"] == "managed-session-worker"]
    [[tag, build]] = template["tags"].items()
    assert built.stdout == f"managed-session-worker:{tag} is build {build}\n"


def test_template_build_without_a_key_says_what_to_do() -> None:
    failed = run("template", "build")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: E2B_API_KEY is not set")


def test_help_names_every_command() -> None:
    shown = run("--help").stdout
    assert all(name in shown for name in ("demo", "local", "template", "version"))


@pytest.mark.parametrize("attempt", range(3))
def test_unreachable_e2b_is_said_in_one_line_and_the_exit_code_is_one(attempt: int) -> None:
    # Several times: the SDK's threads may end the process in their own way when the interpreter leaves.
    ended = run("template", "build", E2B_API_KEY=E2B_KEY, E2B_API_URL="http://127.0.0.1:1")
    assert ended.returncode == 1, attempt
    assert ended.stderr.strip().splitlines()[-1].startswith("error: E2B cannot be reached")


async def test_webhook_whose_port_is_taken_is_not_called_ready(control_plane: ControlPlane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ProcessFailedError, match=r"(?s)webhook.*[Aa]ddress already in use"):
            async with local_system(control_plane, webhook_settings={"webhook_port": port}):
                pass
