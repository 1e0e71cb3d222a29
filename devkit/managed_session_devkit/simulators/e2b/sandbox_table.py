"""Serves only E2B's list, for a table of made-up sandboxes, as long and as slow as a test needs.

Pages, order and cursor are those of `GET /v2/sandboxes`: newest first, at most a hundred a page, and the
cursor names the last sandbox of the previous page. So a sandbox that changes its state between two pages may
be on neither.
"""

from __future__ import annotations

import asyncio
import base64
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from aiohttp import web

_PAGE = 100
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ListCall:
    """A call for one page: where it starts, and whether it lists only running sandboxes."""

    running_only: bool
    after: str


@dataclass
class SandboxTable:
    """Serves the list while the `async with` block lasts.

    Attributes:
        metadata: metadata of every sandbox.
        latency: seconds for each page.
        states: running or paused, by sandbox ID, in the order of the list.
        before_page: awaited before each page. It may change states, and may return an error status to answer.
    """

    metadata: dict[str, str]
    latency: float = 0.0
    states: dict[str, str] = field(default_factory=dict)
    before_page: Callable[[ListCall], Awaitable[int | None]] | None = None
    calls: list[ListCall] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v2/sandboxes", self._list)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        call = ListCall(
            running_only=request.query.get("state", "") == "running",
            after=base64.urlsafe_b64decode(request.query.get("nextToken", "")).decode(),
        )
        self.calls.append(call)
        await asyncio.sleep(self.latency)
        status = await self.before_page(call) if self.before_page is not None else None
        if status is not None:
            return web.json_response({"code": status, "message": "refused"}, status=status)
        ids = sorted(self.states)
        ids = ids[bisect_right(ids, call.after) :] if call.after else ids
        wanted = ("running",) if call.running_only else ("running", "paused")
        rest = [each for each in ids if self.states[each] in wanted]
        page, more = rest[:_PAGE], len(rest) > _PAGE
        headers = {"X-Next-Token": base64.urlsafe_b64encode(page[-1].encode()).decode()} if more else {}
        return web.json_response([self._entry(each) for each in page], headers=headers)

    def _entry(self, sandbox_id: str) -> dict[str, object]:
        return {
            "sandboxID": sandbox_id,
            "templateID": "template",
            "clientID": "client",
            "state": self.states[sandbox_id],
            "startedAt": _BEGAN.isoformat(),
            "endAt": (_BEGAN + timedelta(hours=1)).isoformat(),
            "cpuCount": 2,
            "memoryMB": 1024,
            "diskSizeMB": 1024,
            "envdVersion": "0.6.13",
            "metadata": self.metadata,
        }
