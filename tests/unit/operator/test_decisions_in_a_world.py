"""The real steps run against an in-memory world, in any order of events, cuts, restarts and late effects.

The world judges each effect (`world.py`). This file has the events that may happen, and what must hold after
them: there is one worker at a time, and every series of steps ends when nothing more happens.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from managed_session_api.events import END_TYPES, RUN_STARTED
from managed_session_api.times import to_wire
from managed_session_operator.domain.offer import Offer
from pydantic import SecretStr

from .class_rules import EFFECTS, ClassRules
from .examples import ENVIRONMENT, NAME, SESSION
from .gate import Passage
from .preparation_rules import PreparationRules
from .process import Process
from .snapshot_rules import SnapshotRules
from .world import World

MAX_RECONCILES = 12
SOON = 3.0
"""A reconcile that asks for another one within this time gets it, before anything else happens."""
RECLAIM = timedelta(seconds=120)
LONG_AGO = timedelta(seconds=310)
MAX_STAGES = 5
RARELY = st.sampled_from([False, False, False, True])


class Sessions(ClassRules, SnapshotRules, PreparationRules):
    """One resource, and everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.operator = Process(self.world, self.loop)
        self.frozen: Process | None = None
        self.gone: list[Process] = []
        self.events = 0

    @initialize(stage=st.sampled_from([0, 0, 1, 2, 3, 4, 5]))
    def begins(self, stage: int) -> None:
        """Start in the middle of a session's life more often than at its beginning."""
        if stage:
            self.message(announced=False)
        for _ in range(stage - 1):
            self.turn_goes_on()
        if stage == MAX_STAGES:
            self.world.worker_ends("Idle")
            self.settle()
            self.message(announced=True)

    # What the operator does

    def take_over(self) -> None:
        """Another process becomes the leader, with an empty cache and a higher epoch."""
        self.world.epoch += 1
        self.operator.is_superseded()
        self.gone.append(self.operator)
        self.operator = Process(self.world, self.loop)

    def settle(self) -> None:
        """Reconcile until there is nothing to do for a while, which must happen."""
        endless = 0
        for _ in range(MAX_RECONCILES):
            if self.world.released:
                return
            again = self.operator.reconcile()
            if again is None or again > SOON:
                return
            endless += again == 0
            assert endless < MAX_RECONCILES // 4, f"no end of steps: {self.operator.link.step()}"
            self.world.time_passes(again)

    @precondition(lambda self: not self.world.released)
    @rule()
    def works(self) -> None:
        self.settle()

    @precondition(lambda self: not self.world.released)
    @rule()
    def turn_goes_on(self) -> None:
        """The usual course: an offer, its worker, the worker's heartbeat."""
        self.poll()
        self.operator.reconcile()
        self.world.beat()
        self.operator.reconcile()

    @precondition(lambda self: not self.world.released)
    @rule()
    def turn_lasts(self) -> None:
        """A turn lasts longer than E2B lets a sandbox run."""
        self.turn_goes_on()
        self.world.time_passes(4000)
        self.settle()

    @precondition(lambda self: not self.world.released)
    @rule()
    def turn_ends(self) -> None:
        """A turn ends cleanly, and the session is idle."""
        self.turn_goes_on()
        self.world.worker_ends("Idle")
        self.settle()
        self.world.time_passes(61)

    @precondition(lambda self: not self.world.released)
    @rule()
    def offer_is_not_used(self) -> None:
        """Work is offered for longer than the operator waits for a message."""
        self.session_without_message()
        for _ in range(2):
            self.poll()
            self.settle()
            self.world.time_passes(61)

    @precondition(lambda self: not self.world.released)
    @rule(effects=st.integers(0, 3), more=st.integers(0, 3))
    def unused_offer_meets_a_message(self, effects: int, more: int) -> None:
        """A message arrives while a leader, which dies soon, stops the unused work."""
        self.session_without_message()
        self.poll()
        self.settle()
        self.world.time_passes(61)
        if not self.world.released and self.operator.reaches(effects):
            self.message(announced=False)
            self.operator.reaches_next(more)
            self.take_over()

    @precondition(lambda self: not self.world.released)
    @rule(effects=EFFECTS, frozen=st.booleans())
    def is_cut_off(self, effects: int, frozen: bool) -> None:
        """The leader dies or freezes before an effect, and another one takes over."""
        if self.operator.reaches(effects):
            self.frozen = self.operator if frozen else self.frozen
            self.take_over()

    @precondition(lambda self: not self.world.released)
    @rule(effects=EFFECTS, turns=st.integers(1, 3))
    def is_frozen_for_a_while(self, effects: int, turns: int) -> None:
        """The next leader continues the work, and then the frozen one thaws."""
        self.is_cut_off(effects, frozen=True)
        for _ in range(turns):
            if not self.world.released:
                self.turn_goes_on()
        if self.frozen is not None:
            self.thaws()

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def thaws(self) -> None:
        """The frozen leader sends the effect that it was about to send."""
        assert self.frozen is not None
        frozen, self.frozen = self.frozen, None
        recorded = self.world.get(self.world.part("sandbox").get("id"))
        run = self.operator.run
        heard = self.world.get(run.sandbox_id) if run is not None and run.live else None
        worker = heard.worker if heard is not None else None
        frozen.goes_on()
        if recorded is not None and not self.world.deleted:
            assert recorded.alive, "a late effect killed the sandbox of a live resource"
            assert heard is None or heard.worker == worker, "a late effect ended a worker that is listened to"

    @precondition(lambda self: not self.world.released)
    @rule(effects=EFFECTS, done=st.booleans())
    def gets_no_answer(self, effects: int, done: bool) -> None:
        """An effect is not answered, whether done or not, and the same leader continues."""
        self.operator.link.gate.after(effects, Passage.LOST if done else Passage.REFUSED)
        self.settle()
        self.operator.link.gate.open()

    @precondition(lambda self: not self.world.released)
    @rule(
        effects=EFFECTS,
        happens=st.sampled_from(
            ["beat", "ends", "killed", "message", "time", "vanishes", "pauses", "stopped"]
        ),
    )
    def is_overtaken(self, effects: int, happens: str) -> None:
        """Something happens between what the leader reads and what it does."""
        if not self.operator.reaches(effects):
            return
        match happens:
            case "beat":
                self.world.beat()
            case "ends":
                self.world.worker_ends("Idle")
            case "killed":
                self.world.worker_ends("Killed")
            case "message":
                self.message(announced=True)
            case "time":
                self.world.time_passes(61)
            case "vanishes":
                self.sandbox_vanishes()
            case "pauses":
                self.countdown_ends()
            case "stopped":
                self.item_is_stopped_by_someone()
        self.operator.goes_on()

    # What others do

    @precondition(lambda self: not self.world.released)
    @rule(queues=st.booleans(), answers=st.booleans(), told=st.booleans())
    def user_is_awaited(self, queues: bool, answers: bool, told: bool) -> None:
        """The turn comes to a call that its user has to answer."""
        self.turn_goes_on()
        if not self.world.released:
            self.world.queues_lapsed, self.world.answers_queue = queues, answers
            self.world.await_user()
            if told:
                self.settle()

    @precondition(lambda self: self.world.awaiting)
    @rule(announced=st.booleans())
    def user_answers(self, announced: bool) -> None:
        self.world.answer()
        if announced and not self.world.released:
            self.event(RUN_STARTED)

    @precondition(lambda self: self.world.awaiting and not self.world.released)
    @rule(effects=st.integers(0, 6), dies=st.booleans())
    def answer_meets_the_pause(self, effects: int, dies: bool) -> None:
        """The user answers while the operator pauses the sandbox, which may die in between."""
        self.settle()
        self.world.time_passes(61)
        if self.operator.reaches(effects):
            self.world.answer()
            if dies:
                self.take_over()
            else:
                self.operator.goes_on()

    @rule(announced=st.booleans())
    def message(self, announced: bool) -> None:
        world = self.world
        if world.ended or world.deleted or world.released or world.awaiting:
            # A session that waits for an answer accepts no message.
            return
        if not world.messages:
            world.turn_began = world.now
        world.messages += 1
        world.message_count += 1
        world.queue()
        if announced:
            self.event(RUN_STARTED)

    @precondition(lambda self: not self.world.released)
    @rule()
    def run_is_announced(self) -> None:
        """An event announces a run, late, again, or before its work."""
        self.event(RUN_STARTED)

    @rule()
    def session_without_message(self) -> None:
        if not self.world.ended and not self.world.deleted:
            self.world.queue()

    def event(self, type_: str) -> None:
        """The webhook records an event."""
        self.events += 1
        noted = {"id": f"whe_{self.events}", "type": type_, "createdAt": to_wire(self.world.now)}
        self.world.write(lastEvent=noted)

    @rule()
    def poll(self) -> None:
        world = self.world
        held = world.offered_at is not None and world.now - world.offered_at < RECLAIM
        if world.item == "queued" and not held and not world.released:
            world.offered_at = world.now
            offer = Offer(SESSION, SESSION, ENVIRONMENT, world.now, SecretStr("wrapped"))
            self.operator.context.inbox.put(offer)

    @rule()
    def worker_heartbeats(self) -> None:
        self.world.beat()

    @rule(reason=st.sampled_from(["Idle", "NoMessage", "Killed", "Error", "Stopped"]))
    def worker_ends(self, reason: str) -> None:
        self.world.worker_ends(reason)

    @rule(seconds=st.sampled_from([1, 3, 11, 61, 121, 310, 1000, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.world.time_passes(seconds)

    @rule(seconds=st.sampled_from([0, 30]))
    def listing_lags(self, seconds: int) -> None:
        self.world.lag = timedelta(seconds=seconds)

    @rule()
    def sandbox_vanishes(self) -> None:
        for sandbox in self.world.sandboxes:
            sandbox.vanish()

    @rule()
    def countdown_ends(self) -> None:
        for sandbox in self.world.sandboxes:
            sandbox.paused_at = sandbox.paused_at or self.world.now

    @rule()
    def item_is_stopped_by_someone(self) -> None:
        world = self.world
        work, heard = world.part("work"), "lastEvent" in world.body["status"]
        served = "claim" in work and "finishedAt" not in work
        if world.item == "queued" or (world.item == "starting" and not served and not heard):
            # Nobody can know of a message whose work was stopped before anyone heard of it.
            world.messages = 0
        world.stop()

    @rule()
    def stream_is_cut(self) -> None:
        run = self.operator.run
        if run is not None and run.live:
            run.cut = "cut"

    @precondition(lambda self: not self.world.released)
    @rule(suspended=RARELY)
    def suspend(self, suspended: bool) -> None:
        self.world.patch({"spec": {"lifecycle": {"suspend": suspended}}})

    @rule(announced=st.booleans(), type_=st.sampled_from(sorted(END_TYPES)), meant=RARELY)
    def session_ends(self, announced: bool, type_: str, meant: bool) -> None:
        if self.world.released or not meant:
            return
        self.world.ended = "deleted" if type_.endswith("deleted") else "terminated"
        self.world.item = None
        if announced:
            self.event(type_)
        else:
            self.operator.context.cache(NAME).end_check_due = True

    @rule(meant=RARELY)
    def resource_is_deleted(self, meant: bool) -> None:
        if not self.world.deleted and not self.world.released and meant:
            self.world.delete()

    @rule()
    def resync(self) -> None:
        self.operator.resync()

    # What must hold

    @invariant()
    def one_worker_at_a_time(self) -> None:
        working = [each for each in self.world.sandboxes if each.alive and each.worker]
        assert len(working) <= 1
        assert self.world.worker in (None, *working)

    def teardown(self) -> None:
        """Nothing more happens, so everything that was begun must end."""
        try:
            self.comes_to_its_end()
        finally:
            for process in (*self.gone, self.operator):
                process.end()
            self.loop.close()

    def comes_to_its_end(self) -> None:
        """Play the last rounds, and check what is left."""
        world = self.world
        world.lag, self.frozen = timedelta(0), None
        world.preparations_fail = False
        # A tie would hold the session back for good, and a long turn until its user interrupts it.
        world.classes.pop("silver", None)
        if "gold" in world.classes or world.message_count % 2:
            self.class_changes("gold", "gold:1", denied=True, precedence=0, locked=False, limit=None)
        decided_at = world.now
        world.answer()
        self.message(announced=False)
        for _ in range(12):
            self.poll()
            self.settle()
            world.beat()
            self.settle()
            world.worker_ends("Idle")
            self.settle()
            world.time_passes(LONG_AGO.total_seconds())
            self.operator.resync()
        left = [each for each in world.sandboxes if each.alive]
        self.class_applies(left, decided_at)
        self.snapshots_are_settled()
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


Sessions.TestCase.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
test_whatever_happens_to_a_session = pytest.mark.timeout(600)(Sessions.TestCase)
