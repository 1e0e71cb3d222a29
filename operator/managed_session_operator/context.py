"""What the steps work with: clients, settings, and this process's memory of each resource."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import e2b
from managed_session_api.conditions import Phase, Reason
from managed_session_api.names import resource_name
from managed_session_api.resource import EffectiveStatus, ManagedSession
from pydantic import SecretStr

from managed_session_operator.capacity import Capacity
from managed_session_operator.clients.api_key_sessions import ApiKeySessions
from managed_session_operator.clients.events import EventRecorder
from managed_session_operator.clients.resources import Resources
from managed_session_operator.clients.sandboxes import Sandboxes
from managed_session_operator.clients.session_tokens import SessionTokens
from managed_session_operator.clients.work_queue import SessionView, WorkQueue
from managed_session_operator.clients.worker_runs import WorkerRuns
from managed_session_operator.creation_rate import CreationRate
from managed_session_operator.failures import ConflictError, ResourceGoneError
from managed_session_operator.metrics import Metrics
from managed_session_operator.offers import OfferInbox
from managed_session_operator.policy import effective_policy
from managed_session_operator.rivals import Rivals
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.status import Verdict, status_patch
from managed_session_operator.store import ResourceStore
from managed_session_operator.turns import Look
from managed_session_operator.work_list import WorkList

EXTEND_AT_FRACTION = 1 / 3
"""The part of a sandbox's countdown after which it is restarted."""
ROLL_OVER_AT_FRACTION = 3 / 4
"""The part of E2B's longest running time after which a sandbox is paused and resumed under its worker."""


@dataclass
class Memory:
    """What this process knows of a resource beyond the resource itself; all can be found out again."""

    sandbox: e2b.AsyncSandbox | None = None
    """The running sandbox, connected by this process."""
    extend_at: datetime | None = None
    running_since: datetime | None = None
    """When the sandbox's running period began, as far as is known: E2B pauses one that lasts too long."""
    roll_over_not_before: datetime | None = None
    """Set by a roll-over that failed."""
    session: SessionView | None = None
    token: tuple[str, SecretStr | None] | None = None
    """The session token of a claim, as in its Secret: (claim, token)."""
    message_known: bool = False
    message_checks: int = 0
    message_awaited_since: datetime | None = None
    end_checked: str | None = None
    end_check_due: bool = False
    """The slow check's turn has come: ask whether the session has ended."""
    end_asked_at: datetime | None = None
    running_unexpectedly: bool = False
    """A sweep found the sandbox running although nothing needs it."""
    missing: bool = False
    """A sweep did not find the sandbox, and E2B does not know it."""
    forgotten: bool = False
    """A sweep found a sandbox of an attempt that the status knows nothing of."""
    uid: str | None = None
    """The resource's: another one of the same name shares nothing with it."""
    hint: tuple[str, datetime] | None = None
    """The announced run and when this process first saw it: (event ID, time)."""
    fresh_attempt: int | None = None
    """The create that this process has announced and not sent yet: nothing can exist under its key."""
    not_ours: tuple[float, tuple[object, ...]] | None = None
    """Until when the session is not asked about again, by the monotonic clock, and for what that holds."""
    made_here: str | None = None
    """The UID of the resource if this process has made it, so that no sandbox of it can be older."""
    skills_written: str | None = None
    """The sandbox that has the session's skills."""
    started_at: datetime | None = None
    failures: int = 0
    """Failures since the failing step last succeeded: steps before it may succeed again and again."""
    trying: str | None = None
    """The step that was taken last."""
    failing: str | None = None
    """The step that failed last and has not succeeded since."""
    backoff: tuple[float, tuple[object, ...]] | None = None
    """Until when a failed step rests, by a clock that nobody sets, and what it was tried on."""
    look: Look | None = None
    """How the session stood when it was last looked at, while its turn is not known to be over."""
    unstarted_since: datetime | None = None
    """The first of the work lists in a row that had the session's item acknowledged, unstarted, not ours."""
    acted_at: datetime | None = None
    """When something was last done about a stuck session."""
    position_told: WorkList | None = None
    """The work list that the resource's position in the line was last told from."""
    waits_for_creation: bool = False
    """Its turn to create a sandbox did not come at once."""
    cuts: int = 0
    """Times that the worker's stream was cut since its last word."""

    def connect(
        self,
        sandbox: e2b.AsyncSandbox,
        timeout_seconds: int,
        now: datetime,
        *,
        since: datetime | None = None,
    ) -> None:
        """Note that the sandbox runs, since when if that is known, and when to restart its countdown."""
        self.sandbox = sandbox
        self.running_since = since or self.running_since or now
        self.extend_at = now + timedelta(seconds=timeout_seconds * EXTEND_AT_FRACTION)

    def disconnect(self) -> None:
        """Note that the sandbox does not run any more, as far as this process knows."""
        self.sandbox = None
        self.extend_at = self.running_since = self.roll_over_not_before = None
        self.started_at = None
        self.running_unexpectedly = False


