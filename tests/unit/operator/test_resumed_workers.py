"""A worker whose sandbox was resumed is notified, because its clocks do not show a short pause."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.clients.clock import SystemClock
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.domain.worker_run import WorkerRun
from managed_session_operator.steps.worker_stream import reattach

from .contexts import context
from .examples import NAME, RUNNING, SESSION, body, session, work

STATUS = {"work": work(acknowledged=50, heartbeat=40), "sandbox": RUNNING}
SERVED = session(STATUS)


class E2B:
    """Has one paused sandbox."""

    def __init__(self) -> None:
        now = SystemClock().now()
        self.view = SandboxView("isandbox", True, "t", {}, now - timedelta(seconds=60), now)

    async def info(self, _: str) -> SandboxView:
        return self.view

    async def connect(self, sandbox_id: str, _: int, *, reboot: bool = False) -> Any:
        assert not reboot
        self.view = replace(self.view, paused=False)
        return SimpleNamespace(sandbox_id=sandbox_id)


@dataclass
class Streams:
    """Reattaches to the worker, and records whether it is notified of the resume."""

    failures: int
    notified: list[bool] = field(default_factory=list)

    def get(self, *_: object) -> None:
        return None

    async def watch(
        self, name: str, sandbox: Any, claim: str, epoch: int, *, resumed: bool = False
    ) -> WorkerRun:
        assert (name, epoch) == (NAME, 1)
        if self.failures:
            self.failures -= 1
            raise OperationError(ErrorKind.TRANSIENT, Reason.WORKER_START_FAILED, "no answer")
        self.notified.append(resumed)
        return WorkerRun(claim, sandbox.sandbox_id, accepted=True)


class Queue:
    """Has the session's item, whose lease the worker holds."""

    async def item(self, work_id: str) -> WorkItem:
        now = SystemClock().now()
        return WorkItem(work_id, SESSION, "active", now, now, now)


class ApiServer:
    """Accepts each write of the status, and does not change it."""

    async def patch_status(self, *_: object) -> dict[str, Any]:
        return body(status=STATUS, version=2)


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_worker_is_notified_of_a_pause_once_even_if_that_fails_at_first(failures: int) -> None:
    streams = Streams(failures)
    steps = context(ApiServer(), sandboxes=E2B(), runs=streams, queue=Queue(), capacity=Capacity(4, 100))
    for _ in range(failures):
        with pytest.raises(OperationError):
            await reattach(steps, SERVED)
    await reattach(steps, SERVED)
    await reattach(steps, SERVED)
    assert streams.notified == [True, False]
