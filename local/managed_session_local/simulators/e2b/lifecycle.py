"""What happens to sandboxes: create, connect, pause, kill, time-outs, automatic resume."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from managed_session_local.simulators.e2b.admission import Admission
from managed_session_local.simulators.e2b.errors import ApiError, ProxyError
from managed_session_local.simulators.e2b.host import SandboxHostError
from managed_session_local.simulators.e2b.ledger import Ledger, now
from managed_session_local.simulators.e2b.network import ENVD_PORT, check_network
from managed_session_local.simulators.e2b.sandbox import Sandbox, access_token
from managed_session_local.simulators.e2b.settings import Settings
from managed_session_local.simulators.e2b.slots import Slots
from managed_session_local.simulators.e2b.templates import Templates, identifier

_log = logging.getLogger(__name__)


def not_found(sandbox_id: str) -> ApiError:
    """The control plane's answer for a sandbox that is not there."""
    return ApiError(404, f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")


class Lifecycle:
    """All sandboxes ever, and the transitions between their states."""

    def __init__(self, settings: Settings, ledger: Ledger, templates: Templates, slots: Slots) -> None:
        self.settings = settings
        self.admission = Admission(ledger)
        self.sandboxes: dict[str, Sandbox] = {}
        self._ledger = ledger
        self._templates = templates
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, sandbox_id: str) -> Sandbox:
        """A sandbox that the API knows. Raises ApiError 404."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.exists:
            raise not_found(sandbox_id)
        return sandbox

    async def create(
        self, body: dict[str, Any], idempotency_key: str | None, default_timeout: int
    ) -> Sandbox:
        """Start a sandbox. Raises ApiError 400, 404, 429, 500."""
        policy = self._policy(body, default_timeout)
        build, alias = self._templates.resolve(str(body.get("templateID") or ""))
        with self.admission.reserve(self.settings):
            try:
                slot = await self._slots.take(build)
            except (SandboxHostError, TimeoutError) as error:
                _log.exception("sandbox of template %s did not start", build.template_id)
                raise ApiError(
                    500, f"Failed to create sandbox: {error}", error_code="sandbox_create_failed"
                ) from error
        sandbox = Sandbox(
            id="i" + identifier(),
            alias=alias,
            build=build,
            slot=slot,
            end_at=now()
            + timedelta(seconds=min(policy["timeout_seconds"], self.settings.max_lifetime_seconds)),
            idempotency_key=idempotency_key,
            **policy,
        )
        self.sandboxes[sandbox.id] = sandbox
        self._became_active()
        self._watch_process(sandbox)
        self._schedule_expiry(sandbox)
        self._count(sandbox, "created")
        return sandbox

    def add_paused(self, template: str, metadata: dict[str, str]) -> Sandbox:
        """A sandbox that was paused long ago, at no cost: it starts from its template when it is resumed.

        Raises ApiError 404.
        """
        build, alias = self._templates.resolve(template)
        sandbox = Sandbox(
            id="i" + identifier(),
            alias=alias,
            build=build,
            slot=None,
            timeout_seconds=self.settings.default_timeout_seconds,
            end_at=now(),
            metadata=metadata,
            on_timeout="pause",
            state="paused",
            paused_at=now(),
            billing=False,
        )
        self.sandboxes[sandbox.id] = sandbox
        return sandbox

    def _policy(self, body: dict[str, Any], default_timeout: int) -> dict[str, Any]:
        timeout = self._checked_timeout(body.get("timeout"), default_timeout)
        auto_pause = bool(body.get("autoPause"))
        full = body.get("autoPauseMemory") is not False
        auto_resume = bool((body.get("autoResume") or {}).get("enabled"))
        if auto_resume and not full:
            raise ApiError(400, "Auto-resume is not supported with filesystem-only auto-pause")
        network = dict(body.get("network") or {})
        check_network(network)
        if body.get("volumeMounts"):
            raise ApiError(400, "Volume mounts are not enabled.")
        metadata = body.get("metadata") or {}
        environment = body.get("envVars") or {}
        for what, mapping in (("metadata", metadata), ("envVars", environment)):
            if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
                raise ApiError(400, f"{what} must be an object of strings")
        return {
            "timeout_seconds": timeout,
            "metadata": dict(metadata),
            "environment": dict(environment),
            "network": network,
            "allow_internet_access": body.get("allow_internet_access"),
            "on_timeout": "pause" if auto_pause else "kill",
            "full_pause_on_timeout": full,
            "auto_resume": auto_resume,
            "traffic_token": identifier(32) if network.get("allowPublicTraffic") is False else None,
        }

    def _checked_timeout(self, wanted: object, default: float) -> float:
        if wanted is None:
            return default
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise ApiError(400, "Timeout must be a number of seconds of at least 1")
        if wanted > self.settings.max_timeout_seconds:
            hours = self.settings.max_timeout_seconds / 3600
            raise ApiError(400, f"Timeout cannot be greater than {hours:g} hours")
        return wanted

    async def connect(self, sandbox_id: str, body: dict[str, Any]) -> tuple[Sandbox, bool]:
        """Resume, or extend what runs; (sandbox, resumed). Raises ApiError 400, 404, 409, 429, 500."""
        sandbox = self._not_being_killed(sandbox_id)
        timeout = self._checked_timeout(body.get("timeout"), self.settings.default_timeout_seconds)
        async with sandbox.lock:
            if not sandbox.exists:
                raise not_found(sandbox_id)
            if sandbox.state == "running":
                self._extend(sandbox, timeout)
                return sandbox, False
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
                if sandbox.slot is None:
                    sandbox.slot = await self._slots.take(sandbox.build)
                    self._watch_process(sandbox)
                elif reboot or sandbox.pause_mode == "filesystem":
                    await sandbox.slot.process.kill()
                    sandbox.slot = await self._slots.boot(sandbox.slot)
                    sandbox.environment = {}
                    self._watch_process(sandbox)
                else:
                    sandbox.slot.table.thaw()
                    await sandbox.slot.process.thaw()
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

    async def pause(self, sandbox_id: str, body: dict[str, Any], damage: str | None = None) -> None:
        """Pause. `damage` is a fault: the record is dropped or rolled back. Raises ApiError 404, 409, 500."""
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
                # E2B kills a sandbox whose template was deleted when it cannot record the pause.
                await self._end(sandbox, "base template missing")
                raise ApiError(500, "Error pausing sandbox")
            await self._pause(sandbox, full=body.get("memory") is not False)
            if damage is None:
                return
        await self._damage(sandbox, damage)
        raise ApiError(500, "Error pausing sandbox")

    async def _damage(self, sandbox: Sandbox, damage: str) -> None:
        if damage == "pause_rolled_back" and sandbox.previous_start is not None:
            sandbox.started_at = sandbox.previous_start
            sandbox.pause_mode = "filesystem"
            if sandbox.slot is not None:
                await sandbox.slot.process.kill()
            return
        await self.vanish(sandbox, "lost while pausing")

    async def _pause(self, sandbox: Sandbox, *, full: bool) -> None:
        assert sandbox.slot is not None
        slot = sandbox.slot
        sandbox.state = "pausing"
        self._cancel_expiry(sandbox)
        sandbox.pause_mode = "full" if full else "filesystem"
        try:
            if full:
                slot.table.freeze()
                await slot.process.freeze(sever_connections=self.settings.sever_connections)
            else:
                await slot.process.kill()
        except (SandboxHostError, TimeoutError) as error:
            sandbox.state = "running"
            self._schedule_expiry(sandbox)
            raise ApiError(500, f"Error pausing sandbox: {error}") from error
        sandbox.drop_connections()
        sandbox.stop_billing()
        sandbox.state = "paused"
        sandbox.paused_at = sandbox.end_at = now()
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
        """Lose a sandbox as if the machine below it had gone."""
        async with sandbox.lock:
            if sandbox.exists:
                await self._end(sandbox, reason)

    async def _end(self, sandbox: Sandbox, reason: str) -> None:
        was_active = sandbox.state in ("running", "pausing")
        sandbox.state = "killing"
        self._cancel_expiry(sandbox)
        sandbox.stop_billing()
        slot, sandbox.slot = sandbox.slot, None
        try:
            if slot is not None:
                await self._slots.destroy(slot)
        finally:
            sandbox.drop_connections()
            sandbox.state = "killed"
            sandbox.killed_at = now()
            sandbox.kill_reason = reason
            if was_active:
                self._became_inactive()
            self._count(sandbox, "killed")

    def _watch_process(self, sandbox: Sandbox) -> None:
        slot = sandbox.slot
        assert slot is not None
        process = slot.process
        table_gone = process.on_gone

        def gone() -> None:
            table_gone()
            if sandbox.slot is slot and sandbox.state == "running":
                self._spawn(self.vanish(sandbox, "its processes ended"))

        process.on_gone = gone

    async def set_timeout(self, sandbox_id: str, seconds: int) -> None:
        """New countdown from now, shorter too; the lifetime is capped. Raises ApiError 400, 404, 409."""
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

    async def set_network(self, sandbox_id: str, network: dict[str, Any]) -> None:
        """Replace the network policy (recorded, not enforced). Raises ApiError 400, 404."""
        sandbox = self.get(sandbox_id)
        if sandbox.state != "running":
            raise not_found(sandbox_id)
        check_network(network)
        sandbox.network = network

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
            if sandbox.on_timeout == "pause":
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
        """The running sandbox that traffic is for, resumed if its policy says so. Raises ProxyError."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.exists:
            raise ProxyError(502, sandbox_id, "The sandbox was not found")
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
