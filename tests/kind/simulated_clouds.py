"""Runs the simulators of Anthropic and E2B as pods, in their own namespace."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from anthropic import AsyncAnthropic
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_cli.worker_template import ensure_template
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient, SimulatedSandbox
from managed_session_devkit.system.clouds import Clouds
from managed_session_devkit.system.clouds import simulated_clouds as clouds_at

from ..support.waiting import eventually
from .commands import CommandError, Kubectl
from .images import split
from .port_forward import port_forward

NAMESPACE = "managed-sessions-simulators"
PORT = 8000
MANIFEST = Path(__file__).parent / "simulators/simulators.yaml"
READY_SECONDS = 120.0


@dataclass(frozen=True)
class SimulatedClouds:
    """The clouds as the tests use them.

    Attributes:
        clouds: the clouds as the installation's pods use them.
        addresses_here: variables with which programs on this machine reach them.
    """

    clouds: Clouds
    addresses_here: dict[str, str]
    anthropic_admin: AnthropicSimulator
    e2b_admin: E2BSimulatorClient
    user: AsyncAnthropic
    agent_id: str

    def begin(self) -> contextlib.AbstractAsyncContextManager[Conversation]:
        """Begin a session in the environment that the installation serves."""
        return Conversation.begin(
            self.user, agent_id=self.agent_id, environment_id=self.clouds.environment_id
        )

    async def sandboxes_of(self, session_id: str) -> list[SimulatedSandbox]:
        """Return the session's sandboxes that were not killed."""
        return [
            sandbox
            for sandbox in await self.e2b_admin.sandboxes("running", "pausing", "paused")
            if sandbox.metadata.get(names.METADATA_SESSION) == session_id
        ]

    async def alive(self) -> list[SimulatedSandbox]:
        """Return all sandboxes that were not killed."""
        return await self.e2b_admin.sandboxes("running", "pausing", "paused", "killing")


@contextlib.asynccontextmanager
async def simulated_clouds(kubectl: Kubectl, image: str, *, stays: bool) -> AsyncIterator[SimulatedClouds]:
    """Start the simulators and build the worker template. Remove them at the end unless `stays`."""
    name, tag = split(image)
    manifest = MANIFEST.read_text().replace("image: managed-sessions-simulators", f"image: {name}:{tag}")
    await kubectl("apply", "--filename=-", "--validate=strict", input=manifest)
    try:
        await kubectl(
            f"--namespace={NAMESPACE}", "rollout", "status", "deployment", f"--timeout={READY_SECONDS:g}s",
            timeout_seconds=READY_SECONDS + 10,
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            yield await _connect(kubectl, stack)
    finally:
        if not stays:
            await kubectl("delete", "namespace", NAMESPACE, "--timeout=60s", timeout_seconds=70)


async def _connect(kubectl: Kubectl, stack: contextlib.AsyncExitStack) -> SimulatedClouds:
    settings = Settings()
    urls = {}
    for service in ("anthropic", "e2b"):

        async def forwarded(service: str = service) -> str | None:
            with contextlib.suppress(CommandError):
                return await stack.enter_async_context(port_forward(kubectl, NAMESPACE, service, PORT))
            return None

        urls[service] = await eventually(f"{service} can be reached", forwarded)
    anthropic_admin = await stack.enter_async_context(AnthropicSimulator(urls["anthropic"]))
    e2b_admin = await stack.enter_async_context(E2BSimulatorClient(urls["e2b"]))
    user = await stack.enter_async_context(
        AsyncAnthropic(base_url=urls["anthropic"], api_key=settings.api_key)
    )
    here = clouds_at(urls["anthropic"], urls["e2b"], settings)
    await ensure_template(None, **here.e2b_options)
    clouds = clouds_at(
        f"http://anthropic.{NAMESPACE}.svc:{PORT}", f"http://e2b.{NAMESPACE}.svc:{PORT}", settings
    )
    return SimulatedClouds(clouds, here.environment, anthropic_admin, e2b_admin, user, settings.agent_id)
