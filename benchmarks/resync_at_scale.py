"""Measures how long it takes to read E2B's list of 40,000 paused and 100 running sandboxes.

The SDK reads a table of made-up sandboxes over HTTP, at 200 ms per page, as the resync does. The exit code is
1 if the list was not read completely, or if a resync waited for it for more than 30 seconds: `python
benchmarks/resync_at_scale.py [--sandboxes 40000] [--latency 0.2]`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

from managed_session_api import names
from managed_session_devkit.simulators.e2b.sandbox_table import SandboxTable
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.resync.sandbox_list import SandboxList
from pydantic import SecretStr

LIMIT_SECONDS = 30.0
RUNNING = 100
INSTALLATION = "benchmark"


async def measure(number: int, latency: float) -> bool:
    """Read the list as resyncs do, until it is complete. Return whether all went well."""
    async with SandboxTable({names.METADATA_INSTALLATION: INSTALLATION}, latency) as table:
        for each in range(number + RUNNING):
            runs = each % (number // RUNNING + 1) == 0
            table.states[f"i{each:08}"] = "running" if runs else "paused"
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
        reader = SandboxList(context)  # type: ignore[arg-type]
        began, held = time.monotonic(), []
        while True:
            asked = time.monotonic()
            listing = await reader.read()
            held.append(time.monotonic() - asked)
            running = sum(not view.paused for view in listing.views)
            if listing.error is not None:
                print(f"the list broke off: {listing.error}")
                return False
            if listing.whole:
                break
        print(f"{len(listing.views)} sandboxes, {running} of them running, {latency * 1000:.0f} ms a page")
        print(f"known after {time.monotonic() - began:.1f} s, {len(held)} resyncs, {len(table.calls)} calls")
        print(f"longest time that a resync waited: {max(held):.1f} s (limit {LIMIT_SECONDS:.0f} s)")
        return len(listing.views) == len(table.states) and max(held) < LIMIT_SECONDS


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sandboxes", type=int, default=40_000, help="paused sandboxes")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds for each page")
    arguments = parser.parse_args()
    return 0 if asyncio.run(measure(arguments.sandboxes, arguments.latency)) else 1


if __name__ == "__main__":
    sys.exit(main())
