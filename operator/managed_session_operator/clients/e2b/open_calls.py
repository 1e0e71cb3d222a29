"""Calls that may outlast the steps that wait for them, and the Lease.

E2B cancels a request when its connection ends, and may take longer than a Lease is valid. Such a call
therefore belongs to no step: a step waits for it for a limited time, and the next step joins the same call,
or gets the answer that came in between. The call was fenced when it was sent. If this process is no longer
the leader when it completes, it counts as any other late effect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from managed_session_operator.domain.errors import UnderWayError

logger = logging.getLogger(__name__)

OPEN_SECONDS = 85.0
"""Timeout of such a call. E2B's own limit for a create, resume or pause is 70 s."""

T = TypeVar("T")


@dataclass
class _Call:
    operation: str
    task: asyncio.Task[Any]
    began: float
    outlasted: bool = False
    """Whether a step has stopped waiting for it."""


@dataclass(frozen=True)
class _Unheard:
    """An answer that came when no step waited for it any more."""

    operation: str
    answer: Any
    until: float


class OpenCalls:
    """The open calls, at most one per target: a sandbox's ID, or the idempotency key of a create."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._left: set[asyncio.Task[Any]] = set()
        self._unheard: dict[str, _Unheard] = {}

    def under_way(self, target: str, operation: str) -> bool:
        """Whether such a call is open."""
        call = self._calls.get(target)
        return call is not None and call.operation == operation

    async def join(self, target: str, operation: str, send: Callable[[], Awaitable[T]], patience: float) -> T:
        """Send the call or join the open one, and wait for its response.

        If another operation on the target is open, wait for that first. A response that came after an earlier
        caller's patience is returned at once, and only once: the call is not sent a second time.

        Args:
            target: target of the call.
            operation: name of the operation.
            send: sends the call, with its own fence and timeout.
            patience: seconds to wait.

        Raises:
            UnderWayError: there is no response yet. The call continues, even if the caller is cancelled.
            Exception: any error of `send`.
        """
        unheard = self._unheard.pop(target, None)
        if unheard is not None and unheard.operation == operation and time.monotonic() < unheard.until:
            late: T = unheard.answer
            return late
        call: _Call | None = None
        try:
            async with asyncio.timeout(patience):
                while (call := self._calls.get(target)) is not None and call.operation != operation:
                    await asyncio.wait({call.task})
                if call is None:
                    call = self._open(target, operation, send)
                answer: T = await asyncio.shield(call.task)
        except TimeoutError:
            if call is not None and call.operation == operation:
                call.outlasted = True
            raise UnderWayError(f"E2B has not answered {operation} within {patience:g} s") from None
        self._unheard.pop(target, None)
        return answer

    def _open(self, target: str, operation: str, send: Callable[[], Awaitable[Any]]) -> _Call:
        async def run() -> Any:
            return await send()

        task = asyncio.create_task(run(), name=f"{operation}-{target}")
        call = self._calls[target] = _Call(operation, task, time.monotonic())
        call.task.add_done_callback(lambda task: self._answered(target, task))
        return call

    def _answered(self, target: str, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        call = self._calls.get(target)
        ours = call is not None and call.task is task
        if ours:
            del self._calls[target]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            logger.info("call failed", extra={"call": task.get_name(), "cause": str(error)})
        elif call is not None and ours and call.outlasted:
            self._keep(target, call)

    def _keep(self, target: str, call: _Call) -> None:
        """Keep the answer for the next step. What no step asked for in time is dropped."""
        now = time.monotonic()
        self._unheard = {key: each for key, each in self._unheard.items() if now < each.until}
        self._unheard[target] = _Unheard(call.operation, call.task.result(), now + OPEN_SECONDS)

    def age_seconds(self, target: str) -> float:
        """Return the seconds for which the target's call has been open; 0 without a call."""
        call = self._calls.get(target)
        return time.monotonic() - call.began if call is not None else 0.0

    def leave(self, target: str) -> None:
        """Stop joining the call, because its effect has been observed. It stays open until it is answered."""
        call = self._calls.pop(target, None)
        if call is not None:
            self._left.add(call.task)

    async def give_up(self, target: str) -> None:
        """End the call, which cancels its request: the result is no longer needed."""
        call = self._calls.get(target)
        if call is not None:
            call.task.cancel()
            await asyncio.wait({call.task})

    async def answered(self, patience: float) -> None:
        """Wait until all calls are answered, at most `patience` seconds."""
        tasks = {call.task for call in self._calls.values()} | self._left
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
