"""Starts systems for tests, each with a proxy in front of the API server for every pod."""

from __future__ import annotations

from contextlib import AsyncExitStack

from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from .api_server_proxy import ApiServerProxy
from .arrangements import PODS, Arrangement
from .systems import local_system


class SystemPool:
    """Keeps one system running, until a test asks for another arrangement."""

    def __init__(self, shared: ControlPlane) -> None:
        self._shared = shared
        self._stack = AsyncExitStack()
        self._arrangement: Arrangement | None = None
        self.system: LocalSystem | None = None
        self.proxies: dict[str, ApiServerProxy] = {}

    async def set_up(self, arrangement: Arrangement) -> tuple[LocalSystem, dict[str, ApiServerProxy]]:
        """The system of this arrangement, with a proxy before the API server for each pod."""
        if self.system is None or self._arrangement != arrangement:
            await self.close()
            plane = self._shared
            if arrangement.own_control_plane:
                plane = await self._stack.enter_async_context(ControlPlane())
            self.proxies = {
                pod: await self._stack.enter_async_context(ApiServerProxy(plane.url, plane.ca_file))
                for pod in PODS
            }
            self.system = await self._stack.enter_async_context(
                local_system(
                    plane,
                    operators=arrangement.operators,
                    register_webhook=arrangement.webhook,
                    operator_settings=arrangement.operator_settings,
                    anthropic_settings=arrangement.anthropic,
                    e2b_settings=arrangement.e2b,
                    api_server_urls={pod: proxy.url for pod, proxy in self.proxies.items()},
                )
            )
            self._arrangement = arrangement
        return self.system, self.proxies

    async def close(self) -> None:
        """End the system."""
        self.system = None
        await self._stack.aclose()
