"""Builds the operator's parts and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from kubernetes.aio.client import ApiClient, CoreV1Api
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.credentials import Credential
from managed_session_api.names import resource_name
from managed_session_runtime.credentials import CredentialDirectory, CredentialError
from managed_session_runtime.kubernetes_client import open_session

from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS
from managed_session_operator.clients.kubernetes.access_events import AccessEvents
from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.clients.kubernetes.classes import Classes
from managed_session_operator.clients.kubernetes.events import EventRecorder
from managed_session_operator.clients.kubernetes.leadership import Leadership
from managed_session_operator.clients.kubernetes.watch import Watch
from managed_session_operator.controller.access_audit import AccessAudit
from managed_session_operator.controller.class_changes import ClassChanges
from managed_session_operator.controller.class_feed import ClassFeed
from managed_session_operator.controller.class_reports import ClassReports
from managed_session_operator.controller.liveness import Liveness, WatchProgress
from managed_session_operator.controller.reconcile_queue import ReconcileQueue
from managed_session_operator.controller.reconciler import Reconciler
from managed_session_operator.controller.tasks import run_until_first_exit
from managed_session_operator.controller.work_poller import WorkPoller
from managed_session_operator.domain import user_wait
from managed_session_operator.domain.errors import ConflictError, OperationError, ResourceGoneError
from managed_session_operator.domain.ports import SpanSink
from managed_session_operator.domain.resource_cache import version_of
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.domain.webhook_silence import WebhookSilence
from managed_session_operator.metrics import AnnouncementMetrics, Metrics
from managed_session_operator.resync.loop import Resync
from managed_session_operator.resync.session_end_checks import SessionEndChecks
from managed_session_operator.serving_parts import ServingParts
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.steps.turn_traces import RECENT

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
_RESYNC_SECONDS = 1800.0
"""How long a loop may be silent, or a reconciliation may take, before /livez fails. Every call within them
has a timeout of 90 s at most, so only a fault of this process can take that long."""


class OperatorApp:
    """One operator process. It always watches, and acts while it leads.

    Args:
        settings: the installation's settings.
        api_client: connection to the API server.
        lease_client: a separate connection for the Lease.
        installation_id: marks this installation's sandboxes.
        spans: where traces of turns go; None if they are off.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        api_client: ApiClient,
        lease_client: ApiClient,
        installation_id: str,
        spans: SpanSink | None = None,
    ) -> None:
        self._settings = settings
        self._credentials = CredentialDirectory(settings.credentials_dir)
        self.liveness = Liveness()
        self._progress = WatchProgress()
        self.metrics = Metrics()
        self._silence = WebhookSilence(
            turns=settings.webhook_silence_turns,
            seconds=settings.webhook_silence_seconds,
            reporter=AnnouncementMetrics(self.metrics.registry),
            warn=partial(self._warn, Reason.WEBHOOK_SILENT),
        )
        self.leadership = self._new_leadership(lease_client)
        self._queue = ReconcileQueue(concurrency=settings.reconcile_concurrency)
        timeout = settings.kubernetes_timeout_seconds
        self._own_events = EventRecorder(api_client, settings.system_namespace, timeout=timeout)
        parts = ServingParts(
            settings,
            api_client,
            installation_id,
            self._credentials,
            self.leadership,
            self.metrics,
            self._silence,
            self._queue.add,
            spans,
        )
        self._events, self._cache, self._audit = parts.events, parts.cache, parts.audit
        self._sandboxes, self._work_queue, self._context = parts.sandboxes, parts.work_queue, parts.context
        self._shared_environment = SharedEnvironmentDetector(
            self.metrics.environment_shared.set,
            partial(self._warn, Reason.ENVIRONMENT_SHARED),
        )
        self._class_changes = ClassChanges(self._cache.summaries, self._enqueue)
        self._classes = Classes(api_client, settings.namespace, fence=self.leadership.fence, timeout=timeout)
        self._class_feed = ClassFeed(
            self._context.classes.cache, self._classes, self._class_changed, settings.retry_scale
        )
        events = AccessEvents(api_client, settings.namespace, timeout=timeout)
        self._accesses = AccessAudit(events, self._audit, settings.resync_interval_seconds)
        self._watching = False
        self.liveness.measure("watch", self._progress.behind_seconds, settings.watch_deadline_seconds)
        self.liveness.measure("reconcile", self._queue.longest, _RECONCILE_SECONDS)

    def _new_leadership(self, lease_client: ApiClient) -> Leadership:
        return Leadership(
            lease_client,
            self._settings.system_namespace,
            LEASE_NAME,
            identity=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            duration=self._settings.lease_duration_seconds,
            renew_every=self._settings.lease_renew_seconds,
            on_turn=lambda: self.liveness.beat("lease"),
            on_acquired=self._silence.take_over,
            annotations=self._silence.annotations,
        )

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return the probe's answer. A process is ready, also as a standby, once the watch runs.

        It is not ready while a credential is missing.
        """
        missing = self._missing_credential()
        detail: dict[str, Any] = {"leading": self.leadership.leading, "watching": self._watching}
        if self.leadership.leading:
            detail["webhookEvents"] = self._silence.hearing.in_words()
        return self._watching and missing is None, detail | ({"credentials": missing} if missing else {})

    def _warn(self, reason: Reason, message: str) -> None:
        """Warn about the whole installation, by an Event of the Lease."""
        self._own_events.warn_about_lease(LEASE_NAME, reason, message)

    def _missing_credential(self) -> str | None:
        """Return which required credential is missing or unreadable; None if none is."""
        try:
            for credential in _NEEDED:
                self._credentials.require(credential)
        except CredentialError as error:
            return str(error)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set or an essential part fails. Release the Lease before returning."""
        watch = Watch(
            self._settings.namespace,
            {names.PLURAL: self._observe, names.CLASS_PLURAL: self._class_feed.observe},
            partial(open_session, proxy_url=self._settings.kubernetes_proxy_url),
            lambda: self.liveness.beat("watch thread"),
        )
        self.liveness.expect("lease", _LOOP_SECONDS + 4 * self._settings.lease_duration_seconds)
        tasks = {
            asyncio.create_task(self._watch(watch), name="watch"),
            asyncio.create_task(self.leadership.run(self._lead), name="leadership"),
            asyncio.create_task(self._events.run(), name="events"),
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
            await self._sandboxes.calls_answered(OPEN_SECONDS)
            await self._work_queue.close()

    async def _watch(self, watch: Watch) -> None:
        # An empty namespace causes no events, so a call shows that the API server answers.
        await self._answered(self._context.records.check)
        self._watching = True
        self.liveness.expect("watch thread", _LOOP_SECONDS)
        await watch.run()

    def _observe(self, kind: str | None, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        self._watching = True
        self._progress.watched(version_of(body))
        if kind == "DELETED":
            self._cache.remove(name, body["metadata"].get("uid"))
            self._enqueue(name)
            # If there is a duplicate, it serves the session from now on.
            sibling = self._cache.serving_name((body.get("spec") or {}).get("sessionID", ""))
            if sibling is not None:
                self._enqueue(sibling)
        elif self._cache.observe(body):
            self._enqueue(name)

    def _class_changed(self, name: str) -> None:
        self._context.share_slots()
        if self.leadership.leading:
            self._class_changes.changed(name)
            if self._audit is not None:
                found = self._context.classes.cache.get(name)
                self._audit.class_changed(name, found.metadata.generation if found is not None else None)

    def _enqueue(self, name: str) -> None:
        if self.leadership.leading:
            self._queue.add(name)

    def _offered(self, session_id: str) -> None:
        self._queue.add(self._cache.serving_name(session_id) or resource_name(session_id))

    def _set_queue_error(self, cause: str | None) -> None:
        """Note the error with which the queue rejects all polls. Sessions that wait for work report it."""
        context = self._context
        context.listings.queue_error = cause
        self.metrics.queue_unavailable.set(0 if cause is None else 1)
        if cause is not None:
            self._warn(Reason.ENVIRONMENT_UNAVAILABLE, cause)
        for name in self._cache.names():
            self._enqueue(name)

    async def _lead(self) -> None:
        """Do the leader's work until cancelled."""
        context, queue = self._context, self._queue
        live = self.liveness
        live.expect("claims", _CLAIMS_SECONDS)
        live.expect("resync", _RESYNC_SECONDS + self._settings.resync_interval_seconds)
        resync = Resync(context, self._shared_environment, queue.add_behind, lambda: live.beat("resync"))
        checks = SessionEndChecks(context, self._shared_environment, queue.add)
        claims = WorkPoller(
            context.queue,
            context.inbox,
            context.capacity,
            self._offered,
            self._set_queue_error,
            lambda sleeps: live.beat("claims", sleeps),
            self._settings,
            self.metrics,
        )
        self.metrics.leading.set(1)
        self.metrics.slots.set(context.capacity.limit)
        reports = ClassReports(context, self._classes, self._class_changed)
        try:
            await self._class_feed.list()
            await self._answered(context.records.list_all)
            context.hold_slots()
            self._take_over()
            await run_until_first_exit(
                reconcile=queue.run(Reconciler(context).reconcile),
                claims=claims.run(),
                resync=resync.run(),
                end_checks=checks.run(),
                report=self._report(),
                class_changes=self._class_changes.run(),
                class_reports=reports.run(),
                class_lists=self._class_feed.run(),
                accesses=self._accesses.run(),
            )
        finally:
            live.forget("claims")
            live.forget("resync")
            self._stand_by()
            queue.clear()
            self._class_changes.clear()
            with contextlib.suppress(Exception):
                await context.runs.close()
            context.forget_all()
            self._shared_environment.clear()
            self._silence.clear()

    def _stand_by(self) -> None:
        if self._audit is not None:
            self._audit.stops_leading()
        self.metrics.stand_by()

    def _take_over(self) -> None:
        """Have all resources reconciled."""
        context = self._context
        recently = context.now() - RECENT
        if self._audit is not None:
            self._audit.leads()
        for summary in self._cache.summaries():
            add = self._queue.add_behind if summary.at_rest else self._queue.add
            add(summary.name)
            ended = summary.idle_since is not None and summary.idle_since > recently
            resource = self._cache.get(summary.name) if summary.claim_active or ended else None
            if resource is None:
                continue
            if context.traces is not None:
                context.traces.took_over(resource)
            if self._audit is not None:
                self._audit.found(resource)

    async def _answered(self, read: Callable[[], Awaitable[object]]) -> None:
        """Read resources, and keep trying until the API server answers."""
        while True:
            try:
                await read()
            except (OperationError, ResourceGoneError, ConflictError) as error:
                logger.warning("resources not listed", extra={"cause": str(error)})
                await asyncio.sleep(self._settings.retry_scale)
            else:
                return

    async def _report(self) -> None:
        """Update the gauges that no other part sets."""
        while True:
            self._report_waiting()
            self._progress.known(self._cache.newest_version())
            self.metrics.offers_waiting.set(len(self._context.inbox))
            await asyncio.sleep(1)

    def _report_waiting(self) -> None:
        context, capacity, metrics = self._context, self._context.capacity, self.metrics
        since = capacity.oldest_wait_since
        metrics.slots_used.set(capacity.used)
        metrics.slots_allowed.set(capacity.allowed)
        metrics.waiting.set(capacity.waiting)
        metrics.set_classes(capacity.class_names, capacity.used_by_class, capacity.waiting_by_class)
        metrics.oldest_wait.set((context.now() - since).total_seconds() if since is not None else 0)
        metrics.queue_depth.set(len(context.positions()))
        moving = list(self._cache.in_motion())
        waits = [each.awaiting_since for each in moving if each.awaiting_since is not None]
        paused = sum(each.wait_paused for each in moving)
        context.listings.user_waits, context.listings.paused_waits = len(waits) - paused, paused
        oldest = (context.now() - min(waits)).total_seconds() if waits else 0.0
        metrics.user_waits.set(user_wait.by_age(waits, context.now()), paused, oldest)


async def default_installation_id(api_client: ApiClient, system_namespace: str, timeout: float) -> str:
    """Return the UID of the system namespace."""
    async with kubernetes_call("namespace", timeout=timeout, fence=None):
        namespace: Any = await CoreV1Api(api_client).read_namespace(system_namespace)
        return str(namespace.metadata.uid)
