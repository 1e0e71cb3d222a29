"""What viewers receive: everything once, then changes; after a lost connection, what they have missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..support.api_server_proxy import ApiServerProxy
from ..support.waiting import eventually
from .site import AGENT, ENVIRONMENT, Site, ago, dashboard, ready

PHASE, REASON = 2, 3
"""Columns of a session's row."""
TWO_TURNS = [
    ("Claimed", 300), ("SandboxCreated", 296), ("WorkerStarted", 295), ("WorkerFinished", 200),
    ("Claimed", 20), ("SandboxResumed", 18),
]  # fmt: skip
"""Reasons of Events, and how many seconds ago they were."""


def rows(board: dict[str, Any], table: str = "sessions") -> dict[str, dict[str, Any]]:
    """The rows of a table by name, with the names of the columns."""
    columns = board["fixed"]["columns"][table]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in board["tables"][table]}


async def test_board_has_every_session_class_and_shared_sandbox(site: Site) -> None:
    waiting = {
        "phase": "Pending",
        "work": {"id": "w", "offeredAt": ago(90)},
        "sandbox": {"state": "Paused"},
        "turns": 3,
        **ready("AwaitingCapacity", "Queue position 1: all 20 sandbox slots are in use.", status="False"),
    }
    name = await site.make("sesn_01Board", waiting)
    await site.classes.create({"precedence": 7, "limits": {"maxActiveSandboxes": 4}}, "board-class")

    async with site.viewer() as client:

        async def complete() -> dict[str, Any] | None:
            board: dict[str, Any] = (await client.get("api/board")).json()
            whole = rows(board).get(name, {}).get("phase") == "Pending"
            return board if whole and "board-class" in rows(board, "classes") else None

        board = await eventually("the board has the session and the class", complete)
    row = rows(board)[name]
    assert (row["session"], row["agent"], row["environment"]) == ("sesn_01Board", AGENT, ENVIRONMENT)
    assert (row["reason"], row["turns"], row["cost"]) == ("AwaitingCapacity", 3, None)
    assert 80 < board["now"] - row["waiting"] < 150
    found = rows(board, "classes")["board-class"]
    assert (found["precedence"], found["maximum"], found["selects"]) == (7, 4, "all others")
    assert board["fixed"]["slots"] == 20


async def test_changes_arrive_and_a_reconnect_catches_up(site: Site) -> None:
    name = await site.make("sesn_01Changes", {"phase": "Idle", **ready("Idle")})
    async with site.viewer() as client:
        position = (await client.get("api/board")).json()["position"]
        async with site.stream(client, position) as stream:
            await site.sessions.patch_status({"phase": "Running", **ready("Running")}, name)
            position = (await stream.row(name, PHASE, "Running")).id
        # Nobody listens meanwhile.
        await site.sessions.patch_status({"phase": "Failed", **ready("SessionStuck", status="False")}, name)
        gone = await site.make("sesn_01Gone")
        await site.kubectl("delete", "managedsession", gone)
        async with site.stream(client, position) as stream:
            await stream.row(name, REASON, "SessionStuck")
        async with site.stream(client, position) as stream:
            while gone not in (await stream.next("changes")).data["sessions"]["removed"]:
                pass


@pytest.mark.parametrize("position", ["", "other.5", "garbage"])
async def test_viewer_of_another_process_has_to_load_everything(site: Site, position: str) -> None:
    async with site.viewer() as client, site.stream(client, position) as stream:
        await stream.next("reload")


async def test_page_of_a_session_has_its_turns_events_and_remedies_and_no_variables(site: Site) -> None:
    status = {
        "phase": "Failed",
        "turns": 2,
        "work": {
            "id": "w",
            "offeredAt": ago(20),
            "acknowledgedAt": ago(18),
            "firstHeartbeatAt": ago(17),
        },
        **ready("SessionStuck", "No worker will come.", status="False"),
    }
    variables = {"sandbox": {"env": {"TOKEN": "secret-value"}}}
    name = await site.make("sesn_01Details", status, **variables)
    async with site.viewer() as client:
        position = (await client.get("api/board")).json()["position"]
        async with site.stream(client, position, session=name) as stream:
            await stream.next("session")
            now = datetime.now(UTC)
            for reason, seconds in TWO_TURNS:
                await site.post_event(name, reason, f"About {reason}.", at=now - timedelta(seconds=seconds))
            await stream.next("session")

        async def complete() -> dict[str, Any] | None:
            found: dict[str, Any] = (await client.get(f"api/sessions/{name}")).json()
            return found if len(found["events"]) == 6 else None

        found = await eventually("all Events are there", complete)
        assert (await client.get("api/sessions/none")).status_code == 404
        everything = (await client.get("api/board")).text + str(found)
    assert "secret-value" not in everything
    (condition,) = found["session"]["conditions"]
    assert condition["meaning"]
    assert condition["remedy"]
    first, second = found["turns"]
    assert (first["started"] - first["claimed"], first["finished"] - first["started"]) == (5, 95)
    assert first["summary"] == "About WorkerFinished."
    assert second["finished"] is None
    assert 0.9 < second["started"] - second["sandbox"] < 1.1, "the status has more exact times than Events"


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[ApiServerProxy]:
    async with ApiServerProxy(control_plane.url, control_plane.ca_file) as running:
        yield running


async def test_lost_api_server_is_shown_and_nothing_is_missed(
    control_plane: ControlPlane, proxy: ApiServerProxy, tmp_path: Path
) -> None:
    async with dashboard(control_plane, tmp_path, api_server_url=proxy.url) as site:
        name = await site.make("sesn_01Lost", {"phase": "Idle", **ready("Idle")})
        async with site.viewer() as client:
            position = (await client.get("api/board")).json()["position"]
            async with site.stream(client, position) as stream:
                assert (await stream.next("state")).data["problem"] is None
                async with proxy.partitioned():
                    while not (state := (await stream.next("state")).data)["problem"]:
                        pass
                    assert state["since"] > 0
                    await site.sessions.patch_status({"phase": "Running", **ready("Running")}, name)
                    assert name in rows((await client.get("api/board")).json())
                await stream.row(name, PHASE, "Running")
                while (await stream.next("state")).data["problem"]:
                    pass
        assert "watch_failures_total" in await site.metrics()


async def test_watches_that_expire_are_begun_again_with_a_list(
    control_plane: ControlPlane, proxy: ApiServerProxy, tmp_path: Path
) -> None:
    async with dashboard(control_plane, tmp_path, api_server_url=proxy.url) as site:
        kept = await site.make("sesn_01Kept", {"phase": "Idle", **ready("Idle")})
        gone = await site.make("sesn_01Gone")
        async with site.viewer() as client:

            async def both() -> dict[str, Any] | None:
                board: dict[str, Any] = (await client.get("api/board")).json()
                return board if {kept, gone} <= set(rows(board)) else None

            position = (await eventually("both sessions are there", both))["position"]
            lists = proxy.hold(lambda call: call.operation == "list managedsessions")
            await proxy.expire_watches()
            await lists.reached.wait()
            await site.kubectl("delete", "managedsession", gone)
            await site.sessions.patch_status({"phase": "Running", **ready("Running")}, kept)
            proxy.remove(lists)
            async with site.stream(client, position) as stream:
                event = await stream.row(kept, PHASE, "Running")
                removed = event.data["sessions"]["removed"]
                while gone not in removed:
                    removed = (await stream.next("changes")).data["sessions"]["removed"]
