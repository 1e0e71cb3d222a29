"""Workers in sandboxes: their start, and the stream of events that tells how they fare.

The sandbox's supervisor keeps at most one worker and is asked through a small command in the sandbox
(`attach.py`), whose standard output is a JSON object a line. One stream serves start and exit. The stream
may be cut at any time: the worker goes on, and `watch` takes up the events again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import e2b
from managed_session_api.conditions import Reason
from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.alias_generators import to_camel

from managed_session_operator.clients.sandboxes import Sandboxes
from managed_session_operator.failures import Failure, Kind

logger = logging.getLogger(__name__)

ROOT = "/opt/anthropic-managed-agents"
WORKDIR = "/mnt/session"
_ATTACH = f"python3 -I -S {ROOT}/lib/managed_session_worker/attach.py"
_USER = "root"
_CLOSE_SECONDS = 0.5
_LONGEST_LINE = 65_536
_LONGEST_COMPLAINT = 200
"""Characters that are kept of what a sandbox writes, which is not to be trusted to be short."""


class StartRequest(BaseModel):
    """What the supervisor is told about a claim; JSON names are camelCase with ID and URL in capitals."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    claim: str
    session_id: str
    work_id: str
    environment_id: str
    work_secret: SecretStr | None
    environment_key: SecretStr | None
    base_url: str
    max_idle_seconds: int
    attach_timeout_seconds: int
    log_level: str

    def to_line(self) -> str:
        """The request as the supervisor reads it. Holds the session token: for the inbox file only."""
        return json.dumps(
            {
                "command": "start",
                "epoch": self.epoch,
                "claim": self.claim,
                "sessionID": self.session_id,
                "workID": self.work_id,
                "environmentID": self.environment_id,
                "workSecret": self.work_secret.get_secret_value() if self.work_secret else None,
                "environmentKey": self.environment_key.get_secret_value() if self.environment_key else None,
                "baseURL": self.base_url,
                "maxIdleSeconds": self.max_idle_seconds,
                "attachTimeoutSeconds": self.attach_timeout_seconds,
                "logLevel": self.log_level,
            }
        )


class ExitRecord(BaseModel):
    """What the supervisor recorded about a worker that ended."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    claim: str
    reason: str
    message: str | None = None
    tool_calls: int = 0
    tool_errors: int = 0
    results_refused: int = 0
    first_heartbeat_at: str | None = None


@dataclass
class WorkerRun:
    """What this process knows of the worker of one claim."""

    claim: str
    sandbox_id: str
    accepted: bool = False
    heartbeat: bool = False
    record: ExitRecord | None = None
    refused: str | None = None
    cut: str | None = None
    """Why the stream ended before the worker did."""
    complaint: str = ""
    """The end of what the command in the sandbox wrote to standard error."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)

    def complain(self, text: str) -> None:
        """Keep the end of standard error, for who reads why the stream ended."""
        self.complaint = (self.complaint + text)[-_LONGEST_COMPLAINT:]

    def age_seconds(self) -> float:
        """How long this process has been listening."""
        return time.monotonic() - self.began

    @property
    def live(self) -> bool:
        """The stream is open, so that the worker's end will be told."""
        return self.record is None and self.refused is None and self.cut is None


