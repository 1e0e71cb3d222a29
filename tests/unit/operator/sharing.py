"""Sessions of several classes that share slots, and the rules by which each slot must be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

from hypothesis import strategies as st
from managed_session_operator.capacity.class_shares import DEFAULT_SHARE, ClassShare, guarantees_within
from managed_session_operator.capacity.slots import Capacity

from .examples import ago

CLASSES = ["", "gold", "silver"]
MOST_SLOTS = 6
FLOOD = 4
"""Number of sessions that arrive at once."""

Shares = Mapping[str, ClassShare]
Action = tuple[str, str, int]
"""(what happens, the class, a number that chooses a session, is its age, or chooses the new shares)."""


class UnfairError(AssertionError):
    """A slot was given, kept or left unused against the rules."""


@dataclass(frozen=True)
class Scenario:
    """A number of slots, the shares (the first of them at first), and what happens."""

    slots: int
    prewarm_percent: int
    shares: list[Shares]
    actions: list[Action]


@dataclass
class Session:
    """A session as the scenario knows it. `since` orders it among those of its class.

    If its class changes while it waits, it asks with the new one (`moves_to`) once it is woken.
    """

    name: str
    class_name: str
    since: datetime
    announced: bool
    moves_to: str | None = None

    @property
    def rank(self) -> tuple[datetime, str]:
        """Its place among sessions that are otherwise alike. The least is the oldest."""
        return self.since, self.name


@dataclass
class Batch:
    """What follows from one action, until nobody has anything left to do."""

    served: list[Session] = field(default_factory=list)
    displaced: list[Session] = field(default_factory=list)
    moved: list[Session] = field(default_factory=list)


class Sharing:
    """Plays a scenario on a capacity. A session asks only when it arrives and when it is woken.

    Args:
        kind: the capacity to check.
        scenario: what happens.
    """

    def __init__(self, kind: type[Capacity], scenario: Scenario) -> None:
        self._woken: list[str] = []
        self._slots, self._percent = scenario.slots, scenario.prewarm_percent
        self.capacity = kind(scenario.slots, scenario.prewarm_percent, wake=self._woken.append)
        self._shares: Shares = {}
        self.waiting: dict[str, Session] = {}
        self.running: dict[str, Session] = {}
        self._held_anyway: set[str] = set()
        self._allowed_over: dict[str, int] = {}
        self._arrived = 0
        self._to_share = scenario.shares
        self._share(scenario.shares[0])

    def play(self, actions: list[Action]) -> None:
        """Play the actions.

        Raises:
            UnfairError: a rule is broken.
        """
        for action in _one_by_one(actions):
            what, class_name, number = action
            batch = Batch()
            match what:
                case "arrives" | "is announced":
                    self._arrive(class_name, number, batch, announced=what == "is announced")
                case "is claimed":
                    self._claim(number, batch)
                case "ends":
                    self._end(self.running, number)
                case "leaves":
                    self._end(self.waiting, number)
                case "gets another class":
                    self._move(class_name, number)
                case "is found running":
                    self._find(class_name, number)
                case "are shared anew":
                    self._share(self._to_share[number % len(self._to_share)])
            self._settle(batch)
            self._judge(batch)

    def _share(self, shares: Shares) -> None:
        self._shares = shares
        self.capacity.share_slots(shares)
        self._allowed_over = {name: self.used(name) for name in CLASSES}

    def _arrive(self, class_name: str, age: int, batch: Batch, *, announced: bool) -> None:
        self._arrived += 1
        session = Session(f"session-{self._arrived:03}", class_name, ago(age), announced)
        self.waiting[session.name] = session
        self._ask(session, batch)

    def _claim(self, number: int, batch: Batch) -> None:
        announced = [each for each in (*self.waiting.values(), *self.running.values()) if each.announced]
        if announced:
            session = announced[number % len(announced)]
            session.announced = False
            self._ask(session, batch)

    def _move(self, class_name: str, number: int) -> None:
        if self.waiting:
            list(self.waiting.values())[number % len(self.waiting)].moves_to = class_name

    def _ask(self, session: Session, batch: Batch) -> None:
        if session.name in self.waiting and session.moves_to is not None:
            session.class_name, session.moves_to = session.moves_to, None
            batch.moved.append(session)
        got = self.capacity.ask(
            session.name, session.since, announced=session.announced, class_name=session.class_name
        )
        if got and session.name in self.waiting:
            self.running[session.name] = self.waiting.pop(session.name)
            batch.served.append(session)

    def _end(self, sessions: dict[str, Session], number: int) -> None:
        if sessions:
            name = list(sessions)[number % len(sessions)]
            del sessions[name]
            self._held_anyway.discard(name)
            self.capacity.release(name)

    def _find(self, class_name: str, number: int) -> None:
        self._arrived += 1
        session = Session(f"session-{self._arrived:03}", class_name, ago(number), announced=False)
        self.running[session.name] = session
        self._held_anyway.add(session.name)
        self.capacity.hold(session.name, class_name)

    def _settle(self, batch: Batch) -> None:
        """Let each woken session act, as its reconciliation would, until none is left."""
        while self._woken:
            name = self._woken.pop(0)
            if name in self.waiting:
                self._ask(self.waiting[name], batch)
            elif self.capacity.displaced(name):
                batch.displaced.append(self.running.pop(name))
                self.capacity.release(name)

    def used(self, class_name: str, *, announced: bool | None = None) -> int:
        """Return how many slots the class has."""
        return sum(
            each.class_name == class_name and announced in (None, each.announced)
            for each in self.running.values()
        )

    def share(self, class_name: str) -> ClassShare:
        """Return the class's share."""
        return self._shares.get(class_name, DEFAULT_SHARE)

    def most(self, class_name: str) -> int:
        """Return how many slots the class may have."""
        most = self.share(class_name).max_active_sandboxes
        return most if most is not None else MOST_SLOTS * 100

    def waits(self, class_name: str, *, announced: bool = False) -> list[Session]:
        """Return the class's sessions that wait, oldest first."""
        found = [
            each
            for each in self.waiting.values()
            if each.class_name == class_name and each.announced == announced
        ]
        return sorted(found, key=lambda each: each.rank)

    def _judge(self, batch: Batch) -> None:
        self._judge_counts()
        self._judge_maximum()
        self._judge_idle_slots()
        self._judge_announced_runs()
        if batch.moved:
            # Who is next was decided before all of them had their new class.
            return
        for class_name in CLASSES:
            self._judge_order_inside(class_name, batch)
        if not batch.displaced:
            for one in CLASSES:
                for other in CLASSES:
                    if one != other:
                        self._judge_between(one, other, batch)

    def _judge_counts(self) -> None:
        _rule(self.capacity.used == len(self.running), "each slot is counted once")
        _rule(self.capacity.waiting == len(self.waiting), "each waiting session is counted once")
        _rule(len(self.running) - len(self._held_anyway) <= self._slots, "no more slots than there are")
        for counted, sessions in (
            (self.capacity.used_by_class, self.running),
            (self.capacity.waiting_by_class, self.waiting),
        ):
            by_class = dict.fromkeys(CLASSES, 0)
            for each in sessions.values():
                by_class[each.class_name] += 1
            _rule(counted == {name: count for name, count in by_class.items() if count}, "counts by class")

    def _judge_maximum(self) -> None:
        for name in CLASSES:
            held = sum(self.running[each].class_name == name for each in self._held_anyway)
            allowed = max(self.most(name), self._allowed_over.get(name, 0)) + held
            _rule(self.used(name) <= allowed, f"class {name!r} keeps its maximum")

    def _judge_idle_slots(self) -> None:
        for name in CLASSES:
            may = self.used(name) < self.most(name)
            if self.capacity.free and may:
                _rule(not self.waits(name), f"no slot is idle while class {name!r} may have it")
            early = len(self.running) < self._slots * self._percent // 100
            if early and may:
                _rule(not self.waits(name, announced=True), f"an announced run of {name!r} gets a slot")

    def _judge_announced_runs(self) -> None:
        for name in CLASSES:
            if self.waits(name) and self.used(name, announced=False) < self.most(name):
                full = self.used(name) >= self.most(name)
                own = self.used(name, announced=True)
                all_announced = sum(each.announced for each in self.running.values())
                _rule(not own if full else not all_announced, "announced runs give way to claimed work")

    def _judge_order_inside(self, class_name: str, batch: Batch) -> None:
        served = [each for each in batch.served if each.class_name == class_name]
        for announced in (False, True):
            newest = max((each.rank for each in served if each.announced == announced), default=None)
            left = self.waits(class_name, announced=announced)
            if newest is not None and left:
                _rule(newest < left[0].rank, f"oldest first inside class {class_name!r}")
        if any(each.announced for each in served):
            _rule(not self.waits(class_name), f"claimed work of class {class_name!r} comes first")

    def _judge_between(self, one: str, other: str, batch: Batch) -> None:
        """Check that `one` got no slot to which `other`, which still waits, had the better right.

        The inequality is `used(one) / weight(one) - used(other) / weight(other) <= 1 / weight(one)`: before
        the last of its slots, `one` had no more for its weight than `other` has.
        """
        for announced in (False, True):
            served = [each for each in batch.served if each.class_name == one and each.announced == announced]
            left = self.waits(other, announced=announced)
            if announced and served and self.used(other) < self.most(other):
                _rule(not self.waits(other), "claimed work comes before announced runs of every class")
            if not served or not left or self.used(other) >= self.most(other):
                continue
            guarantees = guarantees_within(self._shares, self._slots)
            before = self.used(one) - 1
            below = before < guarantees.get(one, 0)
            other_below = self.used(other) < guarantees.get(other, 0)
            _rule(below or not other_below, f"class {other!r} gets its guaranteed slots before {one!r}")
            if below and not other_below:
                continue
            ahead = Fraction(before, self.share(one).weight) - Fraction(
                self.used(other), self.share(other).weight
            )
            _rule(ahead <= 0, f"class {one!r} is not ahead of {other!r} for its weight")
            newest = max(each.rank for each in served)
            _rule(ahead < 0 or newest < left[0].rank, "the oldest goes first among equal classes")


