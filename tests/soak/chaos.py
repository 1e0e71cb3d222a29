"""The chaos: loops that inject one random fault after the other, and undo it.

A loop is never cancelled while it can end by itself: a fault that is cancelled as it begins is not undone.
"""

from __future__ import annotations

import httpx
from managed_session_devkit.control_plane import ProcessFailedError
from managed_session_devkit.simulators.anthropic.client import ControlError

from .cloud_faults import CLOUD_FAULTS
from .fault import Fault
from .plan import planned_faults
from .process_faults import PROCESS_FAULTS
from .shared_state import SharedState

WAIT_SECONDS = 2.0
HOLD_SECONDS = 2.0

FAULTS: dict[str, Fault] = {each.kind: each for each in (*CLOUD_FAULTS, *PROCESS_FAULTS)}
WEIGHTS = {kind: each.weight for kind, each in FAULTS.items()}


async def inject_faults(shared: SharedState, seed: int, number: int) -> None:
    """Inject the planned faults of a loop until the chaos is over. Undo each of them."""
    for planned in planned_faults(seed, number, WEIGHTS, wait=WAIT_SECONDS, hold=HOLD_SECONDS):
        await shared.hold(planned.wait_seconds)
        if shared.chaos_is_over.is_set():
            return
        try:
            await FAULTS[planned.kind].do(shared, planned)
        except (httpx.HTTPError, ControlError, ProcessFailedError, TimeoutError) as error:
            # The target has vanished meanwhile, or the machine is too slow to be ready in time.
            shared.trace.add("chaos failed", planned.kind, detail=f"{type(error).__name__}: {error}"[:300])
