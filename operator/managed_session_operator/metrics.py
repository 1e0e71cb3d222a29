"""What the operator counts. Labels come from fixed lists only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        prefix = "managed_sessions_"
        self.leading = Gauge(f"{prefix}leading", "1 while this process leads.", registry=self.registry)
        self.polls = Counter(
            f"{prefix}polls", "Polls of the work queue by outcome.", ["outcome"], registry=self.registry
        )
        self.queue_unavailable = Gauge(
            f"{prefix}queue_unavailable",
            "1 while the environment's queue refuses every poll or answers 404.",
            registry=self.registry,
        )
        self.credential_line = Gauge(
            f"{prefix}credential_line",
            "Which line of a credential its cloud accepts, from 1 on; 0 while it refuses all of them.",
            ["credential"],
            registry=self.registry,
        )
        self.steps = Counter(f"{prefix}steps", "Steps taken.", ["step"], registry=self.registry)
        self.failures = Counter(
            f"{prefix}step_failures", "Steps that failed, by reason.", ["reason"], registry=self.registry
        )
        self.status_writes = Counter(
            f"{prefix}status_writes", "Writes to a resource's status.", registry=self.registry
        )
        self.turns = Counter(
            f"{prefix}turns", "Workers that ended, by exit reason.", ["reason"], registry=self.registry
        )
        self.offer_to_heartbeat = Histogram(
            f"{prefix}offer_to_heartbeat_seconds",
            "From the queue's offer to the worker's first heartbeat.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.places_used = Gauge(
            f"{prefix}places_used", "Places for running sandboxes in use.", registry=self.registry
        )
        self.places = Gauge(f"{prefix}places", "Places for running sandboxes.", registry=self.registry)
        self.places_allowed = Gauge(
            f"{prefix}places_allowed",
            "Places that E2B is known to allow; below managed_sessions_places after a refusal.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            f"{prefix}waiting_resources",
            "Resources that wait for a place, offered or announced.",
            registry=self.registry,
        )
        self.oldest_wait = Gauge(
            f"{prefix}oldest_wait_seconds",
            "How long the first of them has waited.",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            f"{prefix}queue_depth",
            "Sessions whose work waits in the queue without a place, at the last sweep.",
            registry=self.registry,
        )
        self.offers_waiting = Gauge(
            f"{prefix}offers_waiting", "Offers not written into a resource yet.", registry=self.registry
        )
        self.resources = Gauge(f"{prefix}resources", "Resources known.", registry=self.registry)
        self.sweeps = Counter(
            f"{prefix}sweeps",
            "Comparisons with E2B's list and the work list, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.orphans_killed = Counter(
            f"{prefix}orphans_killed", "Sandboxes killed that no resource had.", registry=self.registry
        )
        self.recoveries = Counter(
            f"{prefix}recoveries",
            "What was done about stuck sessions: stranded work stopped, session interrupted.",
            ["action"],
            registry=self.registry,
        )
        self.environment_shared = Gauge(
            f"{prefix}environment_shared",
            "1 while somebody else serves the same environment.",
            registry=self.registry,
        )
        self.last_sweep = Gauge(
            f"{prefix}last_sweep_timestamp_seconds", "When the last sweep succeeded.", registry=self.registry
        )
