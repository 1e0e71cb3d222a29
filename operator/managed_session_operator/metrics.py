"""Defines the operator's metrics. Label values come from fixed lists, or are names of session classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from managed_session_worker.protocol import ExitReason
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "managed_sessions_"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class UserWaitMetrics:
    """Metrics of the sessions that wait for their user."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(_PREFIX + name, meaning, labels, registry=registry)

        self._all = gauge("awaiting_user", "Sessions that wait for their user.")
        self._paused = gauge(
            "awaiting_user_paused", "Those of them whose sandbox is paused and holds no slot."
        )
        self._by_age = gauge(
            "awaiting_user_by_age",
            "Sessions that wait for their user, by the longest time that the label stands for.",
            "age",
        )
        self._oldest = gauge("oldest_user_wait_seconds", "How long the longest of these sessions has waited.")
        self.pauses = Counter(
            f"{_PREFIX}user_waits",
            "Sandboxes that were paused while their session waits for its user, or resumed under the same "
            "worker by the answer, by action.",
            ["action"],
            registry=registry,
        )

    def set(self, by_age: Mapping[str, int], paused: int, oldest_seconds: float) -> None:
        """Set the gauges.

        Args:
            by_age: number of waiting sessions of every age, also where it is 0.
            paused: how many of them have a paused sandbox.
            oldest_seconds: how long the longest has waited.
        """
        self._all.set(sum(by_age.values()))
        self._paused.set(paused)
        self._oldest.set(oldest_seconds)
        for age, count in by_age.items():
            self._by_age.labels(age).set(count)

    def clear(self) -> None:
        """Count no session."""
        self.set({}, 0, 0.0)
        self._by_age.clear()


class ResourceMetrics:
    """Metrics of the known resources."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._all = Gauge(f"{_PREFIX}resources", "Known resources.", registry=registry)
        self._by_reason = Gauge(
            f"{_PREFIX}resources_by_reason",
            "Known resources, by phase and by the reason of Ready.",
            ["phase", "reason"],
            registry=registry,
        )

    def set(self, known: int, by_reason: Mapping[tuple[str, str], int]) -> None:
        """Set the number of resources: all, and by phase and reason of Ready (each empty until it is set)."""
        self._all.set(known)
        self._by_reason.clear()
        for labels, count in by_reason.items():
            self._by_reason.labels(*labels).set(count)


class AnnouncementMetrics:
    """Metrics of whether webhook events announce the turns."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._silent = Gauge(
            f"{_PREFIX}webhook_silent",
            "1 while webhook events are missing, although there were some before.",
            registry=registry,
        )
        self._last = Gauge(
            f"{_PREFIX}webhook_last_announcement_timestamp_seconds",
            "When a webhook event last announced a turn; 0 if none ever has.",
            registry=registry,
        )
        self._turns = _from_zero(
            Counter(
                f"{_PREFIX}turns_found",
                "New turns, by what the operator has found them by: a webhook event, or polling alone.",
                ["by"],
                registry=registry,
            ),
            ("event", "polling"),
        )

    def report(self, *, silent: bool, heard_at: float) -> None:
        """Set whether events are missing, and when one last announced a turn (seconds since the epoch)."""
        self._silent.set(silent)
        self._last.set(heard_at)

    def count(self, *, announced: bool) -> None:
        """Count a new turn."""
        self._turns.labels("event" if announced else "polling").inc()


def _from_zero(counter: Counter, values: Iterable[str]) -> Counter:
    """Make the series of these label values now: an alert sees a first step only if a value was before it."""
    for value in values:
        counter.labels(value)
    return counter


