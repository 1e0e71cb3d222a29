"""Sessions that share a sandbox begin, end and go in any order and at the same time; the operator dies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_session_api import names
from managed_session_operator.domain.errors import OperationError

from .examples import body
from .shared_world import SESSIONS, SHARING, DiedError, Operator, World

OFTEN_NONE = st.one_of(st.none(), st.none(), st.integers(0, 12))
AT_ONCE = st.lists(st.sampled_from([*SESSIONS, "resync"]), min_size=1, max_size=3, unique=True)
ACTION = st.tuples(AT_ONCE, st.booleans(), OFTEN_NONE, st.booleans())


@dataclass
class Course:
    """What has happened so far."""

    world: World = field(default_factory=World)
    claims: int = 0

    def __post_init__(self) -> None:
        self.operator = Operator(self.world)

    async def happens(self, who: list[str], goes: bool, dies_after: int | None, vanishes: bool) -> None:
        """Let these sessions go on at the same time, or go for good."""
        if vanishes:
            for machine in self.world.machines.values():
                machine.workers.clear()
            self.world.machines.clear()
        self.world.dies_after = dies_after
        tasks = [asyncio.create_task(self._one(each, goes)) for each in who]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self.world.dies_after = None
        died = False
        for each in done:
            if (error := each.exception()) is not None:
                if not isinstance(error, DiedError):
                    raise error
                died = True
        if died:
            self.operator = Operator(self.world)

    async def _one(self, who: str, goes: bool) -> None:
        if who == "resync":
            await self.operator.compares()
            return
        known = self.world.bodies.get(names.resource_name(who))
        if goes and known is not None:
            await self.operator.goes(who)
        elif known is not None and _is_open(known):
            await self.operator.rests(who)
        else:
            self.claims += 1
            await self.operator.works(who, self.claims)


def _is_open(body: dict[str, Any]) -> bool:
    """Whether a turn runs, or its end was cut off."""
    work, sandbox = body["status"].get("work", {}), body["status"].get("sandbox", {})
    active = "claim" in work and "finishedAt" not in work
    return active or sandbox.get("state") in ("Running", "Creating")


async def play(actions: list[tuple[list[str], bool, int | None, bool]]) -> None:
    course = Course()
    for action in actions:
        await course.happens(*action)
    alive = [each for each in SESSIONS if names.resource_name(each) in course.world.bodies]
    for each in alive:
        if _is_open(course.world.bodies[names.resource_name(each)]):
            await course.happens([each], False, None, False)
    for _ in range(3):
        await course.happens(["resync"], False, None, False)
    machines = [*course.world.machines.values()]
    assert all(each.paused for each in machines), "a sandbox runs for nothing"
    assert len(machines) <= 1, "two sandboxes of one key"
    for each in alive:
        await course.happens([each], True, None, False)
    for _ in range(3):
        await course.happens(["resync"], False, None, False)
    assert not course.world.machines, "a sandbox outlived its sessions"
    assert not course.world.owners.bodies, "a ManagedSandbox outlived its sessions"


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTION, min_size=1, max_size=8))
def test_one_sandbox_per_key_that_nobody_pauses_under_another(
    actions: list[tuple[list[str], bool, int | None, bool]],
) -> None:
    asyncio.run(play(actions))


@pytest.mark.parametrize("unanswered", ["info", "owner"])
async def test_session_whose_turn_did_not_end_well_still_needs_the_sandbox(
    unanswered: Literal["info", "owner"],
) -> None:
    operator = Operator(World())
    one, two = SESSIONS[:2]
    await operator.works(one, 1)
    if unanswered == "info":
        # The other one works: the session only detaches. Otherwise it pauses.
        await operator.works(two, 2)
    operator.world.unanswered = unanswered
    with pytest.raises(OperationError):
        await operator.rests(one)
    operator.world.unanswered = None
    if unanswered == "owner":
        await operator.works(two, 2)
    # Its next work is offered before the step is repeated, and the session is still connected.
    await operator.works(one, 3)
    await operator.rests(two)
    (machine,) = operator.world.machines.values()
    assert machine.workers == {one}
    assert not machine.paused


async def test_session_that_is_restored_before_its_files_are_removed_keeps_them() -> None:
    operator = Operator(World())
    gone, other = SESSIONS[:2]
    await operator.works(gone, 1)
    await operator.works(other, 2)
    await operator.rests(gone)
    await operator.rests(other)
    before = operator.resource(gone)
    await operator.goes(gone)
    ((owner,), (machine,)) = operator.world.owners.bodies.values(), operator.world.machines.values()
    assert owner["status"]["departed"] == [before.session_key]
    name = before.metadata.name
    operator.world.bodies[name] = body(name, uid=before.identity, session=gone, spec=SHARING)
    operator.context.records.cache.observe(operator.world.bodies[name])
    await operator.works(other, 3)
    assert before.session_key in machine.folders
    (owner,) = operator.world.owners.bodies.values()
    assert owner["status"]["departed"] == []
