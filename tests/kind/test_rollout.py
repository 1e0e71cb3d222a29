"""A new version is rolled out while sessions run."""

from __future__ import annotations

import asyncio

from ..support.waiting import eventually
from .images import Images
from .installation import OPERATOR, SYSTEM, WEBHOOK, Installation
from .turns import held_turn

ACCEPTED = 204
DELIVERED_SECONDS = 120.0


async def test_rollout_interrupts_no_turn_and_loses_no_event(
    installation: Installation, images: Images
) -> None:
    before = {uid for uid, _ in await installation.lives()}
    async with held_turn(installation) as running:
        rolled_out = asyncio.Event()
        talking = asyncio.create_task(talk(installation, rolled_out))
        for deployment in (WEBHOOK, OPERATOR):
            await installation.kubectl(
                f"--namespace={SYSTEM}", "set", "image", f"deployment/{deployment}",
                f"{deployment.removeprefix('managed-session-')}={images.next_version}",
            )  # fmt: skip
        await installation.rolled_out()
        rolled_out.set()
        assert not running.answer.done()
        assert {uid for uid, _ in await installation.lives()} & before == set(), "all pods are new ones"
        await running.finish()
        sessions = [running.session_id, *await talking]
    for session_id in sessions:

        async def all_taken(session_id: str = session_id) -> bool:
            deliveries = (await installation.clouds.anthropic_admin.session(session_id)).deliveries
            events = {each["event_id"] for each in deliveries}
            return events == {each["event_id"] for each in deliveries if each["status"] == ACCEPTED}

        await eventually(f"each event of {session_id} was taken", all_taken, seconds=DELIVERED_SECONDS)


async def talk(installation: Installation, until: asyncio.Event) -> list[str]:
    """Play sessions one after the other while the pods are replaced. Each gets its answer."""
    sessions: list[str] = []
    while not until.is_set():
        async with installation.clouds.begin() as session:
            answer = await session.say(f"Run: echo {len(sessions)}", timeout_seconds=DELIVERED_SECONDS)
            assert answer == str(len(sessions))
            sessions.append(session.session_id)
    return sessions
