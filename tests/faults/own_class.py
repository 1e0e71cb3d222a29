"""A policy for the sessions of one row, by a class and an agent of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..support.classes import delete_classes, make_class
from .scenario import Scenario

_NAME = "of-the-row"


@asynccontextmanager
async def own_class(scenario: Scenario, **session: Any) -> AsyncIterator[str]:
    """Yield an agent whose sessions have this policy (`session` of the class) while the block lasts."""
    agent = await scenario.system.anthropic_admin.add_agent()
    await make_class(scenario.system, _NAME, {"selector": {"agentIDs": [agent]}, "session": session})
    try:
        yield agent
    finally:
        await delete_classes(scenario.system, _NAME)
