"""Starts workers in sandboxes and follows their events.

The sandbox's supervisor runs at most one worker. A small command in the sandbox (`supervisorctl.py`) talks to
it and writes one JSON object per line to standard output. One stream covers start and exit. The stream may be
interrupted at any time: the worker continues, and `watch` resumes the stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import e2b
from managed_session_api.conditions import Reason
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import EPOCH_VARIABLE, RESUMED_VARIABLE, RefusalCode, StartRequest

from managed_session_operator.clients.e2b.handle import paths_of, sdk_sandbox
from managed_session_operator.clients.e2b.sandbox_commands import free_reserve, not_shared, run_to_end
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.e2b.stream_pulse import Pulse, SilentStreamError, ended_or_silent
from managed_session_operator.clients.e2b.user_answers import awaited_answers
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.worker_run import (
    CallReport,
    ExitRecord,
    Refusal,
    SupervisorRefusedError,
    WorkerRun,
)

logger = logging.getLogger(__name__)

SUPERVISORCTL = Paths().exec_supervisorctl
"""The command in a sandbox of one session."""
_TAKE_REQUEST = (
    'i=0; until [ "$(stat -c %s {file} 2>/dev/null)" = {size} ]; do i=$((i+1)); [ $i -lt 1000 ] || exit 3; '
    "sleep 0.01; done; mv {file} {request} || exit 3;"
)
"""Waits for the whole file, for more than ten seconds, and gives it the name that the supervisor knows."""
_USER = "root"
_CLOSE_SECONDS = 0.5
_LEAVE_SECONDS = 90.0
"""More than the processes of a session may take to end. What is cut off is continued by the next attempt."""
_LONGEST_LINE = 65_536
_LONGEST_COMPLAINT = 200
"""Maximum number of characters kept of what a sandbox writes, which may be of any length."""


@dataclass
class _Stream:
    """An open stream: the run that it reports on, and the state of reading it."""

    run: WorkerRun
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pulse: Pulse = field(default_factory=Pulse)
    complaint: str = ""
    """End of the command's standard error."""

    def complain(self, text: str) -> None:
        """Keep the end of standard error, for the message about the stream's end."""
        self.complaint = (self.complaint + text)[-_LONGEST_COMPLAINT:]


