"""The simulated organization: everything in it, and how its parts affect each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from managed_session_devkit.simulators.anthropic.agent import ScriptedAgent
from managed_session_devkit.simulators.anthropic.credentials import (
    ENVIRONMENT_KEY,
    SESSIONS_TOKEN,
    Credential,
    CredentialStore,
)
from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.faults import FaultPlan
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.inbox import EventInbox
from managed_session_devkit.simulators.anthropic.ledger import Ledger
from managed_session_devkit.simulators.anthropic.resources import (
    MemoryStore,
    SkillStore,
    new_agent,
    new_environment,
    session_agent,
)
from managed_session_devkit.simulators.anthropic.scripts import ScriptBook
from managed_session_devkit.simulators.anthropic.session import Session
from managed_session_devkit.simulators.anthropic.settings import Settings
from managed_session_devkit.simulators.anthropic.usage import Usage, budget_of
from managed_session_devkit.simulators.anthropic.webhooks import WebhookSender
from managed_session_devkit.simulators.anthropic.work_item import WorkItem
from managed_session_devkit.simulators.anthropic.work_queue import Change, WorkQueue
from managed_session_devkit.simulators.common.times import now

_UNDOCUMENTED = {
    "session.status_run_started": "session.running",
    "session.status_idled": "session.idled",
}
_MAX_MEMORY_STORES = 8


class Cloud:
    """All state of the simulator. Create it inside a running event loop.

    Attributes:
        operation_names: names that a fault or a latency may use.
    """

    def __init__(self, settings: Settings, operation_names: tuple[str, ...]) -> None:
        self.settings = settings
        self.operation_names = operation_names
        self.ledger = Ledger(settings.ledger_capacity)
        self.faults = FaultPlan()
        self.credentials = CredentialStore()
        self.credentials.add_api_key(settings.api_key)
        self.scripts = ScriptBook()
        self.skills = SkillStore()
        self.memory_stores: dict[str, MemoryStore] = {}
        self.agents: dict[str, dict[str, Any]] = {settings.agent_id: new_agent(settings.agent_id)}
        self.environments: dict[str, dict[str, Any]] = {}
        self.queues: dict[str, WorkQueue] = {}
        self.sessions: dict[str, Session] = {}
        self.webhooks = WebhookSender(lambda: self.settings.webhooks, self.ledger, self.faults)
        self.agent = ScriptedAgent(
            self.scripts,
            lambda: self.settings.agent,
            self.ledger,
            lambda session: self.queues[session.environment_id].enqueue_session(session.id),
        )
        self.inbox = EventInbox(self.agent, self.ledger)
        self.add_environment(settings.environment_id, settings.environment_key)

    def add_environment(self, environment_id: str, key: str) -> dict[str, Any]:
        """Add a self-hosted environment with one environment key."""
        environment = self.environments.setdefault(environment_id, new_environment(environment_id))
        self.credentials.add_environment_key(key, environment_id)
        if environment_id not in self.queues:
            self.queues[environment_id] = WorkQueue(
                environment_id,
                lambda: self.settings.work,
                is_gone=self._is_gone,
                is_idle=self._is_idle,
                observe=self._work_changed,
            )
        return environment

    def _is_gone(self, item: WorkItem) -> bool:
        return item.data_type == "session" and item.data_id not in self.sessions

    def _is_idle(self, item: WorkItem) -> bool:
        session = self.sessions.get(item.data_id)
        return session is not None and session.status == "idle"

    def _work_changed(self, item: WorkItem, change: Change) -> None:
        self.ledger.work_changed(item, change)
        if change == "stopped" and self.settings.work.requeue_unanswered_on_stop:
            session = self.sessions.get(item.data_id)
            if session is not None and (session.waiting or session.inbox or session.status == "running"):
                self.queues[item.environment_id].enqueue_session(session.id)

    def queue(self, environment_id: str, credential: Credential) -> WorkQueue:
        """Return an environment's work queue.

        Raises:
            APIError: 404 if it is unknown, 403 for another environment's credential.
        """
        queue = self.queues.get(environment_id)
        if queue is None:
            raise APIError(404, f"Environment {environment_id} not found")
        if credential.environment_id not in (None, environment_id):
            raise APIError(403, "This credential belongs to another environment")
        return queue

    def session(self, session_id: str, credential: Credential) -> Session:
        """Return a session that this credential may see. Raises APIError 403 or 404."""
        session = self.sessions.get(session_id)
        if credential.kind == SESSIONS_TOKEN and credential.session_id != session_id:
            raise APIError(403, "This credential belongs to another session")
        if session is None:
            raise APIError(404, f"Session {session_id} not found")
        if credential.kind == ENVIRONMENT_KEY and credential.environment_id != session.environment_id:
            status = self.settings.events.foreign_session_status
            raise APIError(status, f"Session {session_id} not found")
        return session

    def create_session(self, request: dict[str, Any], credential: Credential) -> Session:
        """Create a session, queue its work and handle its initial events.

        Raises:
            APIError: 400 for an invalid request, 404 for an unknown agent or environment.
        """
        agent = self._agent_of(request.get("agent"))
        environment_id = request.get("environment_id")
        if not isinstance(environment_id, str):
            raise APIError(400, "environment_id: Field required")
        if environment_id not in self.environments:
            raise APIError(404, f"Environment {environment_id} not found")
        session = Session(
            id=new_id("sesn"),
            environment_id=environment_id,
            agent=session_agent(agent),
            announce=self._announce,
            title=request.get("title"),
            metadata=request.get("metadata") or {},
            resources=self._resources_of(request.get("resources") or []),
            vault_ids=list(request.get("vault_ids") or []),
            usage=Usage(budget=budget_of(request.get("budget"))),
        )
        self.sessions[session.id] = session
        self.ledger.note(session.id, "created")
        queue = self.queues[environment_id]
        initial = request.get("initial_events")
        if initial:
            try:
                self.inbox.send(session, queue, initial, credential, self.settings.events)
            except APIError:
                del self.sessions[session.id]
                raise
        if self.settings.work.enqueue_at_creation:
            queue.enqueue_session(session.id)
        self._announce(session, "session.created")
        return session

    def _agent_of(self, reference: Any) -> dict[str, Any]:
        overrides: dict[str, Any] = {}
        agent_id = reference
        if isinstance(reference, dict):
            agent_id = reference.get("id")
            if reference.get("type") == "agent_with_overrides":
                overrides = {key: reference[key] for key in ("skills", "system") if key in reference}
        if not isinstance(agent_id, str):
            raise APIError(400, "agent: Field required")
        agent = self.agents.get(agent_id)
        if agent is None:
            raise APIError(404, f"Agent {agent_id} not found")
        return {**agent, **overrides}

    def _resources_of(self, requested: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(requested) > _MAX_MEMORY_STORES:
            raise APIError(400, f"resources: at most {_MAX_MEMORY_STORES} memory stores")
        resources = []
        for resource in requested:
            kind = resource.get("type")
            if kind != "memory_store":
                raise APIError(400, f"`{kind}` `resources` are not supported with self-hosted environments.")
            store_id = str(resource.get("memory_store_id"))
            self.memory_stores.setdefault(store_id, MemoryStore(store_id))
            defaults = {
                "access": "read_write",
                "mount_path": f"/mnt/memory/{store_id.lower()}",
                "name": store_id,
            }
            resources.append({**defaults, **resource})
        return resources

    def _announce(self, session: Session, event_type: str, thread_id: str | None = None, /) -> None:
        """Notify webhooks. Types that only the SDK knows are sent if the settings say so."""
        self.ledger.note(session.id, event_type)
        names = [event_type]
        if self.settings.webhooks.undocumented_events:
            extra = _UNDOCUMENTED.get(event_type)
            names += [extra] if extra else []
            if event_type == "session.status_idled" and session.waiting:
                names.append("session.requires_action")
        elif event_type in ("session.created", "session.archived"):
            return
        for name in names:
            organization, workspace = self.settings.organization_id, self.settings.workspace_id
            event = self.webhooks.event(name, session.id, organization, workspace)
            if thread_id is not None:
                event["data"]["session_thread_id"] = thread_id
            self.webhooks.publish(event)

    def update_session(self, session: Session, change: dict[str, Any]) -> None:
        """Change the title, the metadata or the budget."""
        if "budget" in change:
            session.usage.change_budget(change["budget"])
            session.append({"type": "session.updated", "budget": session.usage.budget_json()})
            self.agent.go_on(session)
        if "title" in change:
            session.title = change["title"]
        for key, value in (change.get("metadata") or {}).items():
            if value is None:
                session.metadata.pop(key, None)
            else:
                session.metadata[key] = value
        session.updated_at = now()
        self._announce(session, "session.updated")

    def archive(self, session: Session) -> None:
        """Archive a session, which terminates it. Raises APIError 400 while it is running."""
        self._refuse_while_running(session, "archived")
        if session.archived_at is None:
            session.archived_at = now()
            self.agent.cancel(session)
            session.terminate()
            self._announce(session, "session.archived")

    def terminate(self, session: Session) -> None:
        """End a session as an unrecoverable error does."""
        self.agent.cancel(session)
        error = {"type": "unknown_error", "message": "unrecoverable", "retry_status": {"type": "terminal"}}
        session.append({"type": "session.error", "error": error})
        session.terminate()

    def delete(self, session: Session) -> None:
        """Delete a session. Raises APIError 400 while it is running."""
        self._refuse_while_running(session, "deleted")
        self._remove(session)

    def _remove(self, session: Session) -> None:
        self.agent.cancel(session)
        del self.sessions[session.id]
        self.queues[session.environment_id].session_deleted(session.id)
        session.deleted()

    def _refuse_while_running(self, session: Session, done: str) -> None:
        if session.status in ("running", "rescheduling"):
            raise APIError(
                400, f"Session {session.id} is {session.status} and cannot be {done}; interrupt it first"
            )

    def items(self) -> Iterator[WorkItem]:
        """Yield the work items of all environments."""
        for queue in self.queues.values():
            yield from queue.items.values()

    def release_waiting(self) -> None:
        """End every open poll and stream, so that the server can shut down."""
        for queue in self.queues.values():
            queue.close()
        for session in self.sessions.values():
            session.sever()

    async def close(self) -> None:
        """Stop all activity."""
        self.release_waiting()
        await self.agent.close()
        await self.webhooks.close()
