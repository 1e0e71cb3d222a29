"""Settings of the operator, each an environment variable with the prefix `MANAGED_SESSIONS_`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from managed_session_api.names import SYSTEM_NAMESPACE
from managed_session_runtime.settings import Settings
from pydantic import Field, model_validator

_PLANS: Mapping[str, Mapping[str, Any]] = {
    "hobby": {
        "max_active_sandboxes": 20,
        "sandbox_creation_rate": 1.0,
        "sandbox_max_lifetime_seconds": 3600,
    },
    "pro": {
        "max_active_sandboxes": 100,
        "sandbox_creation_rate": 5.0,
        "sandbox_max_lifetime_seconds": 86400,
    },
}
"""What E2B's plans allow, as defaults of the settings of these names."""


_PART_OF_LEASE = 2 / 3
"""How long a call may take by default where the Lease is shorter than the usual limit."""


class OperatorSettings(Settings):
    """What an installation decides; a field of a resource's spec goes before it where both exist."""

    system_namespace: str = Field(
        default=SYSTEM_NAMESPACE,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Namespace of the pods: the Lease is there, and its UID is the default installation ID.",
    )
    installation_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="Marks this installation's sandboxes in E2B. Default: the UID of the system namespace.",
    )
    template: str = Field(
        default="managed-session-worker:0.1.0",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9._-]+)?$",
        max_length=256,
        description="E2B template of new sandboxes, as NAME:TAG.",
    )
    sandbox_timeout_seconds: int = Field(
        default=900,
        ge=10,
        le=86400,
        description="E2B's countdown for a running sandbox, seconds; extended while a worker runs. Bounds "
        "the cost when the operator is away.",
    )
    max_idle_seconds: int = Field(
        default=10, ge=1, le=3600, description="How long a worker waits for the next message, seconds."
    )
    attach_timeout_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="How long a session without a message, or an announced message without work, is "
        "waited for, seconds.",
    )
    worker_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Level of worker.log in the sandboxes."
    )
    idle_ttl_seconds: int = Field(
        default=0,
        ge=0,
        le=31_536_000,
        description="Delete a session's resource after so long without a turn; 0 = never.",
    )
    ttl_seconds_after_end: int = Field(
        default=3600,
        ge=0,
        le=31_536_000,
        description="How long the (paused) sandbox of a terminated or archived session is kept, seconds.",
    )
    on_sandbox_lost: Literal["Recreate", "Fail"] = Field(
        default="Recreate", description="What to do when a session's sandbox has vanished from E2B."
    )
    e2b_plan: Literal["hobby", "pro"] = Field(
        default="hobby",
        description="The E2B team's plan. Gives the defaults of MAX_ACTIVE_SANDBOXES, SANDBOX_CREATION_RATE "
        "and SANDBOX_MAX_LIFETIME_SECONDS; each of them, where it is set, goes before the plan.",
    )
    max_active_sandboxes: int = Field(
        default=_PLANS["hobby"]["max_active_sandboxes"],
        ge=1,
        le=10000,
        description="Sandboxes that may run at once. Default by plan: 20 on hobby, 100 on pro (which can be "
        "raised to 1100 with E2B). Work beyond it stays in Anthropic's queue, the oldest is served first.",
    )
    hint_capacity_percent: int = Field(
        default=80,
        ge=0,
        le=100,
        description="Part of max_active_sandboxes that sessions may take whose work is not claimed yet.",
    )
    sandbox_creation_rate: float = Field(
        default=_PLANS["hobby"]["sandbox_creation_rate"],
        gt=0,
        le=1000,
        description="Sandboxes created per second. Default by plan: 1 on hobby, 5 on pro.",
    )
    sandbox_creation_burst: int = Field(
        default=1, ge=1, le=1000, description="Sandboxes that may be created at once before the rate counts."
    )
    sandbox_max_lifetime_seconds: int = Field(
        default=_PLANS["hobby"]["sandbox_max_lifetime_seconds"],
        ge=10,
        le=86400,
        description="E2B's longest time for which a sandbox runs without a pause, seconds. Default by plan: "
        "3600 on hobby, 86400 on pro. A worker that works longer is moved over it: its sandbox is paused and "
        "resumed after three quarters of it.",
    )
    poll_concurrency: int = Field(
        default=16, ge=1, le=64, description="Polls side by side while the queue has items."
    )
    poll_block_milliseconds: int = Field(
        default=999, ge=1, le=999, description="How long one poll of the empty queue waits, milliseconds."
    )
    reclaim_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Work that was offered and not acknowledged is offered again after so long; longer "
        "than the slowest provisioning.",
    )
    reconcile_concurrency: int = Field(
        default=256, ge=1, le=2000, description="Resources that are worked on at once."
    )
    sweep_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Time between two comparisons with E2B's list, seconds."
    )
    watch_deadline_seconds: float = Field(
        default=180.0,
        gt=0,
        le=3600,
        description="How long the watch on the resources may owe a change that is known otherwise, seconds; "
        "then /livez fails. A watch that is silent for 70 s is opened again in any case.",
    )
    orphan_grace_seconds: float = Field(
        default=600.0,
        ge=0,
        le=2_592_000,
        description="How long a sandbox is kept whose resource the leader has never seen, seconds: time to "
        "restore resources from a backup while the operator runs. One whose resource was removed by force "
        "is killed by the second sweep that finds it so.",
    )
    end_checks_per_minute: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="Idle sessions asked about per minute, to notice an end whose webhook was lost.",
    )
    end_check_seconds: float = Field(
        default=21600.0,
        gt=0,
        le=86400,
        description="Time between two such questions about one session, seconds.",
    )
    lease_duration_seconds: float = Field(
        default=15.0, gt=1, le=300, description="How long the leader's Lease is valid, seconds."
    )
    lease_renew_seconds: float = Field(
        default=3.0, gt=0.05, le=60, description="How often the Lease is renewed, seconds."
    )
    request_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Limit of one call to Anthropic or E2B, seconds; shorter than the Lease. A short Lease "
        "lowers the default.",
    )
    create_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Limit of one create, resume or pause in E2B, seconds; shorter than the Lease (one that "
        "takes longer is looked for and repeated; a pause is not cut off by it). A short Lease lowers the "
        "default.",
    )
    worker_start_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Limit for a worker's first heartbeat, seconds."
    )
    worker_start_attempts: int = Field(
        default=5, ge=1, le=100, description="Starts of a worker for one claim before it is given up."
    )
    recovery_attempts: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Attempts in a row to get a stuck session going again before that is left to a person.",
    )
    retry_scale: float = Field(
        default=1.0, gt=0, le=10, description="Factor on the delays between retries (tests make them short)."
    )
    allow_environment_key_in_sandbox: bool = Field(
        default=False,
        description="Give the environment key to sandboxes when the environment issues no session token. "
        "Whoever holds that key can act as the worker of every session of the environment.",
    )

    @model_validator(mode="before")
    @classmethod
    def _limits_of_the_plan(cls, given: Any) -> Any:
        limits = _PLANS.get(given.get("e2b_plan", "")) if isinstance(given, Mapping) else None
        return {**limits, **given} if limits else given

    @model_validator(mode="after")
    def _lease_outlives_renewals(self) -> OperatorSettings:
        if self.lease_renew_seconds * 2 > self.lease_duration_seconds:
            raise ValueError(
                "MANAGED_SESSIONS_LEASE_RENEW_SECONDS must be at most half of "
                "MANAGED_SESSIONS_LEASE_DURATION_SECONDS"
            )
        return self

    @model_validator(mode="after")
    def _effects_end_before_the_lease(self) -> OperatorSettings:
        """A call that outlives the Lease could change what the next leader has begun."""
        for name in ("request_timeout_seconds", "create_timeout_seconds", "kubernetes_timeout_seconds"):
            if getattr(self, name) < self.lease_duration_seconds:
                continue
            if name in self.model_fields_set:
                raise ValueError(
                    f"MANAGED_SESSIONS_{name.upper()} must be shorter than "
                    f"MANAGED_SESSIONS_LEASE_DURATION_SECONDS ({self.lease_duration_seconds:g})"
                )
            object.__setattr__(self, name, self.lease_duration_seconds * _PART_OF_LEASE)
        return self
