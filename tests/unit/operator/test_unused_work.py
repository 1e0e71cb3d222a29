"""Stopping work of a session without a message, as Anthropic and the API server see it."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.recovery import suspected
from managed_session_operator.domain.turn import Awaited, Turn
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.offers import release_unused

from ...support.merge_patch import merge_patch
from .contexts import context
from .examples import NAME, SESSION, body, offer, session


class Outside:
    """Anthropic and the API server. They record the effects in order.

    Args:
        message_comes: whether a message arrives just before the item is stopped.
        item: initial state of the item.
        item_after: state after the stop.
    """

    def __init__(
        self, *, message_comes: bool = False, item: str = "queued", item_after: str = "stopped"
    ) -> None:
        self.effects: list[str] = []
        self.body = body()
        self._message_comes = message_comes
        self._item_after = item_after
        self._item = item
        self.dies_at: str | None = None

    def _effect(self, name: str) -> None:
        if name == self.dies_at:
            raise ConnectionResetError(name)
        self.effects.append(name)

    async def has_message(self, _: str) -> bool:
        return False

    async def acknowledge(self, _: str) -> bool:
        self._effect("acknowledge")
        if self._item != "queued":
            return self._item == "starting"
        self._item = "starting"
        return True

    async def stop(self, _: str) -> None:
        self._effect("stop")
        self._item = self._item_after

    async def state(self, _: str) -> str:
        return self._item

    async def turn(self, _: str) -> Turn:
        return Turn(Awaited.AGENT if self._message_comes else Awaited.NOBODY)

    async def put(self, *_: object) -> None:
        self._effect("token")

    async def get(self, _: str) -> dict[str, Any]:
        return self.body

    async def patch_status(self, _: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        self._effect("status")
        version = str(int(self.body["metadata"]["resourceVersion"]) + 1)
        self.body = merge_patch(self.body, {"metadata": {"resourceVersion": version}, "status": status})
        return self.body

    @property
    def resource(self) -> ManagedSession:
        """The API server's resource."""
        return ManagedSession.model_validate(self.body)


async def release(outside: Outside) -> Context:
    """Run the step for a resource whose work was offered."""
    found = context(store=outside, queue=outside, sessions=outside, tokens=outside)
    found.inbox.put(offer())
    await release_unused(found, session())
    return found


async def test_unused_work_is_stopped_and_the_resource_is_idle() -> None:
    outside = Outside()
    found = await release(outside)
    assert outside.effects == ["acknowledge", "status", "stop", "status"]
    status = outside.resource.status
    assert (status.phase, status.work.exit_reason) == ("Idle", "NoMessage")
    assert not suspected(outside.resource)
    assert found.inbox.get(SESSION) is None


async def test_after_a_crash_at_the_stop_the_next_leader_checks_for_a_message() -> None:
    outside = Outside()
    outside.dies_at = "stop"
    with pytest.raises(ConnectionResetError):
        await release(outside)
    assert outside.effects == ["acknowledge", "status"]
    assert suspected(outside.resource)


async def test_a_message_at_that_moment_is_claimed_as_acknowledged_work() -> None:
    outside = Outside(message_comes=True)
    found = await release(outside)
    assert outside.effects == ["acknowledge", "status", "stop", "token", "status"]
    work = outside.resource.status.work
    assert (work.claim is not None, work.acknowledged_at is not None, work.finished_at) == (True, True, None)
    assert found.inbox.get(SESSION) is None
    assert found.cache(NAME).message_known


async def test_a_message_for_which_work_is_queued_is_left_to_the_queue() -> None:
    outside = Outside(message_comes=True, item_after="queued")
    await release(outside)
    assert "token" not in outside.effects
    assert outside.resource.status.work.exit_reason == "NoMessage"


async def test_an_item_stopped_by_an_earlier_attempt_counts_as_stopped_now() -> None:
    outside = Outside(message_comes=True, item="stopped")
    await release(outside)
    assert "stop" not in outside.effects
    assert outside.resource.status.work.acknowledged_at is not None
