"""The operator as a whole: builds its parts and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from typing import Any

from kubernetes.aio import client
from managed_session_api.conditions import Reason
from managed_session_api.names import resource_name
from managed_session_runtime.credentials import Credential, CredentialDirectory, CredentialError

from managed_session_operator.capacity import Capacity
from managed_session_operator.claim_loop import ClaimLoop
from managed_session_operator.clients.api_key_sessions import ApiKeySessions
from managed_session_operator.clients.events import EventRecorder
from managed_session_operator.clients.kubernetes_calls import kubernetes_call
from managed_session_operator.clients.resources import Resources
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.clients.sandboxes import Sandboxes
from managed_session_operator.clients.session_tokens import SessionTokens
from managed_session_operator.clients.work_queue import WorkQueue
from managed_session_operator.clients.worker_runs import WorkerRuns
from managed_session_operator.context import Context
from managed_session_operator.creation_rate import CreationRate
from managed_session_operator.failures import ConflictError, Failure, ResourceGoneError
from managed_session_operator.leadership import Leadership
from managed_session_operator.liveness import Liveness, WatchProgress
from managed_session_operator.metrics import Metrics
from managed_session_operator.offers import OfferInbox
from managed_session_operator.reconcile_queue import ReconcileQueue
from managed_session_operator.reconciler import Reconciler
from managed_session_operator.rivals import Rivals
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.side_by_side import side_by_side
from managed_session_operator.store import ResourceStore, version_of
from managed_session_operator.sweep import EndChecks, Sweep
from managed_session_operator.watch import Watch

logger = logging.getLogger(__name__)

LEASE_NAME = "managed-session-operator"

_NEEDED = (
    Credential.ANTHROPIC_ENVIRONMENT_ID,
    Credential.ANTHROPIC_ENVIRONMENT_KEY,
    Credential.E2B_API_KEY,
)

_LOOP_SECONDS = 60.0
_CLAIMS_SECONDS = 300.0
_RECONCILE_SECONDS = 900.0
_SWEEP_SECONDS = 1800.0
"""How long a loop may be silent, and a reconcile take, before /livez fails: every call within them has a
deadline of at most a minute, so that nothing but a fault of this process takes so long."""

_PAUSE_PATIENCE_SECONDS = 20.0
"""How long a process that ends, its Lease released, waits for its last pauses; below the pod's grace."""


