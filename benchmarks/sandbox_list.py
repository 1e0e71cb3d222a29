"""Reading E2B's list of many paused and 100 running sandboxes, at 200 ms a page, as the resync does.

The SDK reads a table of made-up sandboxes over HTTP. No resync waits for the whole list: it is read in the
background, and the next resyncs use what was read.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from types import SimpleNamespace

from managed_session_api import names
from managed_session_devkit.simulators.e2b.sandbox_table import SandboxTable
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.resync.sandbox_list import SandboxList
from pydantic import SecretStr

from benchmarks.figures import Figure

SCALES = (4000, 12_000, 40_000)
PAGE_SECONDS = 0.2
PAGE_SIZE = 100
RUNNING = 100
GOAL_WAIT_SECONDS = 30
INSTALLATION = "benchmark"


def reader_of(table: SandboxTable) -> SandboxList:
    """Return the resync's reader of the table's list."""
    os.environ["E2B_API_URL"] = table.url
    os.environ["E2B_HTTP_VERSION"] = "1.1"
    secret = SecretStr("e2b_" + "0" * 40)
    context = SimpleNamespace(
        sandboxes=Sandboxes(
            RotatingKey("e2b-api-key", lambda: [secret], lambda _: None),
            fence=lambda: None,
            request_timeout=10,
            create_timeout=10,
        ),
        installation_id=INSTALLATION,
        now=lambda: datetime.now(UTC),
    )
    return SandboxList(context)  # type: ignore[arg-type]


async def read_whole(paused: int) -> list[Figure]:
    """Read the list as resyncs do, until it is complete."""
    async with SandboxTable({names.METADATA_INSTALLATION: INSTALLATION}, PAGE_SECONDS) as table:
        for each in range(paused + RUNNING):
            runs = each % (paused // RUNNING + 1) == 0
            table.states[f"i{each:08}"] = "running" if runs else "paused"
        reader, began, waits = reader_of(table), time.monotonic(), list[float]()
        cpu = time.process_time()
        while True:
            asked = time.monotonic()
            listing = await reader.read()
            waits.append(time.monotonic() - asked)
            if listing.error is not None:
                raise RuntimeError(f"the list broke off: {listing.error}")
            if listing.whole:
                break
        seconds = time.monotonic() - began
        if len(listing.views) != len(table.states):
            raise RuntimeError(f"{len(listing.views)} of {len(table.states)} sandboxes were read")
        cpu = time.process_time() - cpu
        calls = len(table.calls)
        await reader.read()
        pages = -(-len(table.states) // PAGE_SIZE)
        return [
            Figure(
                key="list", name="the whole list is known", value=seconds, unit="s", scale=paused,
                limit=pages * PAGE_SECONDS, limit_is="its pages, one after the other", goal=1.5,
            ),
            Figure(
                key="list-wait", name="longest time that a resync waits for it", value=max(waits), unit="s",
                scale=paused, goal=GOAL_WAIT_SECONDS,
            ),
            Figure(
                key="list-cpu", name="CPU of the reader, and of the table that answers", value=cpu, unit="s",
                scale=paused,
            ),
            Figure(
                key="next-calls", name="pages that the next resync reads", value=len(table.calls) - calls,
                unit="", scale=paused,
            ),
        ]  # fmt: skip


async def measure() -> list[Figure]:
    """Measure every scale."""
    return [figure for paused in SCALES for figure in await read_whole(paused)]
