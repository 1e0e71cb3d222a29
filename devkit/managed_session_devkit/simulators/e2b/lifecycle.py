"""The life of sandboxes: create, connect, pause, kill, timeouts, automatic resume."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from managed_session_devkit.simulators.common.times import now
from managed_session_devkit.simulators.e2b import crashes, sandbox_request, snapshots
from managed_session_devkit.simulators.e2b.admission import Admission, TakeTime, no_time
from managed_session_devkit.simulators.e2b.errors import ApiError, ProxyError
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.ledger import Ledger
from managed_session_devkit.simulators.e2b.network import ENVD_PORT, check_network
from managed_session_devkit.simulators.e2b.runtime_pool import Runtime, RuntimePool, TemplateBuild
from managed_session_devkit.simulators.e2b.sandbox import Sandbox, access_token
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.simulators.e2b.templates import Templates, identifier
from managed_session_devkit.simulators.e2b.volumes import Mount, Volumes

_log = logging.getLogger(__name__)


def not_found(sandbox_id: str) -> ApiError:
    """Return the control plane's answer for a sandbox that does not exist."""
    return ApiError(404, f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")


class Lifecycle:
    """All sandboxes, past ones too, and the transitions between their states."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        templates: Templates,
        runtimes: RuntimePool,
        volumes: Volumes,
    ) -> None:
        self.settings, self._ledger, self._templates = settings, ledger, templates
        self.admission = Admission(ledger)
        self.sandboxes: dict[str, Sandbox] = {}
        self._runtimes, self._volumes = runtimes, volumes
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox that the API knows. Raises ApiError 404."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.exists:
            raise not_found(sandbox_id)
        return sandbox

    async def create(
        self, body: dict[str, Any], idempotency_key: str | None, default_timeout: int, take_time: TakeTime
    ) -> Sandbox:
        """Start a sandbox, which is not visible until it runs. Raises ApiError 400, 404, 429, 500."""
        fields = sandbox_request.sandbox_fields(body, default_timeout, self.settings)
        self._volumes.check(fields["volume_mounts"])
        build, alias = self._templates.resolve(str(body.get("templateID") or ""))
        with self.admission.reserve(self.settings):
            try:
                async with self.admission.start(self.settings, resume=False):
                    runtime = await self._start(build, take_time, fields["volume_mounts"])
            except (SandboxHostError, TimeoutError) as error:
                _log.exception("sandbox of template %s did not start", build.template_id)
                raise ApiError(
                    500, f"Failed to create sandbox: {error}", error_code="sandbox_create_failed"
                ) from error
        sandbox = Sandbox(
            id="i" + identifier(),
            alias=alias,
            build=build,
            runtime=runtime,
            end_at=now()
            + timedelta(seconds=min(fields["timeout_seconds"], self.settings.max_lifetime_seconds)),
            idempotency_key=idempotency_key,
            **fields,
        )
        self.sandboxes[sandbox.id] = sandbox
        self._became_active()
        crashes.watch(sandbox)
        self._schedule_expiry(sandbox)
        self._count(sandbox, "created")
        return sandbox

    async def _start(self, build: TemplateBuild, take_time: TakeTime, mounts: Sequence[Mount]) -> Runtime:
        runtime = await self._runtimes.take(build)
        try:
            await self._volumes.mount(runtime.process, mounts)
            await take_time()
        except BaseException:
            # The client has left.
            await asyncio.shield(self._runtimes.destroy(runtime))
            raise
        return runtime

    def add_paused(self, template: str, metadata: dict[str, str]) -> Sandbox:
        """Add a sandbox that was paused long ago.

        This is cheap, because a resume starts it from its template. Raises ApiError 404.
        """
        build, alias = self._templates.resolve(template)
        sandbox = Sandbox(
            id="i" + identifier(),
            alias=alias,
            build=build,
            runtime=None,
            timeout_seconds=self.settings.default_timeout_seconds,
            end_at=now(),
            metadata=metadata,
            on_timeout="pause",
            state="paused",
            paused_at=now(),
            saved_at=now(),
            billing=False,
        )
        self.sandboxes[sandbox.id] = sandbox
        return sandbox

    async def connect(
        self, sandbox_id: str, body: dict[str, Any], take_time: TakeTime
    ) -> tuple[Sandbox, bool]:
        """Resume or extend. Return (sandbox, resumed). Raises ApiError 400, 404, 409, 429, 500."""
        sandbox = self._not_being_killed(sandbox_id)
        timeout = sandbox_request.timeout(
            body.get("timeout"), self.settings.default_timeout_seconds, self.settings
        )
        async with sandbox.lock:
            if not sandbox.exists:
                raise not_found(sandbox_id)
            if sandbox.state == "running":
                self._extend(sandbox, timeout)
                if sandbox.crashed:
                    raise not_found(sandbox_id)
                return sandbox, False
            snapshots.check_resume(sandbox, body)
            async with self.admission.start(self.settings, resume=True):
                await take_time()
                await self._resume(sandbox, timeout, reboot=body.get("memory") is False)
            return sandbox, True

    def _not_being_killed(self, sandbox_id: str) -> Sandbox:
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is not None and sandbox.state == "killing":
            raise ApiError(409, f'Sandbox "{sandbox_id}" is being killed')
        return self.get(sandbox_id)

    def _extend(self, sandbox: Sandbox, timeout: float) -> None:
        end = min(now() + timedelta(seconds=timeout), self._latest_end(sandbox))
        if end > sandbox.end_at:
            sandbox.end_at = end
            self._schedule_expiry(sandbox)

    def _latest_end(self, sandbox: Sandbox) -> Any:
        return sandbox.started_at + timedelta(seconds=self.settings.max_lifetime_seconds)

    async def _resume(self, sandbox: Sandbox, timeout: float, *, reboot: bool = False) -> None:
        with self.admission.reserve(self.settings):
            try:
                if sandbox.runtime is None:
                    sandbox.runtime = await self._runtimes.take(sandbox.build)
                    crashes.watch(sandbox)
                elif reboot or sandbox.pause_mode == "filesystem":
                    await sandbox.runtime.process.kill()
                    sandbox.runtime = await self._runtimes.boot(sandbox.runtime)
                    await self._volumes.mount(sandbox.runtime.process, sandbox.volume_mounts)
                    sandbox.environment = {}
                    sandbox.wedged = sandbox.unresponsive_at_pause = False
                    crashes.watch(sandbox)
                else:
                    sandbox.runtime.table.thaw()
                    await sandbox.runtime.process.thaw()
            except (SandboxHostError, TimeoutError) as error:
                _log.exception("sandbox %s did not resume", sandbox.id)
                raise ApiError(500, f"Failed to resume sandbox: {error}") from error
        sandbox.state = "running"
        sandbox.paused_at = None
        sandbox.pause_mode = "full"
        sandbox.resumes += 1
        sandbox.start_billing()
        self._became_active()
        sandbox.end_at = min(now() + timedelta(seconds=timeout), self._latest_end(sandbox))
        self._schedule_expiry(sandbox)
        self._count(sandbox, "resumed")

    async def pause(
        self, sandbox_id: str, body: dict[str, Any], take_time: TakeTime, damage: str | None = None
    ) -> None:
        """Pause. `damage`: a fault that drops the record or rolls it back. Raises ApiError 404, 409, 500."""
        sandbox = self.get(sandbox_id)
        was_pausing = sandbox.state == "pausing"
        async with sandbox.lock:
            if not sandbox.exists:
                raise not_found(sandbox_id)
            if sandbox.state == "paused":
                if was_pausing:
                    return
                raise ApiError(409, f'Error pausing sandbox - sandbox "{sandbox_id}" is already paused')
            if not self._templates.has(sandbox.build.template_id):
                # E2B cannot record the pause of a sandbox whose template was deleted, and kills the sandbox.
                await self._end(sandbox, "base template missing")
                raise ApiError(500, "Error pausing sandbox")
            if sandbox.crashed or damage is not None:
                await self._lose(sandbox, damage or "its processes ended")
                raise ApiError(500, "Error pausing sandbox")
            snapshots.check_pause(sandbox, body)
            try:
                await self._pause(sandbox, full=body.get("memory") is not False, take_time=take_time)
            except asyncio.CancelledError:
                # The client has left, and the cancelled pause loses the machine.
                await asyncio.shield(self._lose(sandbox, "pause_cancelled"))
                raise

    async def _lose(self, sandbox: Sandbox, reason: str) -> None:
        """Handle a lost machine: the newest snapshot is left, or nothing."""
        self._cancel_expiry(sandbox)
        if reason != "pause_dropped" and await snapshots.go_back(sandbox):
            self._became_inactive()
            self._count(sandbox, "rolled_back")
            return
        await self._end(sandbox, "lost while pausing" if reason.startswith("pause_") else reason)

    async def _pause(self, sandbox: Sandbox, *, full: bool, take_time: TakeTime = no_time) -> None:
        assert sandbox.runtime is not None
        runtime = sandbox.runtime
        sandbox.state = "pausing"
        self._cancel_expiry(sandbox)
        sandbox.pause_mode = "full" if full else "filesystem"
        try:
            if full:
                runtime.table.freeze()
                await runtime.process.freeze(
                    sever_connections=self.settings.sever_connections, silently=self.settings.cut_silently
                )
            else:
                await runtime.process.kill()
            await take_time()
            if self.settings.keep_snapshots:
                await snapshots.keep(sandbox)
        except (SandboxHostError, TimeoutError) as error:
            sandbox.state, sandbox.crashed = "running", not runtime.process.alive
            self._schedule_expiry(sandbox)
            raise ApiError(500, f"Error pausing sandbox: {error}") from error
        sandbox.drop_connections(silently=self.settings.cut_silently)
        sandbox.stop_billing()
        sandbox.state = "paused"
        sandbox.unresponsive_at_pause = sandbox.wedged
        sandbox.paused_at = sandbox.end_at = sandbox.saved_at = now()
        self._became_inactive()
        self._count(sandbox, "paused")

    async def kill(self, sandbox_id: str, reason: str = "request") -> None:
        """Kill a running or paused sandbox. Raises ApiError 404."""
        sandbox = self.get(sandbox_id)
        async with sandbox.lock:
            if not sandbox.exists:
                raise not_found(sandbox_id)
            await self._end(sandbox, reason)

    async def vanish(self, sandbox: Sandbox, reason: str = "vanished") -> None:
        """Lose a sandbox, as if its machine had failed."""
        async with sandbox.lock:
            if sandbox.exists:
                await self._end(sandbox, reason)

    async def _end(self, sandbox: Sandbox, reason: str) -> None:
        was_active = sandbox.state in ("running", "pausing")
        sandbox.state = "killing"
        self._cancel_expiry(sandbox)
        sandbox.stop_billing()
        runtime, sandbox.runtime = sandbox.runtime, None
        try:
            if runtime is not None:
                await self._runtimes.destroy(runtime)
        finally:
            sandbox.drop_connections()
            sandbox.state = "killed"
            sandbox.killed_at = now()
            sandbox.kill_reason = reason
            if was_active:
                self._became_inactive()
            self._count(sandbox, "killed")

    async def set_timeout(self, sandbox_id: str, seconds: int) -> None:
        """Start a new countdown, even a shorter one. Lifetimes are capped. Raises ApiError 400, 404, 409."""
        sandbox = self.get(sandbox_id)
        if sandbox.state == "pausing":
            raise ApiError(409, f'Sandbox "{sandbox_id}" is transitioning')
        if sandbox.state != "running":
            raise not_found(sandbox_id)
        latest = self._latest_end(sandbox)
        if now() >= latest:
            raise ApiError(400, "Max instance length exceeded")
        sandbox.end_at = min(now() + timedelta(seconds=max(0, seconds)), latest)
        self._schedule_expiry(sandbox)
        if sandbox.crashed:
            # Even so, each such call makes the record live longer.
            raise not_found(sandbox_id)

    async def set_network(self, sandbox_id: str, network: dict[str, Any]) -> None:
        """Replace the network policy, which the egress proxy enforces. Raises ApiError 400, 404."""
        sandbox = self.get(sandbox_id)
        if sandbox.state != "running":
            raise not_found(sandbox_id)
        check_network(network)
        # The rules for egress are replaced as a whole; who may reach the sandbox stays as it was.
        kept = {key: value for key, value in sandbox.network.items() if key == "allowPublicTraffic"}
        sandbox.network = {**network, **kept}

    def expire(self, sandbox: Sandbox) -> None:
        """End the countdown of a running sandbox now."""
        sandbox.end_at = now()
        self._schedule_expiry(sandbox)

    def _cancel_expiry(self, sandbox: Sandbox) -> None:
        if sandbox.expiry is not None:
            sandbox.expiry.cancel()
            sandbox.expiry = None

    def _schedule_expiry(self, sandbox: Sandbox) -> None:
        self._cancel_expiry(sandbox)
        left = max(0.0, (sandbox.end_at - now()).total_seconds())
        loop = asyncio.get_running_loop()
        sandbox.expiry = loop.call_later(left, lambda: self._spawn(self._expire(sandbox)))

    async def _expire(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            if sandbox.state != "running":
                return
            if now() < sandbox.end_at:
                self._schedule_expiry(sandbox)
                return
            self._ledger.count(f"timeout_{sandbox.on_timeout}")
            if sandbox.crashed:
                await self._lose(sandbox, "its processes ended")
            elif sandbox.on_timeout == "pause":
                await self._pause(sandbox, full=sandbox.full_pause_on_timeout)
            else:
                await self._end(sandbox, "timeout")

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, sandbox: Sandbox, event: str) -> None:
        self._ledger.count(event)
        sandbox.note(event)

    def _became_active(self) -> None:
        self.admission.active += 1
        self._ledger.observe_concurrency(self.admission.concurrent)

    def _became_inactive(self) -> None:
        self.admission.active -= 1

    async def for_traffic(
        self, sandbox_id: str, token: str | None, traffic_token: str | None, port: int
    ) -> Sandbox:
        """Return the running sandbox for this traffic, resumed if its policy says so. Raises ProxyError."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.exists:
            raise ProxyError(502, sandbox_id, "The sandbox was not found")
        snapshots.check_traffic(sandbox, port)
        if sandbox.running:
            return sandbox
        try:
            async with asyncio.timeout(self.settings.transition_wait_seconds), sandbox.lock:
                if sandbox.running:
                    return sandbox
                if sandbox.state != "paused" or not sandbox.auto_resume or sandbox.pause_mode == "filesystem":
                    raise ProxyError(502, sandbox_id, "The sandbox was not found")
                allowed = token == access_token(sandbox_id) if port == ENVD_PORT else True
                if not allowed or (
                    sandbox.traffic_token and port != ENVD_PORT and traffic_token != sandbox.traffic_token
                ):
                    raise ProxyError(403, sandbox_id, "You don't have permission to resume this sandbox")
                wanted = max(self.settings.auto_resume_min_timeout_seconds, sandbox.timeout_seconds)
                await self._resume(sandbox, min(wanted, self.settings.max_timeout_seconds))
                self._ledger.count("auto_resumed")
                return sandbox
        except TimeoutError as error:
            raise ProxyError(
                409, sandbox_id, "The sandbox is still transitioning. Try again in a moment."
            ) from error
        except ApiError as error:
            raise ProxyError(
                error.status if error.status == 429 else 502, sandbox_id, error.message
            ) from error

    async def close(self) -> None:
        """Cancel all timers and transitions."""
        for sandbox in self.sandboxes.values():
            self._cancel_expiry(sandbox)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