class WorkerRuns:
    """The worker streams of this process, one per resource.

    Args:
        sandboxes: translates what the SDK raises.
        on_change: called with the resource's name whenever its run changed.
        accept_timeout: seconds until the supervisor must have answered.
    """

    def __init__(
        self, sandboxes: Sandboxes, *, on_change: Callable[[str], None], accept_timeout: float
    ) -> None:
        self._sandboxes = sandboxes
        self._on_change = on_change
        self._accept_timeout = accept_timeout
        self._runs: dict[str, WorkerRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def get(self, name: str, claim: str | None) -> WorkerRun | None:
        """The run of the resource called `name`, if it is of this claim."""
        run = self._runs.get(name)
        return run if run is not None and run.claim == claim else None

    def any(self, name: str) -> WorkerRun | None:
        """The run of the resource called `name`, of whatever claim."""
        return self._runs.get(name)

    async def start(self, name: str, sandbox: e2b.AsyncSandbox, request: StartRequest) -> WorkerRun:
        """Start the worker of `request.claim`, or find it started.

        The request, which holds the session token, goes through a file in a folder that only root may
        enter and that the supervisor removes before it reads on: never through a command line or an
        environment.

        Raises:
            Failure: no answer, or refused by the supervisor (reason WorkerStartFailed).
        """
        try:
            await self._hand_over(sandbox, request)
        except Failure as failure:
            if failure.reason is not Reason.SANDBOX_DISK_FULL:
                raise
            await self._make_room(sandbox)
            await self._hand_over(sandbox, request)
        return await self._attach(name, sandbox, f"start {shlex.quote(request.claim)}", request.claim)

    async def _hand_over(self, sandbox: e2b.AsyncSandbox, request: StartRequest) -> None:
        path = f"{ROOT}/inbox/{request.claim}.json"
        async with self._sandboxes.data_plane("worker start"):
            await sandbox.files.write(path, request.to_line(), user=_USER)

    async def _make_room(self, sandbox: e2b.AsyncSandbox) -> None:
        """Free what the supervisor holds back on the disk, so that the agent can be served and clean up."""
        async with self._sandboxes.data_plane("room on the disk"):
            await sandbox.commands.run(f"rm -f {ROOT}/reserve", user=_USER)

    async def watch(self, name: str, sandbox: e2b.AsyncSandbox, claim: str, epoch: int) -> WorkerRun:
        """Take up the events of a worker that was started earlier; from now on `epoch` is the least heard.

        The epoch is a variable and no argument, so that a sandbox of an earlier template takes it too:
        an upgrade of the operator meets workers that it did not start.
        """
        variables = f"MANAGED_SESSION_EPOCH={epoch}"
        return await self._attach(name, sandbox, f"watch {shlex.quote(claim)}", claim, variables)

    async def _attach(
        self, name: str, sandbox: e2b.AsyncSandbox, arguments: str, claim: str, variables: str = ""
    ) -> WorkerRun:
        await self.forget(name)
        run = WorkerRun(claim, sandbox.sandbox_id)
        lines = _Lines(lambda event: self._note(name, run, event))
        async with self._sandboxes.data_plane(f"worker {arguments.split(maxsplit=1)[0]}"):
            handle = await sandbox.commands.run(
                f"{variables} {_ATTACH} {arguments}".lstrip(),
                background=True,
                timeout=0,
                user=_USER,
                on_stdout=lines.feed,
                on_stderr=run.complain,
                retain_output=False,
            )
        self._runs[name] = run
        self._tasks[name] = asyncio.create_task(self._follow(name, run, handle), name=f"worker-{name}")
        try:
            async with asyncio.timeout(self._accept_timeout):
                while not run.accepted and run.live:
                    await run.changed.wait()
                    run.changed.clear()
        except TimeoutError:
            await self.forget(name)
            raise Failure(
                Kind.RETRY,
                Reason.WORKER_START_FAILED,
                f"the sandbox's supervisor gave no answer in {self._accept_timeout:.0f} s",
                definite=False,
            ) from None
        if run.refused is not None or run.cut is not None:
            raise Failure(Kind.RETRY, Reason.WORKER_START_FAILED, run.refused or run.cut or "")
        return run

    async def _follow(self, name: str, run: WorkerRun, handle: Any) -> None:
        cut: str
        try:
            result = await handle.wait()
            cut = f"the supervisor's stream ended without the worker's end (exit code {result.exit_code})"
        except asyncio.CancelledError:
            await asyncio.shield(_disconnect(handle))
            raise
        except e2b.CommandExitException as error:
            cut = f"attach exited with {error.exit_code}: {run.complaint.strip()}"
        except Exception as error:  # noqa: BLE001 - the SDK raises plain Exception for cut streams
            cut = f"the stream from the sandbox was cut ({type(error).__name__})"
        if run.live:
            run.cut = cut
            logger.info("worker stream cut", extra={"resource": name, "claim": run.claim, "cause": cut})
            self._changed(name, run)

    def _note(self, name: str, run: WorkerRun, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "accepted":
                run.accepted = True
            case "heartbeat":
                run.accepted = run.heartbeat = True
            case "exited":
                run.accepted = True
                run.record = ExitRecord.model_validate(event["record"])
                run.heartbeat = run.heartbeat or run.record.first_heartbeat_at is not None
            case "refused":
                run.refused = f"the supervisor refused: {event.get('reason')}: {event.get('message')}"
            case _:
                return
        self._changed(name, run)

    def _changed(self, name: str, run: WorkerRun) -> None:
        run.changed.set()
        if self._runs.get(name) is run:
            self._on_change(name)

    async def stop(self, sandbox: e2b.AsyncSandbox, claim: str, epoch: int) -> None:
        """Kill the claim's worker and all that it started; one that is gone already is fine."""
        async with self._sandboxes.data_plane("worker stop"):
            try:
                await sandbox.commands.run(f"{_ATTACH} stop {shlex.quote(claim)} {epoch}", user=_USER)
            except e2b.CommandExitException as error:
                if "UnknownClaim" not in error.stdout:
                    raise

    async def settle(self, name: str) -> None:
        """Let the stream of an ended worker close by itself, so that a pause does not cut it."""
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.wait({task}, timeout=_CLOSE_SECONDS)

    async def forget(self, name: str) -> None:
        """Close the resource's stream; its worker goes on."""
        self._runs.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Close all streams; the workers go on."""
        await asyncio.gather(*(self.forget(name) for name in list(self._tasks)))


async def _disconnect(handle: Any) -> None:
    try:
        async with asyncio.timeout(5):
            await handle.disconnect()
    except Exception as error:  # noqa: BLE001 - the stream is given up either way
        logger.debug("stream not closed cleanly", extra={"cause": type(error).__name__})


class _Lines:
    """Cuts standard output into JSON lines; what is not one, or is too long, is logged and passed over."""

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
            logger.warning("line that is no event from attach", extra={"length": len(line)})