class SkillCacheMetrics:
    """Metrics of the cache of skills' archives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.archives = Counter(
            f"{_PREFIX}skill_cache",
            "Archives of skills, by outcome: hit, shared (with a download under way), miss, damaged, or "
            "uncached because the disk failed or lacks room.",
            ["outcome"],
            registry=registry,
        )
        self.size = Gauge(
            f"{_PREFIX}skill_cache_bytes", "Size of the archives of skills on disk.", registry=registry
        )
        self.downloaded = Counter(
            f"{_PREFIX}skill_download_bytes",
            "Bytes of skills' archives that were downloaded by way of the cache.",
            registry=registry,
        )


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(_PREFIX + name, meaning, labels, registry=self.registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, meaning, labels, registry=self.registry)

        self.leading = gauge("leading", "1 while this process is the leader.")
        self.polls = counter("polls", "Polls of the work queue, by outcome.", "outcome")
        self.queue_unavailable = gauge(
            "queue_unavailable", "1 while the environment's queue rejects every poll or answers 404."
        )
        self.credential_line = gauge(
            "credential_line",
            "Line of the credential that its cloud accepts, counted from 1; 0 while it rejects all lines.",
            "credential",
        )
        self.steps = counter("steps", "Steps taken, by step.", "step")
        self.failures = counter("step_failures", "Steps that failed, by reason.", "reason")
        self.status_writes = counter("status_writes", "Writes to a resource's status.")
        self.turns = _from_zero(counter("turns", "Workers that ended, by exit reason.", "reason"), ExitReason)
        self.skills = counter(
            "skills", "Skills of sandboxes, by outcome: written, or missing in a turn.", "outcome"
        )
        self.skill_cache = SkillCacheMetrics(self.registry)
        self.offer_to_heartbeat = Histogram(
            f"{_PREFIX}offer_to_heartbeat_seconds",
            "Time from the queue's offer to the worker's first heartbeat.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.slots_used = gauge("sandbox_slots_used", "Slots for running sandboxes that are in use.")
        self.slots = gauge("sandbox_slots", "Configured slots for running sandboxes.")
        self.slots_allowed = gauge(
            "sandbox_slots_allowed",
            "Slots that E2B currently allows; below managed_sessions_sandbox_slots after a refusal.",
        )
        self.waiting = gauge(
            "waiting_resources",
            "Resources that wait for a sandbox slot, with offered work or an announced run.",
        )
        self._used_and_waiting_by_class = (
            gauge("class_slots_used", "Slots in use, by class; without a class: empty.", "session_class"),
            gauge(
                "class_waiting_resources",
                "Resources that wait for a slot, by class; without a class: empty.",
                "session_class",
            ),
        )
        self.oldest_wait = gauge(
            "oldest_wait_seconds", "How long the first resource in the wait queue has waited."
        )
        self.user_waits = UserWaitMetrics(self.registry)
        self.queue_depth = gauge(
            "queue_depth", "Sessions whose work waited in the queue for a sandbox slot, at the last resync."
        )
        self.offers_waiting = gauge("offers_waiting", "Offers that are not yet written to a resource.")
        self.resources = ResourceMetrics(self.registry)
        self.resyncs = counter(
            "resyncs", "Resyncs with E2B's sandboxes and Anthropic's work list, by outcome.", "outcome"
        )
        self.orphans_killed, self.audit_lost = (
            counter("orphans_killed", "Orphaned sandboxes that were killed."),
            counter("audit_records_lost", "Records of the audit that could not be written."),
        )
        self.recoveries = _from_zero(
            counter(
                "recoveries",
                "Actions on stuck sessions, by action: stranded work stopped, or session interrupted.",
                "action",
            ),
            ("stopped", "interrupted"),
        )
        self.long_turns = counter(
            "long_turns",
            "Turns that lasted longer than their class allows, by action: interrupted, or worker ended.",
            "action",
        )
        self.environment_shared = gauge(
            "environment_shared", "1 while another installation or worker serves the same environment."
        )
        self.last_resync = gauge("last_resync_timestamp_seconds", "Time of the last successful resync.")

    def stand_by(self) -> None:
        """Reset what only the leader knows, so that a former leader reports nothing that was true once."""
        for gauge in (
            self.leading,
            self.queue_unavailable,
            self.slots_used,
            self.slots,
            self.slots_allowed,
            self.waiting,
            self.oldest_wait,
            self.queue_depth,
            self.offers_waiting,
            self.environment_shared,
        ):
            gauge.set(0)
        for by_class in self._used_and_waiting_by_class:
            by_class.clear()
        self.resources.set(0, {})
        self.user_waits.clear()

    def set_classes(
        self, known: Collection[str], used: Mapping[str, int], waiting: Mapping[str, int]
    ) -> None:
        """Set the gauges by session class, and drop those of classes that no longer exist.

        Args:
            known: names of the classes that share the slots, and "" for sessions without a class.
            used: number of slots in use, by class.
            waiting: number of resources that wait for a slot, by class.
        """
        for by_class, counts in zip(self._used_and_waiting_by_class, (used, waiting), strict=True):
            by_class.clear()
            for name in {*known, *counts}:
                by_class.labels(name).set(counts.get(name, 0))
