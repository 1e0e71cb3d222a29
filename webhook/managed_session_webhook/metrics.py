"""Defines the webhook's metrics."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram


class Outcome(StrEnum):
    """Outcomes of requests to /webhook: the label values of the counter."""

    CREATED = "created"
    RECORDED = "recorded"
    UNCHANGED = "unchanged"
    STALE = "stale"
    NO_RESOURCE = "no_resource"
    IGNORED = "ignored"
    UNRECOGNIZED = "unrecognized"
    TOO_LARGE = "too_large"
    INCOMPLETE = "incomplete"
    NO_SIGNING_KEY = "no_signing_key"
    BAD_SIGNATURE = "bad_signature"
    INVALID_EVENT = "invalid_event"
    TERMINATING = "terminating"
    KUBERNETES_UNAVAILABLE = "kubernetes_unavailable"
    KUBERNETES_MISCONFIGURED = "kubernetes_misconfigured"
    FAILED = "failed"


class WebhookMetrics:
    """Counters and histograms. All of their series exist from the start."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        requests = Counter(
            "managed_sessions_webhook_requests",
            "Requests to /webhook, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._requests = {outcome: requests.labels(outcome.value) for outcome in Outcome}
        self._duration = Histogram(
            "managed_sessions_webhook_request_duration_seconds",
            "Time from a request's headers to its response.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )

    def observe(self, outcome: Outcome, seconds: float) -> None:
        """Count one request."""
        self._requests[outcome].inc()
        self._duration.observe(seconds)
