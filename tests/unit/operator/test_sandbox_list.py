"""What resyncs know of sandboxes if the list is long, slow or incomplete, through the SDK over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from managed_session_api import names
from managed_session_devkit.simulators.e2b.sandbox_table import ListCall, SandboxTable
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.resync.sandbox_list import Listing, SandboxList

from .examples import key

Make = Callable[[SandboxTable, float], SandboxList]

METADATA = {names.METADATA_INSTALLATION: "ours"}


def table(running: int = 0, paused: int = 0) -> SandboxTable:
    """Make sandboxes of which every tenth runs, until there are enough. The IDs are in the list's order."""
    made = SandboxTable(METADATA)
    for number in range(running + paused):
        runs = number % 10 == 0 and number // 10 < running
        made.states[f"i{number:06}"] = "running" if runs else "paused"
    return made


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(served: SandboxTable, patience: float) -> SandboxList:
        monkeypatch.setenv("E2B_API_URL", served.url)
        monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")
        sandboxes = Sandboxes(key("e2b_" + "0" * 40), fence=lambda: None, request_timeout=5, create_timeout=5)
        context = SimpleNamespace(sandboxes=sandboxes, installation_id="ours", now=lambda: datetime.now(UTC))
        return SandboxList(context, patience)  # type: ignore[arg-type]

    return make


def ids(listing: Listing, state: str = "") -> set[str]:
    return {
        view.sandbox_id for view in listing.views if state in ("", "paused" if view.paused else "running")
    }


async def until_whole(reader: SandboxList) -> tuple[Listing, int]:
    """Return the first complete list, and how many partial ones came before it."""
    partial = 0
    while True:
        listing = await reader.read()
        if listing.whole:
            return listing, partial
        partial += 1


async def test_a_short_list_takes_one_call(subject: Make) -> None:
    async with table(running=3, paused=50) as served:
        listing = await subject(served, 10).read()
        assert listing.whole
        assert ids(listing) == set(served.states)
        assert served.calls == [ListCall(running_only=False, after="")]


async def test_a_long_list_is_read_in_the_background_while_resyncs_read_running_sandboxes(
    subject: Make,
) -> None:
    async with table(running=20, paused=3980) as served:
        served.latency = 0.02
        reader = subject(served, 0.2)
        first = await reader.read()
        assert not first.whole
        assert first.error is None
        assert ids(first) == {each for each, state in served.states.items() if state == "running"}
        listing, partial = await until_whole(reader)
        assert partial >= 1
        assert ids(listing) == set(served.states)
        walked = [call for call in served.calls if not call.running_only]
        assert len(walked) == 40, "each page once, however many resyncs came meanwhile"


async def test_a_sandbox_resumed_between_two_pages_is_known(subject: Make) -> None:
    async with table(paused=400) as served:
        turned = "i000399"

        async def resume(call: ListCall) -> int | None:
            if call.after == "i000299":
                served.states["a-resumed"] = "running"
                del served.states[turned]
            return None

        served.states[turned] = "paused"
        served.latency, served.before_page = 0.05, resume
        listing, partial = await until_whole(subject(served, 0.05))
        assert partial >= 1
        assert "a-resumed" in ids(listing, "running")


async def test_a_sandbox_paused_while_listing_is_not_missing(subject: Make) -> None:
    async with table(running=1, paused=399) as served:

        async def pause(call: ListCall) -> int | None:
            if call.after:
                served.states["i000000"] = "paused"
            return None

        served.latency, served.before_page = 0.05, pause
        listing, partial = await until_whole(subject(served, 0.05))
        assert partial >= 1
        assert "i000000" in ids(listing) | listing.passing
        assert "i000000" not in ids(listing, "running")


async def test_pages_read_before_a_failure_count(subject: Make) -> None:
    async with table(paused=300) as served:

        async def refuse(call: ListCall) -> int | None:
            return 500 if call.after == "i000199" else None

        served.before_page = refuse
        reader = subject(served, 30)
        listing = await reader.read()
        assert not listing.whole
        assert listing.error is not None
        assert len(ids(listing)) == 200
        served.before_page = None
        assert (await reader.read()).whole


async def test_a_page_that_fails_briefly_is_requested_again(subject: Make) -> None:
    async with table(paused=300) as served:
        refused: list[ListCall] = []

        async def refuse(call: ListCall) -> int | None:
            if call.after == "i000099" and len(refused) < 2:
                refused.append(call)
                return 502
            return None

        served.before_page = refuse
        listing = await subject(served, 30).read()
        assert listing.whole
        assert len(ids(listing)) == 300


async def test_a_list_without_any_page_is_an_error(subject: Make) -> None:
    async with table(paused=300) as served:

        async def refuse(_: ListCall) -> int | None:
            return 500

        served.before_page = refuse
        with pytest.raises(OperationError):
            await subject(served, 30).read()


async def test_a_page_that_never_comes_does_not_block_the_resync(subject: Make) -> None:
    async with table(running=2, paused=300) as served:
        stuck = asyncio.Event()

        async def hang(call: ListCall) -> int | None:
            if call.after and not call.running_only:
                await stuck.wait()
            return None

        served.before_page = hang
        listing = await subject(served, 0.2).read()
        assert not listing.whole
        assert len(ids(listing)) == 2
        stuck.set()