class OperatorProcess:
    """One operator process: watches always, acts while it leads.

    Args:
        settings: the installation's settings.
        api_client: connected to the API server.
        installation_id: marks this installation's sandboxes.
    """

    def __init__(
        self, settings: OperatorSettings, api_client: client.ApiClient, installation_id: str
    ) -> None:
        self._settings = settings
        self._credentials = CredentialDirectory(settings.credentials_dir)
        self.liveness = Liveness()
        self._progress = WatchProgress()
        identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.leadership = Leadership(
            api_client,
            settings.system_namespace,
            LEASE_NAME,
            identity=identity,
            duration=settings.lease_duration_seconds,
            renew_every=settings.lease_renew_seconds,
            on_turn=lambda: self.liveness.beat("lease"),
        )
        fence, timeout = self.leadership.fence, settings.kubernetes_timeout_seconds
        self._queue = ReconcileQueue(concurrency=settings.reconcile_concurrency)
        self.metrics = Metrics()
        work_queue = WorkQueue(
            lambda: self._credentials.require(Credential.ANTHROPIC_ENVIRONMENT_ID).get_secret_value(),
            self._key(Credential.ANTHROPIC_ENVIRONMENT_KEY),
            worker_id=f"managed-sessions-{installation_id}",
            fence=fence,
            timeout=settings.request_timeout_seconds,
        )
        sandboxes = Sandboxes(
            self._key(Credential.E2B_API_KEY),
            fence=fence,
            request_timeout=settings.request_timeout_seconds,
            create_timeout=settings.create_timeout_seconds,
        )
        self._own_events = EventRecorder(api_client, settings.system_namespace, timeout=timeout)
        capacity = Capacity(
            settings.max_active_sandboxes,
            settings.hint_capacity_percent,
            wake=self._queue.add,
            scale=settings.retry_scale,
        )
        self._context = Context(
            settings=settings,
            installation_id=installation_id,
            queue=work_queue,
            api_key=ApiKeySessions(
                self._key(Credential.ANTHROPIC_API_KEY, required=False),
                fence=fence,
                timeout=settings.request_timeout_seconds,
            ),
            sandboxes=sandboxes,
            runs=WorkerRuns(
                sandboxes,
                on_change=self._queue.add,
                accept_timeout=settings.worker_start_timeout_seconds,
            ),
            resources=Resources(api_client, settings.namespace, fence=fence, timeout=timeout),
            tokens=SessionTokens(api_client, settings.namespace, fence=fence, timeout=timeout),
            events=EventRecorder(api_client, settings.namespace, timeout=timeout),
            store=ResourceStore(),
            inbox=OfferInbox(),
            capacity=capacity,
            creation=CreationRate(
                settings.sandbox_creation_rate, settings.sandbox_creation_burst, self._wants_sandbox
            ),
            metrics=self.metrics,
            rivals=Rivals(
                self.metrics,
                lambda message: self._own_events.warn_about_lease(
                    LEASE_NAME, Reason.ENVIRONMENT_SHARED, message
                ),
            ),
            epoch=lambda: self.leadership.epoch,
        )
        self._watching = False
        self.liveness.measure("watch", self._progress.behind_seconds, settings.watch_deadline_seconds)
        self.liveness.measure("reconcile", self._queue.longest, _RECONCILE_SECONDS)

    def _key(self, credential: Credential, *, required: bool = True) -> RotatingKey:
        read = self._credentials.require_all if required else self._credentials.get_all
        line = self.metrics.credential_line
        return RotatingKey(
            credential.value,
            lambda: read(credential),
            lambda number: line.labels(credential.value).set(number),
        )

    def _wants_sandbox(self, name: str) -> bool:
        """Whether the resource has a place and no sandbox yet."""
        memory = self._context.memories.get(name)
        return self._context.capacity.holds(name) and (memory is None or memory.sandbox is None)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """The probe's answer: the watch runs and no credential is missing. A standby is ready too."""
        missing = self._missing_credential()
        detail: dict[str, Any] = {"leading": self.leadership.leading, "watching": self._watching}
        return self._watching and missing is None, detail | ({"credentials": missing} if missing else {})

    def _missing_credential(self) -> str | None:
        """Which of the needed credentials is missing or unreadable: no session can be served without it."""
        try:
            for credential in _NEEDED:
                self._credentials.require(credential)
        except CredentialError as error:
            return str(error)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, or until something essential fails; the Lease is given back first."""
        watch = Watch(self._settings.namespace, self._observe, lambda: self.liveness.beat("watch thread"))
        self.liveness.expect("lease", _LOOP_SECONDS + 4 * self._settings.lease_duration_seconds)
        tasks = {
            asyncio.create_task(self._watch(watch), name="watch"),
            asyncio.create_task(self.leadership.run(self._lead), name="leadership"),
            asyncio.create_task(self._context.events.run(), name="events"),
            asyncio.create_task(self._own_events.run(), name="own-events"),
            asyncio.create_task(stop.wait(), name="stop"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._context.sandboxes.pauses_answered(_PAUSE_PATIENCE_SECONDS)

    async def _watch(self, watch: Watch) -> None:
        # An empty namespace brings no event: the list says that the API server answers.
        await self._list_all()
        self.liveness.expect("watch thread", _LOOP_SECONDS)
        await watch.run()

    def _observe(self, kind: str | None, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        self._watching = True
        self._progress.watched(version_of(body))
        if kind == "DELETED":
            self._context.store.remove(name, body["metadata"].get("uid"))
            self._enqueue(name)
            # A duplicate of it serves the session from now on.
            sibling = self._context.store.serving_name((body.get("spec") or {}).get("sessionID", ""))
            if sibling is not None:
                self._enqueue(sibling)
        elif self._context.store.observe(body):
            self._enqueue(name)

    def _enqueue(self, name: str) -> None:
        if self.leadership.leading:
            self._queue.add(name)

    def _offered(self, session_id: str) -> None:
        self._queue.add(self._context.store.serving_name(session_id) or resource_name(session_id))

    def _queue_trouble(self, cause: str | None) -> None:
        """Note what the queue says while it serves nobody: the sessions that wait say it too."""
        context = self._context
        context.queue_trouble = cause
        self.metrics.queue_unavailable.set(0 if cause is None else 1)
        if cause is not None:
            self._own_events.warn_about_lease(LEASE_NAME, Reason.ENVIRONMENT_UNAVAILABLE, cause)
        for name in context.store.names():
            self._enqueue(name)

    async def _lead(self) -> None:
        """What the leader does, until it is cancelled."""
        context, queue = self._context, self._queue
        live = self.liveness
        live.expect("claims", _CLAIMS_SECONDS)
        live.expect("sweep", _SWEEP_SECONDS + self._settings.sweep_seconds)
        sweep = Sweep(context, queue.add, lambda: live.beat("sweep"))
        checks = EndChecks(context, queue.add)
        claims = ClaimLoop(
            context.queue,
            context.inbox,
            context.capacity,
            self._offered,
            self._queue_trouble,
            lambda sleeps: live.beat("claims", sleeps),
            self._settings,
            self.metrics,
        )
        self.metrics.leading.set(1)
        self.metrics.places.set(context.capacity.limit)
        try:
            await self._list_all()
            for resource in context.store.all():
                if resource.status.sandbox.state in ("Running", "Creating"):
                    context.capacity.hold(resource.metadata.name)
                queue.add(resource.metadata.name)
            await side_by_side(
                reconcile=queue.run(Reconciler(context).reconcile),
                claims=claims.run(),
                sweep=sweep.run(),
                end_checks=checks.run(),
                report=self._report(),
            )
        finally:
            live.let_go("claims")
            live.let_go("sweep")
            self.metrics.leading.set(0)
            self.metrics.queue_unavailable.set(0)
            queue.clear()
            with contextlib.suppress(Exception):
                await context.runs.close()
            context.forget_all()

    async def _list_all(self) -> None:
        """Know all resources, however long the API server takes to say them."""
        context = self._context
        while True:
            known = set(context.store.names())
            try:
                context.store.replace_all(await context.resources.list(), known)
            except (Failure, ResourceGoneError, ConflictError) as error:
                logger.warning("resources not listed", extra={"cause": str(error)})
                await asyncio.sleep(self._settings.retry_scale)
            else:
                self._watching = True
                return

    async def _report(self) -> None:
        """Keep the gauges that nobody else sets."""
        while True:
            self._report_waiting()
            self._progress.known(self._context.store.newest_version())
            self.metrics.offers_waiting.set(len(self._context.inbox))
            await asyncio.sleep(1)

    def _report_waiting(self) -> None:
        context, capacity, metrics = self._context, self._context.capacity, self.metrics
        since = capacity.oldest_wait_since
        metrics.places_used.set(capacity.used)
        metrics.places_allowed.set(capacity.allowed)
        metrics.waiting.set(capacity.waiting)
        metrics.oldest_wait.set((context.now() - since).total_seconds() if since is not None else 0)
        metrics.queue_depth.set(len(context.positions()))


async def default_installation_id(api_client: client.ApiClient, system_namespace: str, timeout: float) -> str:
    """The UID of the system namespace."""
    async with kubernetes_call("namespace", timeout=timeout, fence=None):
        namespace: Any = await client.CoreV1Api(api_client).read_namespace(system_namespace)
        return str(namespace.metadata.uid)
