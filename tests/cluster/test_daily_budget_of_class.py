"""The budget of a day that a class gives its sessions together."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import change_class, class_becomes, class_known, class_status, make_class
from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

BUDGET = 3


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def test_a_class_that_has_used_its_budget_of_the_day_starts_nothing_until_it_is_raised(
    system: LocalSystem,
) -> None:
    await make_class(system, "frugal", {"limits": {"maxActiveSecondsPerDay": BUDGET}})
    async with begin(system) as first, begin(system) as second:
        assert "done" in await first.say(f"Run: sleep {BUDGET + 1}; echo done"), "a running turn goes on"
        await eventually("the sandbox is paused", lambda: paused(system, first.session_id))
        counted = (await resource(system, first.session_id))["status"]["activeToday"]
        assert counted["seconds"] >= BUDGET
        spent = await class_becomes(system, "frugal", "BudgetReached")
        assert spent["activeToday"]["seconds"] >= BUDGET

        await second.send("Run: echo served")
        told = await becomes(system, second.session_id, "BudgetReached")
        assert "class frugal" in told["message"]
        assert "00:00 UTC" in told["message"]
        assert not await sandboxes_of(system, second.session_id)

        # A later leader knows it too.
        await system.operator.restart(kill=True)
        await becomes(system, second.session_id, "BudgetReached")
        assert (await class_status(system, "frugal"))["activeToday"]["seconds"] >= BUDGET

        await change_class(system, "frugal", limits={"maxActiveSecondsPerDay": 10_000})
        assert "served" in await second.answer()
        await class_becomes(system, "frugal", "Ready")


async def test_without_a_budget_nothing_is_counted_in_the_class(system: LocalSystem) -> None:
    await change_class(system, "frugal", limits={"maxActiveSecondsPerDay": None})
    await class_known(system, "frugal")
    assert "activeToday" not in await class_status(system, "frugal")
