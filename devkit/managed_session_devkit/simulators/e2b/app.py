"""The simulator as one ASGI application."""

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from managed_session_devkit.simulators.common.network_loss import NetworkLoss
from managed_session_devkit.simulators.e2b import network_routes
from managed_session_devkit.simulators.e2b.app_ports import PortRoutes
from managed_session_devkit.simulators.e2b.control_routes import ControlRoutes
from managed_session_devkit.simulators.e2b.egress_proxy import EgressProxy
from managed_session_devkit.simulators.e2b.envd_files import FileRoutes
from managed_session_devkit.simulators.e2b.envd_process import ProcessRoutes
from managed_session_devkit.simulators.e2b.faults import Faults
from managed_session_devkit.simulators.e2b.gateway import Gateway
from managed_session_devkit.simulators.e2b.kept_snapshots import SnapshotRoutes
from managed_session_devkit.simulators.e2b.ledger import Ledger
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle
from managed_session_devkit.simulators.e2b.network import ENVD_PORT
from managed_session_devkit.simulators.e2b.runtime_pool import RuntimePool
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.simulators.e2b.simulator_routes import SimulatorRoutes
from managed_session_devkit.simulators.e2b.template_routes import TemplateRoutes
from managed_session_devkit.simulators.e2b.templates import Templates
from managed_session_devkit.simulators.e2b.volume_routes import VolumeRoutes
from managed_session_devkit.simulators.e2b.volumes import Volumes


class Simulator:
    """The ASGI application. Routing headers lead a request to the control plane or to a sandbox."""

    def __init__(self, settings: Settings, directory: Path, network: NetworkLoss) -> None:
        self.ledger = Ledger()
        self.runtimes = RuntimePool(directory, settings)
        self.templates = Templates(directory, self.runtimes)
        volumes = Volumes(self.runtimes.volumes)
        self.lifecycle = Lifecycle(settings, self.ledger, self.templates, self.runtimes, volumes)
        faults = Faults()
        self._egress = EgressProxy(self._network_of, lambda: self.lifecycle.settings.egress_hosts)
        self._gateway = Gateway(settings, faults, self.ledger)
        surface = SimulatorRoutes(self.lifecycle, self.templates, faults, self.ledger, self._apply)
        control = ControlRoutes(self._gateway, self.lifecycle)
        kept = SnapshotRoutes(self._gateway, self.lifecycle, self.templates, directory)
        templates = TemplateRoutes(self._gateway, self.templates, self._has_sandboxes)
        self._control = Starlette(
            routes=[
                *surface.routes(),
                network_routes.route(network),
                network_routes.egress_route(self._egress),
                *control.routes(),
                *kept.routes(),
                *templates.routes(),
                *VolumeRoutes(self._gateway, volumes).routes(),
                control.fallback(),
            ]
        )
        files = FileRoutes(self._gateway, self.lifecycle)
        processes = ProcessRoutes(self._gateway, self.lifecycle, self._egress)
        self._envd = Starlette(routes=[*files.routes(), *processes.routes(), files.fallback()])
        self._port_routes = PortRoutes(self._gateway, self.lifecycle)
        self._ports = Router(routes=self._port_routes.routes())

    def _network_of(self, sandbox_id: str) -> Mapping[str, Any] | None:
        sandbox = self.lifecycle.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.running:
            return None
        closed = {"denyOut": ["0.0.0.0/0"]} if sandbox.allow_internet_access is False else {}
        return {**sandbox.network, **closed}

    def _has_sandboxes(self, template_id: str) -> bool:
        sandboxes = self.lifecycle.sandboxes.values()
        return any(each.exists and each.build.template_id == template_id for each in sandboxes)

    def _apply(self, settings: Settings) -> None:
        self._gateway.settings = self.lifecycle.settings = self.runtimes.settings = settings

    async def open(self) -> None:
        """Get ready to serve. Raises SandboxHostError if this system cannot run sandboxes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        await self.runtimes.open()
        await self._egress.open()

    async def close(self) -> None:
        """Kill every sandbox, and remove every file."""
        await self._egress.close()
        await self.lifecycle.close()
        await self.templates.close()
        await self.runtimes.close()
        await self._port_routes.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if b"e2b-sandbox-id" not in headers:
            await self._control(scope, receive, send)
        elif headers.get(b"e2b-sandbox-port", str(ENVD_PORT).encode()) == str(ENVD_PORT).encode():
            await self._envd(scope, receive, send)
        else:
            await self._ports(scope, receive, send)
