"""The decisions drive a modelled world through any order of events, cuts, restarts and late effects.

The world judges each effect (`world.py`); here are the things that may happen, and what must hold after
them: one worker at a time, and an end to every series of decisions once nothing happens any more.
"""

from __future__ import annotations

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from managed_session_api.conditions import Reason
from managed_session_api.events import END_TYPES, RUN_STARTED
from managed_session_api.times import to_wire
from managed_session_operator.decisions import Decision, Step
from managed_session_operator.offers import Offer
from pydantic import SecretStr

from .examples import ENVIRONMENT, SESSION
from .modelled_operator import Operator
from .modelled_process import Effects, Memory
from .world import NotRunningError, RefusedError, World

MOST_DECISIONS = 30
RECLAIM = timedelta(seconds=120)
UNSERVED = {Reason.SUSPENDED, Reason.SANDBOX_VANISHED, Reason.SESSION_ENDED}
LONG_AGO = timedelta(seconds=310)
MOST_STAGES = 5
RARELY = st.sampled_from([False, False, False, True])


class Sessions(RuleBasedStateMachine):
    """One resource and all that may befall it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.operator = Operator(self.world, Memory(self.world.epoch))
        self.frozen: Effects | None = None
        self.suspects: set[str] = set()
        self.unneeded: set[str] = set()
        self.events = 0

    @initialize(stage=st.integers(0, 5))
    def begins(self, stage: int) -> None:
        """In the middle of a session's life more often than at its beginning."""
        if stage:
            self.message(announced=False)
        for _ in range(stage - 1):
            self.turn_goes_on()
        if stage == MOST_STAGES:
            self.worker_ends("Idle")
            self.settle()
            self.message(announced=True)

    # What the operator does

    def take_over(self) -> None:
        """Another process leads, with empty memory and a higher epoch."""
        self.world.epoch += 1
        self.operator = Operator(self.world, Memory(self.world.epoch))

    def settled(self, decision: Decision) -> bool:
        """Whether there is nothing to do now."""
        if decision.step is Step.WAIT and decision.reason in UNSERVED:
            self.operator.memory.offer = None
        awaits = decision.step is Step.AWAIT_MESSAGE and not self.world.messages
        if awaits:
            list(self.operator.effects(Step.AWAIT_MESSAGE))
        return awaits or decision.step in (Step.WAIT, Step.REFUSE)

    def look(self) -> bool:
        """One decision and its whole step; whether there was something to do."""
        self.operator.hear()
        decision = self.operator.decide()
        if self.settled(decision):
            return False
        try:
            list(self.operator.effects(decision.step))
        except NotRunningError:
            self.operator.memory.disconnect()
        except RefusedError:
            self.operator.memory.run = None
        return True

    def settle(self) -> None:
        """Look until there is nothing to do: that must come."""
        taken = []
        for _ in range(MOST_DECISIONS):
            taken.append(self.operator.decide().step.name)
            if self.world.released or not self.look():
                return
        raise AssertionError(f"no end of decisions: {taken}")

    @precondition(lambda self: not self.world.released)
    @rule()
    def works(self) -> None:
        self.settle()

    @precondition(lambda self: not self.world.released)
    @rule()
    def turn_goes_on(self) -> None:
        """What usually comes next: an offer, its worker, the worker's heartbeat."""
        self.poll()
        self.look()
        self.worker_heartbeats()
        self.look()

    @precondition(lambda self: not self.world.released)
    @rule(effects=st.integers(0, 4), frozen=st.booleans())
    def is_cut_off(self, effects: int, frozen: bool) -> None:
        """The leader dies, or freezes, before an effect of its step; another one takes over."""
        self.operator.hear()
        decision = self.operator.decide()
        if not self.settled(decision):
            series = self.operator.effects(decision.step)
            try:
                for _ in range(effects + 1):
                    next(series)
            except (RefusedError, StopIteration):
                return
            if frozen:
                self.frozen = series
            else:
                series.close()
        self.take_over()

    @precondition(lambda self: not self.world.released)
    @rule(effects=st.integers(0, 4), turns=st.integers(1, 3))
    def is_frozen_for_a_while(self, effects: int, turns: int) -> None:
        """The next leader gets on with the work, and then the frozen one thaws."""
        self.is_cut_off(effects, frozen=True)
        for _ in range(turns):
            if not self.world.released:
                self.turn_goes_on()
        if self.frozen is not None:
            self.thaws()

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def thaws(self) -> None:
        """The frozen leader sends the one effect that it was about to send."""
        assert self.frozen is not None
        recorded = self.world.get(self.world.part("sandbox").get("id"))
        run = self.operator.memory.run
        heard = self.world.get(run.sandbox_id) if run is not None and run.live else None
        worker = heard.worker if heard is not None else None
        self.world.late = True
        try:
            next(self.frozen, None)
        except RefusedError:
            pass
        finally:
            self.world.late = False
            self.frozen.close()
            self.frozen = None
        if recorded is not None and self.world.deleted_at is None:
            assert recorded.alive, "a late effect killed the sandbox of a live resource"
            assert heard is None or heard.worker == worker, "a late effect ended a worker that is listened to"

    # What others do

    @rule(announced=st.booleans())
    def message(self, announced: bool) -> None:
        world = self.world
        if world.ended or world.deleted_at:
            return
        world.messages += 1
        self.queue()
        if announced:
            self.event(RUN_STARTED)

    @rule()
    def session_without_message(self) -> None:
        if not self.world.ended and not self.world.deleted_at:
            self.queue()

    def queue(self) -> None:
        """Work of an idle session."""
        if self.world.item in (None, "stopped"):
            self.world.item, self.world.offered_at = "queued", None

    def event(self, type_: str) -> None:
        """The webhook notes an event."""
        self.events += 1
        self.world.write(
            self.world.version,
            lastEvent={"id": f"whe_{self.events}", "type": type_, "createdAt": to_wire(self.world.now)},
        )

    @rule()
    def poll(self) -> None:
        world = self.world
        held = world.offered_at is not None and world.now - world.offered_at < RECLAIM
        if world.item == "queued" and not held and not world.released:
            world.offered_at = world.now
            offer = Offer(SESSION, SESSION, ENVIRONMENT, world.now, SecretStr("wrapped"))
            self.operator.memory.offer = offer

    @rule()
    def worker_heartbeats(self) -> None:
        self.world.beat()

    @rule(reason=st.sampled_from(["Idle", "NoMessage", "Killed", "Error", "Stopped"]))
    def worker_ends(self, reason: str) -> None:
        sandbox = self.world.worker
        if sandbox is None or sandbox.worker is None:
            return
        if reason in ("Idle", "NoMessage", "Stopped") and sandbox.worker in sandbox.heartbeats:
            self.world.stop()
            self.world.messages = 0
        sandbox.end_worker(reason)

    @rule(seconds=st.sampled_from([1, 3, 11, 61, 121, 310, 1000, 4000]))
    def time_passes(self, seconds: int) -> None:
        """Workers heartbeat meanwhile, frozen ones do not."""
        world = self.world
        world.now += timedelta(seconds=seconds)
        sandbox = world.worker
        if sandbox is not None and sandbox.worker in sandbox.heartbeats and world.item == "active":
            world.heartbeat_at = world.now
        world.requeue()

    @rule(seconds=st.sampled_from([0, 30]))
    def listing_lags(self, seconds: int) -> None:
        self.world.lag = timedelta(seconds=seconds)

    @rule()
    def sandbox_vanishes(self) -> None:
        for sandbox in self.world.sandboxes:
            sandbox.alive, sandbox.running, sandbox.worker = False, False, None

    @rule()
    def countdown_ends(self) -> None:
        for sandbox in self.world.sandboxes:
            sandbox.running = False

    @rule()
    def item_is_stopped_by_someone(self) -> None:
        if self.world.item == "queued":
            # Nobody can know of a message whose work was taken away before anyone had heard of it.
            self.world.messages = 0
        self.world.stop()

    @rule()
    def stream_is_cut(self) -> None:
        if self.operator.memory.run is not None and self.operator.memory.run.live:
            self.operator.memory.run.cut = "cut"

    @rule(suspended=RARELY)
    def suspend(self, suspended: bool) -> None:
        self.world.suspended = suspended
        self.world.touch()

    @rule(announced=st.booleans(), type_=st.sampled_from(sorted(END_TYPES)), meant=RARELY)
    def session_ends(self, announced: bool, type_: str, meant: bool) -> None:
        if self.world.released or not meant:
            return
        self.world.ended, self.world.item = True, None
        if announced:
            self.event(type_)
        else:
            self.operator.memory.end_check_due = True

    @rule(meant=RARELY)
    def resource_is_deleted(self, meant: bool) -> None:
        if self.world.deleted_at is None and meant:
            self.world.deleted_at = self.world.now
            # Nothing holds a resource that is not proven ours: it is gone at once.
            self.world.released = not self.world.proven
            self.world.touch()

    @rule()
    def sweep(self) -> None:
        world, memory = self.world, self.operator.memory
        self.operator.note_items()
        recorded, state = world.part("sandbox").get("id"), world.part("sandbox").get("state")
        listed = world.listed()
        memory.missing = recorded is not None and recorded not in {each.name for each in listed}
        suspects = {
            each.name for each in listed if world.released or (state != "Creating" and each.name != recorded)
        }
        for sandbox in listed:
            if sandbox.name in suspects & self.suspects:
                world.kill(sandbox)
        unneeded = {
            each.name
            for each in listed
            if each.running and each.name == recorded and state == "Paused" and memory.connected is None
        }
        memory.running_unexpectedly = bool(unneeded & self.unneeded)
        self.suspects, self.unneeded = suspects, unneeded

    # What must hold

    @invariant()
    def one_worker_at_a_time(self) -> None:
        working = [each for each in self.world.sandboxes if each.alive and each.worker]
        assert len(working) <= 1
        assert self.world.worker in (None, *working)

    def teardown(self) -> None:
        """Nothing happens any more: whatever was begun comes to its end."""
        world = self.world
        world.lag, self.frozen = timedelta(0), None
        for _ in range(12):
            self.poll()
            if not world.released:
                self.settle()
            self.worker_heartbeats()
            if not world.released:
                self.settle()
            self.worker_ends("Idle")
            if not world.released:
                self.settle()
            self.time_passes(round(LONG_AGO.total_seconds()))
            self.sweep()
        left = [each for each in world.sandboxes if each.alive]
        if world.released:
            assert not left, "a sandbox outlived its resource"
            return
        assert len(left) <= 1
        assert not any(each.running for each in left), "a sandbox runs for nothing"
        claim_open = world.part("work").get("claim") and not world.part("work").get("finishedAt")
        if not (world.suspended or world.ended):
            assert not claim_open, "a claim that nobody serves"
            assert world.item != "queued", "work that nobody serves"
            assert claim_open or world.item != "starting", "work that nobody would be offered again"
            assert not world.messages, "a message that nobody serves"


Sessions.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_whatever_happens_to_a_session = Sessions.TestCase
