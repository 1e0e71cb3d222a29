"""The worker streams of one operator process, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.session_handle import session_key_of
from managed_session_operator.domain.worker_run import ExitRecord, Refusal, SupervisorRefusedError, WorkerRun
from managed_session_worker.protocol import RefusalCode, StartRequest

from .in_memory_ports import Link
from .world import BusyError, NotRunningError, StaleError

T = TypeVar("T")


@dataclass
class InMemoryStreams:
    """The streams from the supervisors of the world's sandboxes to one process."""

    link: Link
    runs: dict[str, WorkerRun] = field(default_factory=dict)

    def get(self, name: str, claim: str | None) -> WorkerRun | None:
        """Return the run, if it belongs to this claim."""
        run = self.runs.get(name)
        return run if run is not None and run.claim == claim else None

    def any(self, name: str) -> WorkerRun | None:
        """Return the run."""
        return self.runs.get(name)

    async def start(self, name: str, sandbox: SandboxHandle, request: StartRequest) -> WorkerRun:
        """Start the claim's worker."""
        world, claim = self.link.world, request.claim
        assert request.work_secret is not None
        await self._ask(
            sandbox,
            lambda: world.start(sandbox.sandbox_id, claim, request.epoch),
            name,
            Reason.WORKER_START_FAILED,
        )
        return self._listen(name, sandbox, claim)

    async def watch(
        self, name: str, sandbox: SandboxHandle, claim: str, epoch: int, *, resumed: bool = False
    ) -> WorkerRun:
        """Listen to the worker's events."""
        world = self.link.world
        assert isinstance(resumed, bool)
        known = await self._ask(
            sandbox, lambda: world.watch(sandbox.sandbox_id, claim, epoch), name, Reason.SANDBOX_UNREACHABLE
        )
        if known is None:
            raise SupervisorRefusedError(Refusal(RefusalCode.UNKNOWN_CLAIM, "unknown"))
        return self._listen(name, sandbox, claim)

    async def stop(self, sandbox: SandboxHandle, claim: str, epoch: int) -> None:
        """Kill the worker."""
        world = self.link.world
        await self._ask(
            sandbox,
            lambda: world.stop_worker(sandbox.sandbox_id, claim, epoch),
            None,
            Reason.SANDBOX_UNREACHABLE,
        )

    async def leave(self, sandbox: SandboxHandle) -> None:
        """End the session in its shared sandbox, of which this world knows nothing."""
        assert session_key_of(sandbox) is not None
        await self._ask(
            sandbox, lambda: self.link.world.reached(sandbox.sandbox_id), None, Reason.SANDBOX_UNREACHABLE
        )

    async def settle(self, name: str) -> None:
        """Do nothing, because streams close at once."""

    async def forget(self, name: str) -> None:
        """Stop listening."""
        self.runs.pop(name, None)

    async def close(self) -> None:
        """Stop listening to all."""
        self.runs.clear()

    async def _ask(
        self, sandbox: SandboxHandle, act: Callable[[], T], listener: str | None, reason: Reason
    ) -> T:
        """Send a command to the supervisor. A new listener first stops the old one."""
        if listener is not None:
            await self.forget(listener)

        def translated() -> T:
            try:
                return act()
            except StaleError as error:
                code = RefusalCode(str(error))
                raise SupervisorRefusedError(Refusal(code, "stale")) from None
            except BusyError:
                raise SupervisorRefusedError(Refusal(RefusalCode.BUSY, "busy")) from None
            except NotRunningError:
                raise self._no_answer(sandbox) from None

        return await self.link.effect(reason, translated)

    def _no_answer(self, sandbox: SandboxHandle) -> OperationError:
        if self.link.world.get(sandbox.sandbox_id) is None:
            return OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "gone")
        return OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, "paused", outcome_known=False)

    def _listen(self, name: str, sandbox: SandboxHandle, claim: str) -> WorkerRun:
        run = self.runs[name] = WorkerRun(claim, sandbox.sandbox_id, accepted=True)
        self.hear()
        return run

    def hear(self) -> None:
        """Receive the events of the open streams."""
        for run in self.runs.values():
            sandbox = self.link.world.get(run.sandbox_id)
            if not run.live:
                continue
            if sandbox is None or not sandbox.running:
                run.cut = "cut"
                continue
            run.heartbeat = run.heartbeat or run.claim in sandbox.heartbeats
            if run.claim in sandbox.heartbeats and run.claim == sandbox.worker:
                waits = self.link.world.awaiting
                (sandbox.waits.add if waits else sandbox.waits.discard)(run.claim)
                run.awaiting = ("user.tool_confirmation for bash (sevt_1)",) if waits else ()
            late = sandbox.late.get(run.claim)
            run.late = late is not None
            if run.claim in sandbox.ends:
                record = {"claim": run.claim, "reason": sandbox.ends[run.claim]}
                if late is not None:
                    record["lateSince"] = to_wire(late)
                run.record = ExitRecord.model_validate(record)