@dataclass
class Context:
    """Everything that a step may use."""

    settings: OperatorSettings
    installation_id: str
    queue: WorkQueue
    api_key: ApiKeySessions
    sandboxes: Sandboxes
    runs: WorkerRuns
    resources: Resources
    tokens: SessionTokens
    events: EventRecorder
    store: ResourceStore
    inbox: OfferInbox
    capacity: Capacity
    creation: CreationRate
    metrics: Metrics
    rivals: Rivals
    epoch: Callable[[], int]
    queue_trouble: str | None = None
    """What the environment's queue says while it serves nobody."""
    memories: dict[str, Memory] = field(default_factory=dict)
    work_list: WorkList | None = None
    """The environment's work list as the last sweep that could have it read it."""
    _positions: tuple[WorkList, dict[str, int]] | None = None

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    def memory(self, name: str) -> Memory:
        """This process's memory of the resource called `name`."""
        return self.memories.setdefault(name, Memory())

    def roll_over_at(self, name: str) -> datetime | None:
        """When the connected sandbox has to be rolled over; None when it isn't running."""
        memory = self.memory(name)
        if memory.running_since is None:
            return None
        lifetime = timedelta(seconds=self.settings.sandbox_max_lifetime_seconds)
        due = memory.running_since + lifetime * ROLL_OVER_AT_FRACTION
        return max(due, memory.roll_over_not_before or due)

    def policy(self, resource: ManagedSession) -> EffectiveStatus:
        """The policy in force for the resource."""
        return effective_policy(resource, self.settings)

    def positions(self) -> dict[str, int]:
        """The sessions that wait for a place, by their position when the work list was read."""
        if self.work_list is None:
            return {}
        if self._positions is None or self._positions[0] is not self.work_list:
            self._positions = (self.work_list, self.work_list.positions(self._has_place))
        return self._positions[1]

    def _has_place(self, session_id: str) -> bool:
        return self.capacity.holds(self.store.serving_name(session_id) or resource_name(session_id))

    async def forget(self, name: str) -> None:
        """Drop all that this process remembers of a resource that is gone."""
        await self.runs.forget(name)
        self.capacity.release(name)
        self.creation.leave(name)
        self.memories.pop(name, None)

    def forget_all(self) -> None:
        """Drop everything, as a process does that leads no more."""
        self.memories.clear()
        self.queue_trouble = None
        self.capacity.clear()
        self.creation.clear()
        self.inbox.clear()
        self.rivals.clear()
        self.work_list = None

    async def write_status(
        self,
        resource: ManagedSession,
        *,
        phase: Phase | None = None,
        verdicts: list[Verdict] | None = None,
        **fields: Any,
    ) -> ManagedSession:
        """Write what changed of the status, in one call or none, and return the newest resource.

        When the resource changed meanwhile, and not in what the operator itself decides on, the patch still
        holds and is sent again.

        Raises:
            ConflictError: someone else wrote the operator's part of the status, or the identity changed.
            ResourceGoneError: the resource does not exist any more.
        """
        for _ in range(5):
            patch = status_patch(resource, self.now(), phase=phase, verdicts=verdicts, **fields)
            if not patch:
                return resource
            try:
                body = await self.resources.patch_status(resource, patch)
            except ConflictError:
                newest = await self.refresh(resource)
                if not _same_ground(resource, newest):
                    raise
                resource = newest
                continue
            self.metrics.status_writes.inc()
            return self._noted(body)
        raise ConflictError("status")

    async def patch(self, resource: ManagedSession, body: dict[str, Any]) -> ManagedSession:
        """Change metadata or spec (raises as `Resources.patch`)."""
        return self._noted(await self.resources.patch(resource, body))

    async def delete(self, resource: ManagedSession) -> None:
        """Ask for the resource's deletion (raises ConflictError when it changed since it was read)."""
        body = await self.resources.delete(resource)
        if body is None:
            self.store.remove(resource.metadata.name, resource.metadata.uid)
        else:
            self._noted(body)

    async def refresh(self, resource: ManagedSession) -> ManagedSession:
        """Read the resource from the API server.

        Raises:
            ResourceGoneError: it is gone, or another one has its name.
        """
        body = await self.resources.get(resource.metadata.name)
        if body is None or body["metadata"]["uid"] != resource.metadata.uid:
            self.store.remove(resource.metadata.name, resource.metadata.uid)
            raise ResourceGoneError(resource.metadata.name)
        return self._noted(body)

    def _noted(self, body: dict[str, Any]) -> ManagedSession:
        self.store.observe(body)
        newest = self.store.get(body["metadata"]["name"])
        return newest if newest is not None else ManagedSession.model_validate(body)

    def event(self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False) -> None:
        """Post an Event about the resource."""
        self.events.record(resource, reason, message, warning=warning)


def _same_ground(before: ManagedSession, after: ManagedSession) -> bool:
    """Whether only things changed that no decision in flight rests on: the webhook's event, spec, labels."""
    mine = {"last_event", "observed_generation"}
    return (
        before.status.model_dump(exclude=mine) == after.status.model_dump(exclude=mine)
        and before.metadata.uid == after.metadata.uid
    )
