"""How the systems are set up in which rows of the matrix are played."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .sessions import QUICK

PODS = ("webhook", "operator-1", "operator-2", "operator-3")
"""The pods that reach the API server through a proxy of their own."""


@dataclass(frozen=True)
class Arrangement:
    """A system that rows share, one after the other.

    Attributes:
        name: for the test's ID; rows of one arrangement are played together.
        operators: how many are started.
        webhook: the webhook is registered with Anthropic; without it only the queue tells of work.
        own_control_plane: an API server and etcd of its own, which a row may stop.
        operator: settings of the operator besides QUICK.
        anthropic: settings of Anthropic's simulator.
        e2b: settings of E2B's simulator.
    """

    name: str
    operators: int = 1
    webhook: bool = True
    own_control_plane: bool = False
    operator: dict[str, str] = field(default_factory=dict, hash=False)
    anthropic: dict[str, Any] = field(default_factory=dict, hash=False)
    e2b: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def operator_settings(self) -> dict[str, str]:
        """All settings of the operator."""
        return {**QUICK, **self.operator}


USUAL = Arrangement("usual")
"""One operator, a webhook, slow clocks that run fast."""

QUEUE_ONLY = Arrangement("queue only", webhook=False, anthropic={"work": {"enqueue_at_creation": False}})
"""No webhook, and work is queued by the message alone: the calls of a turn come in one order."""

WATCH_ALONE = Arrangement("watch alone", operator={"resync_interval_seconds": "600"})
"""No resync comes within a row: what a person changes is noticed by the watch alone."""

TWO_OPERATORS = Arrangement(
    "two operators", operators=2, webhook=False, anthropic={"work": {"enqueue_at_creation": False}}
)
"""A leader and a standby; the calls of a turn come in one order."""

SHORT_ANNOUNCEMENTS = Arrangement(
    "short hints",
    operator={"attach_timeout_seconds": "3"},
    anthropic={"webhooks": {"time_scale": 0.02, "attempts": 20}},
)
"""Announced work that never comes is not waited for long, and webhooks are delivered again at once."""

SHORT_LIMITS = Arrangement(
    "short limits",
    operator={"worker_start_timeout_seconds": "6"},
    anthropic={"work": {"lease_ttl_seconds": 4}},
)
"""The wait for a worker's start and the lease of abandoned work end within seconds."""

ONE_PLACE = Arrangement(
    "one place",
    webhook=False,
    operator={"max_active_sandboxes": "1"},
    anthropic={"work": {"lease_ttl_seconds": 4, "enqueue_at_creation": False}},
)
"""One sandbox may run at a time, and the lease of abandoned work ends within seconds."""

OWN_CONTROL_PLANE = Arrangement("own control plane", own_control_plane=True)
"""Its API server and etcd may be stopped."""

SHORT_COUNTDOWN = Arrangement(
    "short countdown",
    webhook=False,
    operator={"sandbox_timeout_seconds": "10"},
    anthropic={"work": {"enqueue_at_creation": False}},
)
"""A running sandbox's countdown is restarted every few seconds."""

SHORT_LIFE = Arrangement(
    "short life",
    webhook=False,
    operator={"sandbox_max_lifetime_seconds": "10"},
    anthropic={"work": {"enqueue_at_creation": False}},
)
"""A sandbox is rolled over after a few seconds."""

USER_WAITS = Arrangement(
    "user waits",
    webhook=False,
    operator={"pause_while_waiting_seconds": "1"},
    anthropic={"work": {"lease_ttl_seconds": 8, "enqueue_at_creation": False}},
)
"""A sandbox is soon paused while its user is awaited, and its worker's lease ends within seconds."""

IMPATIENT = Arrangement(
    "impatient",
    operator={
        "attach_timeout_seconds": "3",
        "end_check_seconds": "1",
        "end_checks_per_minute": "600",
    },
)
"""Announced work is not awaited for long, and whether a session has ended is asked all the time."""
