"""Defines the dashboard's metrics."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class SignIn(StrEnum):
    """Outcomes of sign-ins: the label values of the counter."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FORBIDDEN = "forbidden"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"


class DashboardMetrics:
    """Counters and gauges. All of their series exist from the start."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        sign_ins = Counter(
            "managed_sessions_dashboard_sign_ins", "Sign-ins, by outcome.", ["outcome"], registry=registry
        )
        self._sign_ins = {outcome: sign_ins.labels(outcome.value) for outcome in SignIn}
        self._watch_failures = Counter(
            "managed_sessions_dashboard_watch_failures",
            "Lists and watches that failed and were begun again, by kind.",
            ["kind"],
            registry=registry,
        )
        self.viewers = Gauge(
            "managed_sessions_dashboard_viewers", "Pages that receive updates now.", registry=registry
        )

    def signed_in(self, outcome: SignIn) -> None:
        """Count a sign-in."""
        self._sign_ins[outcome].inc()

    def add_kind(self, plural: str) -> None:
        """Publish the series of a kind that is watched."""
        self._watch_failures.labels(plural)

    def watch_failed(self, plural: str) -> None:
        """Count a list or a watch that failed."""
        self._watch_failures.labels(plural).inc()
