"""Runs the tool calls of different threads of a session at the same time.

The SDK's `SessionToolRunner` executes one call after the other, whatever thread they belong to. This module
replaces only the loop that takes the calls from its queue: it serves each thread by a task of its own, so
that the order inside a thread is kept. Everything else is the SDK's: the event stream, the history and its
reconciliation, calls that wait for a confirmation, the threads that have ended, the execution of a call, its
time limit, the delivery of its result, and the idle time.

In addition, a call for which nobody waits any more (`interrupted_calls`) is ended at once if it runs, and
otherwise not run. Nothing is posted for it, because the API would refuse it.

`EnvironmentWorker` makes its runner itself and offers no way to pass another one, so `side_by_side` replaces
the name under which it finds the class.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel
from anthropic.lib.tools import _beta_session_runner as sdk

from managed_session_worker.call_context import calling_thread, calling_tool_use
from managed_session_worker.call_slots import CallSlots
from managed_session_worker.worker_log import logger

MOST_REMEMBERED = 100
"""How many calls that were ended are remembered, in case the session waits for them again."""
Item = tuple[sdk.DispatchedToolUseEvent, Literal["allow"] | None]
"""A call in the SDK's queue, and the user's verdict if it needed a confirmation."""


class ThreadCalls:
    """What the calls of all threads share, for as long as the worker lives.

    Args:
        most: How many calls may run at the same time.
        unwanted: The calls for which nobody waits (any more).
        alone: Whether a call has to run while no other one does.
        ended: Called with the ID of a call that was ended because nobody waits for it.
    """

    def __init__(
        self,
        most: int,
        unwanted: Container[str],
        alone: Callable[[str], bool],
        ended: Callable[[str], None],
    ) -> None:
        self.slots = CallSlots(most)
        self.unwanted = unwanted
        self.alone = alone
        self.ended = ended
        self.runner: SideBySideRunner | None = None

    def check(self) -> None:
        """End the calls for which nobody waits any more. Called after each event that the worker has read."""
        if self.runner is not None:
            self.runner.check()

    def is_cut(self, identifier: str) -> bool:
        """Return whether a call is being ended because nobody waited for it any more."""
        return self.runner is not None and self.runner.is_cut(identifier)


class SideBySideRunner(sdk.SessionToolRunner):
    """The SDK's runner, with a task for each thread that has calls."""

    def __init__(self, *arguments: Any, calls: ThreadCalls, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._calls = calls
        self._queues: dict[str, deque[Item]] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        """The calls that wait for a slot or run."""
        self._cut: dict[str, sdk.DispatchedToolUseEvent] = {}
        """The calls that were ended, or not run, because nobody waited for them."""
        calls.runner = self

    def check(self) -> None:
        """End the calls for which nobody waits any more; answer one for which the session waits again."""
        for identifier in [each for each in self._scopes if each in self._calls.unwanted]:
            self._scopes[identifier].cancel()
        for identifier, event in list(self._cut.items()):
            if identifier not in self._calls.unwanted:
                try:
                    self._send_work.send_nowait((event, None))
                except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return
                del self._cut[identifier]

    def is_cut(self, identifier: str) -> bool:
        """Return whether this running call is being ended by `check`."""
        scope = self._scopes.get(identifier)
        return scope is not None and scope.cancel_called

    async def _dispatch_loop(self) -> None:
        """Replace the SDK's loop: hand each call to the task of its thread."""
        try:
            async with anyio.create_task_group() as threads:
                async for event, confirmation in self._recv_work:
                    thread = event.session_thread_id or ""
                    if self._is_queued(thread, event.id):
                        # After each reconnect, the SDK queues all calls that have no result.
                        self._release(event, confirmation)
                    elif thread in self._queues:
                        self._queues[thread].append((event, confirmation))
                    else:
                        self._queues[thread] = deque([(event, confirmation)])
                        threads.start_soon(self._serve_thread, thread)
        finally:
            with anyio.CancelScope(shield=True):
                await self._send_results.aclose()

    def _is_queued(self, thread: str, identifier: str) -> bool:
        return any(event.id == identifier for event, _ in self._queues.get(thread, ()))

    def _release(self, event: sdk.DispatchedToolUseEvent, confirmation: Literal["allow"] | None) -> None:
        """Drop the hold that the SDK keeps on its idle clock for a call that a user has allowed."""
        if confirmation == "allow":
            self._release_hold(event)

    async def _serve_thread(self, thread: str) -> None:
        calling_thread.set(thread)
        queue = self._queues[thread]
        while queue:
            event, confirmation = queue.popleft()
            try:
                await self._serve(event, confirmation)
            finally:
                self._release(event, confirmation)
        del self._queues[thread]

    async def _serve(self, event: sdk.DispatchedToolUseEvent, confirmation: Literal["allow"] | None) -> None:
        """Run a call and deliver its result, unless that has become pointless.

        Like the SDK's, a call that runs is not affected by the end of the worker.
        """
        if not self._is_wanted(event):
            return
        calling_tool_use.set(event.id)
        with anyio.CancelScope() as scope:
            self._scopes[event.id] = scope
            try:
                async with self._calls.slots.hold(alone=self._calls.alone(event.id)):
                    # While it waited, the worker may have begun to leave.
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    if self._is_wanted(event):
                        scope.shield = True
                        await self._execute(event, confirmation)
            finally:
                del self._scopes[event.id]
        if scope.cancelled_caught:
            logger.info("ended a tool call that nobody waits for any more tool_use_id=%s", event.id)
            self._note_cut(event)

    def _is_wanted(self, event: sdk.DispatchedToolUseEvent) -> bool:
        """Return whether to run a call. Say in the log why not, unless it has been answered."""
        if event.id in self._answered:
            return False
        if self._in_terminated_thread(event):
            logger.info("its thread has ended; not running tool_use_id=%s", event.id)
            return False
        if event.id in self._calls.unwanted:
            logger.info("not running a tool call that nobody waits for tool_use_id=%s", event.id)
            self._note_cut(event)
            return False
        return True

    def _note_cut(self, event: sdk.DispatchedToolUseEvent) -> None:
        self._cut[event.id] = event
        if len(self._cut) > MOST_REMEMBERED:
            del self._cut[next(iter(self._cut))]
        self._calls.ended(event.id)
        self.check()


@contextmanager
def side_by_side(calls: ThreadCalls) -> Iterator[None]:
    """Have the SDK's workers in this process make a `SideBySideRunner` for their sessions meanwhile."""
    original, name = sdk.SessionToolRunner, "SessionToolRunner"
    setattr(sdk, name, partial(SideBySideRunner, calls=calls))
    try:
        yield
    finally:
        setattr(sdk, name, original)