class WorkerStreams:
    """The worker streams of this process, one per resource.

    Args:
        sandboxes: fences calls and translates the SDK's errors.
        on_change: called with the resource's name when its run has changed.
        accept_timeout: seconds within which the supervisor must answer.
        on_call: called with the resource's name, its run and the report when a tool call has ended.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        *,
        on_change: Callable[[str], None],
        accept_timeout: float,
        on_call: Callable[[str, WorkerRun, CallReport], None] | None = None,
    ) -> None:
        self._sandboxes = sandboxes
        self._on_change = on_change
        self._accept_timeout = accept_timeout
        self._on_call = on_call
        self._runs: dict[str, WorkerRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def get(self, name: str, claim: str | None) -> WorkerRun | None:
        """Return the run of the resource `name`, if it belongs to this claim."""
        run = self._runs.get(name)
        return run if run is not None and run.claim == claim else None

    def any(self, name: str) -> WorkerRun | None:
        """Return the run of the resource `name`, whatever its claim."""
        return self._runs.get(name)

    async def start(self, name: str, sandbox: SandboxHandle, request: StartRequest) -> WorkerRun:
        """Start the worker of `request.claim`, unless it has already started.

        The request contains the session token. It is passed in a file within a folder that only root may
        enter, and the supervisor deletes it at once. It never appears in a command line or an environment.
        The command waits for the file, so that both calls are sent at once and cost one round trip.

        Raises:
            SupervisorRefusedError: the supervisor refused.
            OperationError: reason WorkerStartFailed if there is no answer, or the sandbox is unreachable.
        """
        try:
            return await self._hand_over(name, sandbox, request)
        except OperationError as error:
            if error.reason is not Reason.SANDBOX_DISK_FULL:
                raise
        await free_reserve(self._sandboxes, sandbox)
        return await self._hand_over(name, sandbox, request)

    async def _hand_over(self, name: str, sandbox: SandboxHandle, request: StartRequest) -> WorkerRun:
        """Write the request's file and run the command that reads it, at the same time."""
        claim, line, paths = request.claim, request.to_line(), paths_of(sandbox)
        # A name of its own, so that a command that an earlier try has left waits in vain.
        file = paths.request(f"{claim}.{uuid.uuid4().hex}")
        take = _TAKE_REQUEST.format(
            file=shlex.quote(file), size=len(line.encode()), request=shlex.quote(paths.request(claim))
        )
        writing = asyncio.create_task(self._write(sandbox, file, line))
        attaching = asyncio.create_task(
            self._attach(name, sandbox, f"start {shlex.quote(claim)}", claim, take)
        )
        try:
            await writing
        except BaseException:
            await _end(writing, attaching)
            await self.forget(name)
            raise
        try:
            return await attaching
        finally:
            await _end(attaching)

    async def _write(self, sandbox: SandboxHandle, file: str, line: str) -> None:
        async with self._sandboxes.data_plane("worker request"):
            await sdk_sandbox(sandbox).files.write(file, line, user=_USER)

    async def watch(
        self, name: str, sandbox: SandboxHandle, claim: str, epoch: int, *, resumed: bool = False
    ) -> WorkerRun:
        """Resume the events of a worker that was started earlier. From now on, lower epochs are rejected.

        The epoch is an environment variable, so that sandboxes of earlier templates accept it: after an
        upgrade, the operator meets workers that it did not start. `resumed` is one too. It tells the worker
        that its connections are dead, because the pause may have been too short to notice.
        """
        resumed_variable = f" {RESUMED_VARIABLE}=yes" if resumed else ""
        variables = f"export {EPOCH_VARIABLE}={epoch}{resumed_variable};"
        return await self._attach(name, sandbox, f"watch {shlex.quote(claim)}", claim, variables)

    async def _attach(
        self, name: str, sandbox: SandboxHandle, arguments: str, claim: str, variables: str = ""
    ) -> WorkerRun:
        await self.forget(name)
        run = WorkerRun(claim, sandbox.sandbox_id)
        stream = _Stream(run)
        lines = _Lines(lambda event: self._note(name, stream, event))
        async with self._sandboxes.data_plane(f"worker {arguments.split(maxsplit=1)[0]}"):
            handle = await sdk_sandbox(sandbox).commands.run(
                f"{variables} {paths_of(sandbox).exec_supervisorctl} {arguments}".lstrip(),
                background=True,
                timeout=0,
                user=_USER,
                on_stdout=lines.feed,
                on_stderr=stream.complain,
                retain_output=False,
            )
        self._runs[name] = run
        self._tasks[name] = asyncio.create_task(self._follow(name, stream, handle), name=f"worker-{name}")
        try:
            async with asyncio.timeout(self._accept_timeout):
                while not run.accepted and run.live:
                    await stream.changed.wait()
                    stream.changed.clear()
        except TimeoutError:
            await self.forget(name)
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.WORKER_START_FAILED,
                f"The sandbox's supervisor did not answer within {self._accept_timeout:.0f} s.",
                outcome_known=False,
            ) from None
        if run.refused is not None:
            raise SupervisorRefusedError(run.refused)
        if (error := not_shared(sandbox, stream.complaint)) is not None:
            raise error
        if run.cut is not None:
            raise OperationError(ErrorKind.TRANSIENT, Reason.WORKER_START_FAILED, run.cut)
        return run

    async def _follow(self, name: str, stream: _Stream, handle: Any) -> None:
        run = stream.run
        cut: str
        try:
            result = await ended_or_silent(handle, stream.pulse)
            cut = f"The supervisor's stream ended before the worker did (exit code {result.exit_code})."
        except asyncio.CancelledError:
            await asyncio.shield(_disconnect(handle))
            raise
        except SilentStreamError as error:
            cut = str(error)
            await _disconnect(handle)
        except e2b.CommandExitException as error:
            cut = f"supervisorctl.py exited with code {error.exit_code}: {stream.complaint.strip()}"
        except Exception as error:  # noqa: BLE001 - the SDK raises plain Exception for interrupted streams
            cut = f"The stream from the sandbox was interrupted ({type(error).__name__})."
        if run.live:
            run.cut = cut
            logger.info(
                "worker stream interrupted", extra={"resource": name, "claim": run.claim, "cause": cut}
            )
            self._changed(name, stream)

    def _note(self, name: str, stream: _Stream, event: dict[str, Any]) -> None:
        run = stream.run
        stream.pulse.record(event)
        match event.get("event"):
            case "accepted":
                run.accepted = True
                run.call_deaths = event.get("callDeaths") or {}
                run.awaiting = awaited_answers(event.get("awaiting"))
            case "awaiting":
                run.awaiting = awaited_answers(event.get("calls"))
            case "call":
                self._note_call(name, run, CallReport.model_validate(event["call"]))
                return
            case "heartbeat":
                run.accepted = run.heartbeat = True
            case "late":
                run.accepted = run.late = True
            case "exited":
                run.accepted = True
                run.record = ExitRecord.model_validate(event["record"])
                run.late = run.record.late_since is not None
                run.heartbeat = run.heartbeat or run.record.first_heartbeat_at is not None
            case "refused":
                run.refused = Refusal.of(event)
            case _:
                return
        self._changed(name, stream)

    def _note_call(self, name: str, run: WorkerRun, call: CallReport) -> None:
        if run.note_call(call) and self._on_call is not None:
            self._on_call(name, run, call)

    def _changed(self, name: str, stream: _Stream) -> None:
        stream.changed.set()
        if self._runs.get(name) is stream.run:
            self._on_change(name)

    async def stop(self, sandbox: SandboxHandle, claim: str, epoch: int) -> None:
        """Kill the claim's worker and all its processes. The worker may already be gone."""
        async with self._sandboxes.data_plane("worker stop"):
            try:
                await sdk_sandbox(sandbox).commands.run(
                    f"{paths_of(sandbox).exec_supervisorctl} stop {shlex.quote(claim)} {epoch}", user=_USER
                )
            except e2b.CommandExitException as error:
                if RefusalCode.UNKNOWN_CLAIM not in refusal_codes(error.stdout):
                    raise

    async def leave(self, sandbox: SandboxHandle) -> None:
        """End the session in a shared sandbox: its supervisor, all that it has started, and its folders.

        Other sessions are not touched. A session that the sandbox does not have is left already.

        Raises:
            OperationError: something may be left.
        """
        command = f"{paths_of(sandbox).exec_supervisorctl} leave"
        result = await run_to_end(self._sandboxes, sandbox, "leave", command, _LEAVE_SECONDS)
        if result.exit_code and not_shared(sandbox, result.stderr) is None:
            complaint = (result.stdout + result.stderr).strip()[-_LONGEST_COMPLAINT:]
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.SANDBOX_UNREACHABLE,
                "The session could not be removed from its shared sandbox "
                f"({complaint or 'no reason given'}).",
            )

    async def settle(self, name: str) -> None:
        """Let the stream of an ended worker close by itself, so that a pause does not interrupt it."""
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.wait({task}, timeout=_CLOSE_SECONDS)

    async def forget(self, name: str) -> None:
        """Close the resource's stream. Its worker continues."""
        self._runs.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Close all streams. The workers continue."""
        await asyncio.gather(*(self.forget(name) for name in list(self._tasks)))


def refusal_codes(output: str) -> set[RefusalCode | None]:
    """Return the codes of the refusals in the output of `supervisorctl.py`."""
    found: list[Refusal] = []

    def note(event: Any) -> None:
        if isinstance(event, dict) and event.get("event") == "refused":
            found.append(Refusal.of(event))

    _Lines(note).feed(f"{output}\n")
    return {refusal.code for refusal in found}


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(handle: Any) -> None:
    try:
        async with asyncio.timeout(5):
            await handle.disconnect()
    except Exception as error:  # noqa: BLE001 - the stream is abandoned either way
        logger.debug("closing a stream failed", extra={"cause": type(error).__name__})


class _Lines:
    """Splits standard output into JSON lines. Invalid or overlong lines are logged and skipped."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._rest = ""

    def feed(self, chunk: str) -> None:
        *lines, rest = (self._rest + chunk).split("\n")
        self._rest = rest[: _LONGEST_LINE + 1]
        for line in lines:
            if line.strip():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            if len(line) > _LONGEST_LINE:
                raise ValueError("too long")
            self._on_event(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            logger.warning("ignoring an invalid line from supervisorctl.py", extra={"length": len(line)})
