"""What each step does, as a series of effects on a `World`; `decide` alone chooses the step.

A step is a generator that stops before each effect: there it can be cut off, or freeze and go on late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from managed_session_operator.decisions import Step

from .modelled_process import Effects
from .modelled_queue_steps import QueueSteps
from .modelled_sandbox_steps import SandboxSteps
from .modelled_worker_steps import WorkerSteps


@dataclass
class Operator(QueueSteps, SandboxSteps, WorkerSteps):
    """One process."""

    def effects(self, step: Step) -> Effects:
        """The effects of a step, one after each `yield`."""
        doing: dict[Step, Callable[[], Effects]] = {
            Step.FINALIZE: self._finalize,
            Step.ADOPT: self._take,
            Step.PROVE: self._take,
            Step.CONFIRM_END: self._confirm_end,
            Step.DELETE: self._delete,
            Step.REJECT_OFFER: self._reject,
            Step.AWAIT_MESSAGE: self._await_message,
            Step.RELEASE_UNUSED: self._release_unused,
            Step.CLAIM: self._claim,
            Step.REFRESH_TOKEN: self._refresh,
            Step.DROP_OFFER: self._drop,
            Step.PROVISION: self._provision,
            Step.ACKNOWLEDGE: self._acknowledge,
            Step.START_WORKER: self._start,
            Step.STOP_WORKER: self._stop_worker,
            Step.RECORD_HEARTBEAT: self._record_heartbeat,
            Step.REATTACH: self._reattach,
            Step.NOTE_VANISHED: self._note_vanished,
            Step.EXTEND: self._extend,
            Step.ROLL_OVER: self._roll_over,
            Step.FINISH: self._finish,
            Step.SUSPEND: self._suspend,
            Step.PAUSE: self._pause,
            Step.RESOLVE_CREATE: self._resolve_create,
            Step.LOOK: self._look,
            Step.RECOVER: self._recover,
        }
        return doing[step]()
