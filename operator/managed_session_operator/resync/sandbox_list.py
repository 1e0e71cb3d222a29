"""Reads E2B's list of the installation's sandboxes, in the background if it is long.

E2B returns the list in pages of a hundred, one after another: 40,000 paused sandboxes at 200 ms per page take
80 s. A resync waits for the list for a limited time. If it is not complete by then, reading goes on in the
background, and each resync meanwhile reads only the running sandboxes, which are few. A list of more than a
thousand sandboxes is not read whole by every resync (`ListPace`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from managed_session_api import names
from managed_session_api.conditions import Reason

from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.resync.pace import ListPace
from managed_session_operator.steps.context import Context

PATIENCE_SECONDS = 20.0
"""How long a resync waits for the list: enough for about 10,000 sandboxes at 200 ms per page."""

_WALK_SECONDS = 1500.0
"""Time limit for reading the whole list, in case that its pages never end."""


@dataclass(frozen=True)
class Listing:
    """What a resync knows of E2B's sandboxes.

    Attributes:
        views: the sandboxes that were read, each once and in its newest state.
        asked_at: time just before the running sandboxes were requested.
        whole: whether the list was read to its end. Then every sandbox that existed all the time is in
            `views` or `passing`.
        passing: sandboxes that ran while the list was read, but not at its end: paused meanwhile, or gone.
        error: why the list is not whole; None also while it is still being read.
    """

    views: list[SandboxView]
    asked_at: datetime
    whole: bool
    passing: frozenset[str] = frozenset()
    error: OperationError | None = None


@dataclass
class _Walk:
    """One reading of the whole list."""

    asked_at: datetime
    task: asyncio.Task[None] | None = None
    found: dict[str, SandboxView] = field(default_factory=dict)
    error: Exception | None = None
    resyncs: int = 0


class SandboxList:
    """Reads the list for the resyncs. Each complete list is returned once.

    Reading ends when this process no longer leads, which is checked before each page.

    Args:
        context: the operator's context.
        patience: seconds that a resync waits for the whole list.
    """

    def __init__(self, context: Context, patience: float = PATIENCE_SECONDS) -> None:
        self._context = context
        self._patience = patience
        self._walk: _Walk | None = None
        self._pace = ListPace()

    async def read(self) -> Listing:
        """Return the whole list if it is due, or as much of it as is known now.

        Raises:
            OperationError: nothing could be read.
            NotLeadingError: this process does not lead.
            CredentialError: the API key is missing.
        """
        if self._walk is None and not self._pace.is_due():
            asked_at = self._context.now()
            return Listing([*(await self._running()).values()], asked_at, whole=False)
        walk = self._walk = self._walk or self._begin()
        walk.resyncs += 1
        assert walk.task is not None
        await asyncio.wait({walk.task}, timeout=self._patience)
        if not walk.task.done():
            asked_at = self._context.now()
            return Listing([*(await self._running()).values()], asked_at, whole=False)
        self._walk = None
        self._pace.note(len(walk.found))
        error = walk.error if isinstance(walk.error, OperationError) else None
        if walk.error is not None and (error is None or not walk.found):
            raise walk.error
        if walk.resyncs == 1:
            return Listing([*walk.found.values()], walk.asked_at, whole=error is None, error=error)
        return await self._brought_up_to_date(walk, error)

    async def _brought_up_to_date(self, walk: _Walk, error: OperationError | None) -> Listing:
        """Return a list whose reading began earlier resyncs ago, updated with the sandboxes that run now.

        A sandbox that was resumed before its page of paused sandboxes was read is on no page, but runs now.
        """
        asked_at = self._context.now()
        running = await self._running()
        paused = {each: view for each, view in walk.found.items() if view.paused and each not in running}
        return Listing(
            [*paused.values(), *running.values()],
            asked_at,
            whole=error is None,
            passing=frozenset(walk.found.keys() - paused.keys() - running.keys()),
            error=error,
        )

    async def _running(self) -> dict[str, SandboxView]:
        found: dict[str, SandboxView] = {}
        async for page in self._context.sandboxes.pages(self._metadata, running_only=True):
            found |= {view.sandbox_id: view for view in page}
        return found

    @property
    def _metadata(self) -> dict[str, str]:
        return {names.METADATA_INSTALLATION: self._context.installation_id}

    def _begin(self) -> _Walk:
        walk = _Walk(self._context.now())
        walk.task = asyncio.create_task(self._go_through(walk), name="sandbox-list")
        return walk

    async def _go_through(self, walk: _Walk) -> None:
        try:
            async with asyncio.timeout(_WALK_SECONDS):
                async for page in self._context.sandboxes.pages(self._metadata):
                    walk.found |= {view.sandbox_id: view for view in page}
        except TimeoutError:
            message = f"E2B's list of sandboxes was not read within {_WALK_SECONDS:g} s."
            walk.error = OperationError(
                ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, message, outcome_known=False
            )
        except Exception as error:  # noqa: BLE001 - `read` raises it
            walk.error = error
