"""Chaos: hands that do one drawn thing after the other to the system, and mend it again."""

from __future__ import annotations

import asyncio

import httpx
from managed_session_local.control_plane import ProcessFailedError
from managed_session_local.simulators.anthropic.client import ControlError

from .cloud_faults import CLOUD_FAULTS
from .fault import Fault
from .plan import blows
from .process_faults import PROCESS_FAULTS
from .world import World

WAIT_SECONDS = 2.0
HOLD_SECONDS = 2.0

FAULTS: dict[str, Fault] = {each.kind: each for each in (*CLOUD_FAULTS, *PROCESS_FAULTS)}
WEIGHTS = {kind: each.weight for kind, each in FAULTS.items()}


async def hand(world: World, seed: int, number: int) -> None:
    """Do what the plan says, until cancelled; what lasts is undone even then."""
    for blow in blows(seed, number, WEIGHTS, wait=WAIT_SECONDS, hold=HOLD_SECONDS):
        await asyncio.sleep(blow.wait_seconds)
        try:
            await FAULTS[blow.kind].do(world, blow)
        except (httpx.HTTPError, ControlError, ProcessFailedError, TimeoutError) as error:
            # The target went away between choice and act, or the machine is too slow to be ready in time.
            world.trace.add("chaos failed", blow.kind, detail=f"{type(error).__name__}: {error}"[:300])