def _one_by_one(actions: list[Action]) -> Iterator[Action]:
    """Return the actions, with a flood as its single arrivals."""
    for what, class_name, number in actions:
        if what == "floods":
            yield from (("arrives", class_name, number + more) for more in range(FLOOD))
        else:
            yield what, class_name, number


def _rule(holds: bool, rule: str) -> None:
    if not holds:
        raise UnfairError(rule)


def violated(kind: type[Capacity], scenario: Scenario) -> str | None:
    """Return the rule that the capacity breaks in the scenario; None if it keeps all."""
    try:
        Sharing(kind, scenario).play(scenario.actions)
    except UnfairError as error:
        return str(error)
    return None


_shares = st.dictionaries(
    st.sampled_from(CLASSES[1:]),
    st.builds(
        ClassShare,
        weight=st.integers(1, 4),
        guaranteed_slots=st.integers(0, 4),
        max_active_sandboxes=st.sampled_from([None, None, 1, 2, 3]),
    ),
)
_WHAT = (
    *("floods",) * 3,
    *("arrives",) * 2,
    *("ends",) * 6,
    *("is announced",) * 3,
    "is claimed",
    "leaves",
    "gets another class",
    "is found running",
    *("are shared anew",) * 3,
)
_actions = st.lists(
    st.tuples(st.sampled_from(_WHAT), st.sampled_from(CLASSES), st.integers(0, 60)), min_size=12, max_size=24
)
scenarios = st.builds(
    Scenario,
    slots=st.integers(1, MOST_SLOTS),
    prewarm_percent=st.sampled_from([100, 50, 0]),
    shares=st.lists(_shares, min_size=1, max_size=3),
    actions=_actions,
)
