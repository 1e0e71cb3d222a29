"""The command line as a user runs it on a cluster, with the two clouds simulated."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient, SimulatedSandbox
from managed_session_devkit.system.clouds import clouds_from_environment
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.simulator_process import SimulatorProcess

from ..support.sessions import QUICK
from ..support.systems import unique_name

COMMAND = (sys.executable, "-m", "managed_session_cli.main")
IMAGE = "registry.example.com/team/managed-sessions:9.9.9"
E2B_KEY = "e2b_0123456789abcdef0123456789abcdef01234567"
OTHER_E2B_KEY = "e2b_fedcba9876543210fedcba9876543210fedcba98"
SIGNING_KEY = "whsec_c2lnbmluZy1rZXktb2YtYXQtbGVhc3QtMzItYnl0ZXM="
ONE_NAMESPACE = {"get"}
"""Commands that know nothing of the processes' namespace."""
SECONDS = 300.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.output + self.errors


@dataclass
class Site:
    """A cluster, two clouds, and two namespaces for one installation."""

    control_plane: ControlPlane
    anthropic: AnthropicSimulator
    e2b: E2BSimulatorClient
    settings: AnthropicSettings
    namespace: str = field(default_factory=unique_name)
    rights_end: ExitStack = field(default_factory=ExitStack)
    """Ends after the processes, whose rights were taken away."""

    @property
    def system_namespace(self) -> str:
        return f"{self.namespace}-system"

    async def sandboxes_of(self, session_id: str) -> list[SimulatedSandbox]:
        """The session's sandboxes, all that ever were."""
        found = await self.e2b.sandboxes()
        return [each for each in found if each.metadata.get(names.METADATA_SESSION) == session_id]

    def keys(self) -> dict[str, str]:
        """The three credentials that an installation needs."""
        return {
            "ANTHROPIC_ENVIRONMENT_ID": self.settings.environment_id,
            "ANTHROPIC_ENVIRONMENT_KEY": self.settings.environment_key,
            "E2B_API_KEY": E2B_KEY,
        }

    def addresses(self) -> dict[str, str]:
        """The variables that lead to the simulators."""
        return {
            "ANTHROPIC_BASE_URL": self.anthropic.url,
            "E2B_API_URL": self.e2b.url,
            "E2B_SANDBOX_URL": self.e2b.url,
        }

    def _complete(self, arguments: tuple[str, ...]) -> list[str]:
        """Add the namespaces to a command's arguments, before those of a command in a sandbox."""
        where = [f"--namespace={self.namespace}"]
        if arguments[0] not in ONE_NAMESPACE:
            where.append(f"--system-namespace={self.system_namespace}")
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return [*arguments[:end], *where, *arguments[end:]]

    async def start(
        self, *arguments: str, keys: Mapping[str, str] | None = None, stdin: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        """Start a command on the installation; `keys` are the credentials in its environment."""
        cleared = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "E2B_"))
        }
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *self._complete(arguments),
            env={
                **cleared,
                **self.addresses(),
                **(self.keys() if keys is None else keys),
                "KUBECONFIG": str(self.control_plane.kubeconfig),
            },
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(
        self, *arguments: str, keys: Mapping[str, str] | None = None, answer: str | None = None
    ) -> Ended:
        """Run a command to its end; `answer` is what is typed."""
        stdin = asyncio.subprocess.DEVNULL if answer is None else asyncio.subprocess.PIPE
        process = await self.start(*arguments, keys=keys, stdin=stdin)
        content = answer.encode() if answer is not None else None
        try:
            output, errors = await asyncio.wait_for(process.communicate(content), SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        ended = Ended(process.returncode, output.decode(), errors.decode())
        print(f"$ managed-sessions {' '.join(arguments)}\n{ended.text}-> {ended.code}")
        assert "Traceback" not in ended.text
        for secret in (self.settings.environment_key, E2B_KEY, SIGNING_KEY, self.settings.api_key):
            assert secret not in ended.text
        return ended

    async def install(self, *options: str, keys: Mapping[str, str] | None = None) -> Ended:
        """`managed-sessions install` with an image, without waiting for pods, which never run here."""
        return await self.run("install", f"--image={IMAGE}", "--yes", "--no-wait", *options, keys=keys)

    async def kubectl(self, *arguments: str) -> str:
        return await self.control_plane.kubectl(*arguments)

    async def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """An object of the cluster; empty where there is none."""
        where = [f"--namespace={namespace}"] if namespace else []
        found = await self.kubectl("get", kind, name, *where, "--ignore-not-found", "--output=json")
        return json.loads(found) if found else {}

    async def installation_id(self) -> str:
        """What marks the installation's sandboxes."""
        found = await self.get("namespace", self.system_namespace)
        return str(found["metadata"]["uid"])

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[LocalSystem]:
        """Webhook and operator of the installation as processes, with the webhook known to Anthropic."""
        clouds = clouds_from_environment(
            {**self.keys(), **self.addresses(), "ANTHROPIC_WEBHOOK_SIGNING_KEY": SIGNING_KEY}
        )
        defaults: dict[str, Any] = {
            "clouds": clouds,
            "namespace": self.namespace,
            "system_namespace": self.system_namespace,
            "installation_id": await self.installation_id(),
            "operator_settings": QUICK,
            "delete_sessions_at_exit": False,
        }
        async with LocalSystem(control_plane=self.control_plane, **{**defaults, **options}) as system:
            endpoint = await self.anthropic.add_webhook(system.webhook_url, secrets=[SIGNING_KEY])
            try:
                yield system
            finally:
                await self.anthropic.remove_webhook(endpoint.id)


def installed_scripts(folder: Path) -> Path:
    """A folder with the programs that the product's wheel installs, for this Python."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        script = folder / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)
    return folder


@asynccontextmanager
async def simulated_site(control_plane: ControlPlane, folder: Path) -> AsyncIterator[Site]:
    """A site with simulators of its own."""
    settings = AnthropicSettings()
    plain = dict(os.environ)
    async with AsyncExitStack() as stack:
        anthropic = SimulatorProcess("anthropic", folder, settings.model_dump(mode="json"), plain)
        e2b = SimulatorProcess(
            "e2b", folder, {"api_keys": [E2B_KEY, OTHER_E2B_KEY]}, plain, f"--state-dir={folder}"
        )
        for each in (anthropic, e2b):
            stack.push_async_callback(each.stop)
            await each.start()
        yield Site(
            control_plane,
            await stack.enter_async_context(AnthropicSimulator(anthropic.url)),
            await stack.enter_async_context(E2BSimulatorClient(e2b.url)),
            settings,
        )


@pytest.fixture(scope="module")
async def site(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site with an installation, whose processes do not run."""
    async with simulated_site(control_plane, tmp_path_factory.mktemp("clouds")) as site:
        assert (await site.install()).code == 0
        yield site


@pytest.fixture(scope="module")
async def serving(site: Site) -> AsyncIterator[LocalSystem]:
    """The site's webhook and operator. A sandbox that a command wakes is left alone for half a minute."""
    # A sandbox that is awake without work is paused by the second resync that finds it so.
    async with site.running(operator_settings={**QUICK, "resync_interval_seconds": "30"}) as running:
        yield running
