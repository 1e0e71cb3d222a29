"""Bundles what the steps work with: ports to the outside, settings, and this process's caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from managed_session_api.conditions import Reason
from managed_session_api.names import resource_name
from managed_session_api.resource import EffectiveStatus, ManagedSession, SandboxState
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.capacity.class_shares import NO_CLASS, class_name_of, shares_of
from managed_session_operator.capacity.creation_rate import CreationRate
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain.class_board import ClassBoard
from managed_session_operator.domain.class_choice import Choice, session_facts, turn_of
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.listings import Listings
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.policy import policy_of
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.ports import (
    Clock,
    EventSink,
    KeptSnapshots,
    ReferencedValues,
    SandboxCleaning,
    Sandboxes,
    SandboxPreparations,
    Sessions,
    TokenStore,
    WorkerStreams,
    WorkQueue,
    WorkspaceSessions,
)
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.webhook_silence import WebhookSilence
from managed_session_operator.domain.write_pace import WritePace
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.steps.audit_trail import AuditTrail
from managed_session_operator.steps.session_records import SessionRecords
from managed_session_operator.steps.sharing import Sharing
from managed_session_operator.steps.skill_delivery import SkillDelivery
from managed_session_operator.steps.turn_traces import TurnTraces


@dataclass
class Context:
    """Everything that a step may use."""

    settings: OperatorSettings
    installation_id: str
    clock: Clock
    queue: WorkQueue
    sessions: Sessions
    api_key: WorkspaceSessions
    sandboxes: Sandboxes
    snapshots: KeptSnapshots
    cleaning: SandboxCleaning
    runs: WorkerStreams
    skills: SkillDelivery
    preparations: SandboxPreparations
    values: ReferencedValues
    records: SessionRecords
    sharing: Sharing
    tokens: TokenStore
    events: EventSink
    inbox: OfferInbox
    capacity: Capacity
    creation: CreationRate
    metrics: Metrics
    silence: WebhookSilence
    epoch: Callable[[], int]
    traces: TurnTraces | None = None
    """None unless traces are on."""
    audit: AuditTrail | None = None
    """None unless the audit is on. Then all workers report their tool calls."""
    listings: Listings = field(default_factory=Listings)
    classes: ClassBoard = field(default_factory=ClassBoard)
    policy_pace: WritePace = field(default_factory=WritePace)
    caches: dict[str, SessionCache] = field(default_factory=dict)

    def now(self) -> datetime:
        """Return the time."""
        return self.clock.now()

    def cache(self, name: str) -> SessionCache:
        """Return this process's cache for the resource called `name`."""
        known = self.caches.get(name)
        if known is None:
            known = self.caches[name] = SessionCache()
        return known

    def policy(self, resource: ManagedSession) -> EffectiveStatus:
        """Return the values of the policy in force for the resource."""
        return self.full_policy(resource).values

    def full_policy(self, resource: ManagedSession) -> Policy:
        """Return the policy in force for the resource, with the origin of each value."""
        return policy_of(resource, self.settings, self.serving(resource))

    def serving(self, resource: ManagedSession) -> ManagedSessionClass | None:
        """Return the class that the resource records; None if there is none (any more)."""
        return self.classes.cache.serving(resource)

    def choice(self, resource: ManagedSession) -> Choice:
        """Return which class would serve the session's next claim."""
        cache = self.caches.get(resource.metadata.name)
        facts = session_facts(resource, cache.session if cache is not None else None)
        if cache is not None and cache.metadata_read_for != turn_of(resource):
            facts = replace(facts, metadata=None)
        return self.classes.cache.choose(resource, facts)

    def class_name(self, resource: ManagedSession) -> str:
        """Return the class with which the session asks for a slot, "" for none.

        It is the recorded one while a claim is served, else the one that would serve the next claim.
        """
        return class_name_of(resource) if claim_active(resource) else self.next_class_name(resource)

    def next_class_name(self, resource: ManagedSession) -> str:
        """Return the class that serves the session from its next claim or sandbox on, "" for none."""
        choice = self.choice(resource)
        if choice.tied or choice.undecided:
            return class_name_of(resource)
        return choice.chosen.metadata.name if choice.chosen is not None else NO_CLASS

    def share_slots(self) -> None:
        """Share the slots between the classes as they are now."""
        self.capacity.share_slots(shares_of(self.classes.cache.all()))

    def hold_slots(self) -> None:
        """Assign slots to sandboxes that an earlier leader left. Without a claim, they give way to one."""
        cache, running = self.records.cache, (SandboxState.RUNNING, SandboxState.CREATING)
        for summary in cache.in_motion():
            resource = cache.get(summary.name) if summary.sandbox_state in running else None
            if resource is None:
                continue
            status, since = resource.status, None
            if not claim_active(resource):
                since = status.last_event.created_at if status.last_event is not None else self.now()
            self.capacity.hold(resource.metadata.name, class_name_of(resource), announced_since=since)

    def budget_spent(self, each: ManagedSessionClass | None) -> bool:
        """Return whether the class has used up its budget of today."""
        if each is None or each.spec.limits.max_active_seconds_per_day is None:
            return False
        if not self.classes.is_counted(self.clock.monotonic()):
            self.count_classes()
        return self.classes.is_spent(each)

    def count_classes(self) -> None:
        """Count what the sessions of each class use."""
        waiting = self.capacity.waiting_by_class
        self.classes.count(self.records.cache.summaries(), waiting, self.now(), self.clock.monotonic())

    def positions(self) -> dict[str, int]:
        """Return the sessions' positions in their classes' queues, as of the newest work list."""
        return self.listings.positions(self._has_slot, self._class_of)

    def _class_of(self, session_id: str) -> str:
        cache = self.records.cache
        resource = cache.get(cache.serving_name(session_id) or resource_name(session_id))
        return self.class_name(resource) if resource is not None else NO_CLASS

    def _has_slot(self, session_id: str) -> bool:
        """Whether the session has a slot, or waits for its user rather than for one."""
        name = self.records.cache.serving_name(session_id) or resource_name(session_id)
        resource = self.records.cache.summary(name)
        awaits_user = resource is not None and resource.wait_paused and not self.capacity.waits(name)
        return self.capacity.holds(name) or awaits_user

    async def forget(self, name: str) -> None:
        """Drop everything that this process holds for a resource that no longer exists."""
        await self.runs.forget(name)
        self.capacity.release(name)
        self.creation.leave(name)
        self.inbox.forget(name)
        self.sharing.attach(name)
        self.caches.pop(name, None)
        if self.traces is not None:
            self.traces.forget(name)

    def forget_all(self) -> None:
        """Drop everything, because this process no longer leads."""
        self.caches.clear()
        self.capacity.clear()
        self.creation.clear()
        self.sharing.forget_all()
        self.inbox.clear()
        self.listings.clear()
        self.classes.clear()
        if self.traces is not None:
            self.traces.forget_all()

    def event(self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False) -> None:
        """Post an Event about the resource."""
        self.events.record(resource, reason, message, warning=warning)
