"""Builds what a leader serves sessions with: clients, records, followers and the context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from kubernetes.aio.client import ApiClient
from managed_session_api.credentials import Credential
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialDirectory

from managed_session_operator.capacity.class_shares import class_name_of
from managed_session_operator.capacity.creation_rate import CreationRate
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.clients.anthropic.workspace_sessions import WorkspaceSessions
from managed_session_operator.clients.audit_sink import open_sink
from managed_session_operator.clients.clock import SystemClock
from managed_session_operator.clients.e2b.sandbox_cleaning import SandboxCleaning
from managed_session_operator.clients.e2b.sandbox_preparation import SandboxPreparations
from managed_session_operator.clients.e2b.sandbox_skills import SandboxSkills
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.e2b.worker_streams import WorkerStreams
from managed_session_operator.clients.kubernetes.events import EventRecorder
from managed_session_operator.clients.kubernetes.leadership import Leadership
from managed_session_operator.clients.kubernetes.managed_sandboxes import ManagedSandboxes
from managed_session_operator.clients.kubernetes.referenced_values import ReferencedValues
from managed_session_operator.clients.kubernetes.resources import Resources
from managed_session_operator.clients.kubernetes.session_tokens import SessionTokens
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.clients.skill_cache.archives import cached
from managed_session_operator.cost_metrics import CostMetrics
from managed_session_operator.domain.cost import Added, SandboxPrices
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.ports import SpanSink
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.webhook_silence import WebhookSilence
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings
from managed_session_operator.steps.audit_trail import AuditTrail
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.session_records import SessionRecords
from managed_session_operator.steps.sharing import Sharing
from managed_session_operator.steps.skill_delivery import SkillDelivery
from managed_session_operator.steps.turn_traces import TurnTraces


class ServingParts:
    """What a leader serves sessions with.

    Args:
        settings: the installation's settings.
        api_client: connection to the API server.
        installation_id: marks this installation's sandboxes.
        credentials: the operator's credentials.
        leadership: fences effects, and knows the epoch.
        metrics: the process's metrics.
        silence: notices that webhook events no longer arrive.
        wake: has a resource reconciled, given its name.
        spans: where traces of turns go; None if they are off.

    Raises:
        OSError: the audit's file cannot be opened.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        api_client: ApiClient,
        installation_id: str,
        credentials: CredentialDirectory,
        leadership: Leadership,
        metrics: Metrics,
        silence: WebhookSilence,
        wake: Callable[[str], None],
        spans: SpanSink | None,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._leadership = leadership
        self._metrics = metrics
        self._silence = silence
        self._wake = wake
        self._cost_metrics = CostMetrics(metrics.registry, settings.metrics_agents)
        self.cache = ResourceCache()
        self.audit = self._new_audit()
        self.events = EventRecorder(
            api_client, settings.namespace, timeout=settings.kubernetes_timeout_seconds
        )
        self.sandboxes = Sandboxes(
            self._key(Credential.E2B_API_KEY),
            fence=leadership.fence,
            request_timeout=settings.request_timeout_seconds,
            create_timeout=settings.create_timeout_seconds,
            on_kill=self._sandbox_killed,
        )
        self.work_queue = self._new_work_queue(installation_id)
        self.context = self._new_context(api_client, installation_id, spans)

    def _new_audit(self) -> AuditTrail | None:
        """Return the audit; None if it is off.

        Raises:
            OSError: its file cannot be opened.
        """
        if self._settings.audit == "off":
            return None
        leadership = self._leadership
        sink = open_sink(
            self._settings.audit,
            SystemClock(),
            lambda: {"operator": leadership.identity, "epoch": leadership.epoch},
            self._metrics.audit_lost.inc,
        )
        return AuditTrail(sink, self.cache.get)

    def _sandbox_killed(self, sandbox_id: str) -> None:
        if self.audit is not None:
            self.audit.killed(sandbox_id)

    def _new_work_queue(self, installation_id: str) -> WorkQueue:
        return WorkQueue(
            lambda: self._credentials.require(Credential.ANTHROPIC_ENVIRONMENT_ID).get_secret_value(),
            self._key(Credential.ANTHROPIC_ENVIRONMENT_KEY),
            worker_id=f"managed-sessions-{installation_id}",
            fence=self._leadership.fence,
            timeout=self._settings.request_timeout_seconds,
            skill_downloads=self._settings.skill_downloads,
        )

    def _new_context(self, api_client: ApiClient, installation_id: str, spans: SpanSink | None) -> Context:
        settings, fence, clock = self._settings, self._leadership.fence, SystemClock()
        timeout = settings.kubernetes_timeout_seconds
        work_queue, sandboxes = self.work_queue, self.sandboxes
        capacity = Capacity(
            settings.max_active_sandboxes,
            settings.prewarm_capacity_percent,
            offers_ahead=settings.offers_ahead,
            wake=self._wake,
            scale=settings.retry_scale,
        )
        runs = WorkerStreams(
            sandboxes,
            on_change=self._wake,
            accept_timeout=settings.worker_start_timeout_seconds,
            on_call=self.audit.called if self.audit is not None else None,
        )
        traces = TurnTraces(spans, clock, runs.get) if spans is not None else None
        return Context(
            settings=settings,
            installation_id=installation_id,
            clock=clock,
            queue=work_queue,
            sessions=work_queue,
            api_key=WorkspaceSessions(
                self._key(Credential.ANTHROPIC_API_KEY, required=False),
                fence=fence,
                timeout=settings.request_timeout_seconds,
            ),
            sandboxes=sandboxes,
            snapshots=sandboxes.snapshots,
            cleaning=SandboxCleaning(sandboxes),
            runs=runs,
            traces=traces,
            audit=self.audit,
            skills=SkillDelivery(
                cached(
                    work_queue.skills,
                    settings.skill_cache_folder,
                    mebibytes=settings.skill_cache_mib,
                    deliveries=settings.skill_downloads,
                    metrics=self._metrics.skill_cache,
                ),
                lambda sandbox: SandboxSkills(sandboxes, sandbox),
                settings,
                self._metrics,
            ),
            preparations=SandboxPreparations(sandboxes, settings.create_timeout_seconds),
            values=ReferencedValues(api_client, settings.namespace, timeout=timeout),
            records=SessionRecords(
                Resources(api_client, settings.namespace, fence=fence, timeout=timeout),
                self.cache,
                self.events,
                clock,
                self._metrics.status_writes.inc,
                self._cost_added,
                SandboxPrices(
                    settings.sandbox_price_per_second,
                    settings.sandbox_price_per_vcpu_second,
                    settings.sandbox_price_per_gib_second,
                ),
                [each for each in (traces, self.audit) if each is not None],
            ),
            sharing=Sharing(
                ManagedSandboxes(api_client, settings.namespace, fence=fence, timeout=timeout), clock
            ),
            tokens=SessionTokens(api_client, settings.namespace, fence=fence, timeout=timeout),
            events=self.events,
            inbox=OfferInbox(),
            capacity=capacity,
            creation=CreationRate(
                settings.sandbox_creation_rate,
                settings.sandbox_creation_burst,
                self._wants_sandbox,
                capacity.standing,
            ),
            metrics=self._metrics,
            silence=self._silence,
            epoch=lambda: self._leadership.epoch,
        )

    def _key(self, credential: Credential, *, required: bool = True) -> RotatingKey:
        read = self._credentials.require_all if required else self._credentials.get_all
        line = self._metrics.credential_line
        return RotatingKey(
            credential.value,
            lambda: read(credential),
            lambda number: line.labels(credential.value).set(number),
        )

    def _wants_sandbox(self, name: str) -> bool:
        """Return whether the resource has a slot, but no running sandbox yet."""
        cache = self.context.caches.get(name)
        return self.context.capacity.holds(name) and (cache is None or cache.sandbox is None)

    def _cost_added(self, resource: ManagedSession, added: Added) -> None:
        self._cost_metrics.add(class_name_of(resource), resource.spec.agent_id or "", **asdict(added))
