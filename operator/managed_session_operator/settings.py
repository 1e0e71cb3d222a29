"""Defines the operator's settings, each an environment variable with the prefix `MANAGED_SESSIONS_`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
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
"""Limits of E2B's plans, used as defaults of the settings with these names."""


_PART_OF_LEASE = 2 / 3
"""Part of the Lease's duration that a call may take when the Lease is shorter than the usual limit."""


class OperatorSettings(Settings):
    """Settings of the operator. A field in a resource's spec takes precedence over its setting."""

    renamed = MappingProxyType(
        {"HINT_CAPACITY_PERCENT": "prewarm_capacity_percent", "SWEEP_SECONDS": "resync_interval_seconds"}
    )

    system_namespace: str = Field(
        default=SYSTEM_NAMESPACE,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Namespace of the pods and the Lease. Its UID is the default installation ID.",
    )
    installation_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="Identifies this installation's sandboxes in E2B. Default: UID of the system namespace.",
    )
    template: str = Field(
        default="managed-session-worker:0.1.0",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9._-]+)?$",
        max_length=256,
        description="E2B template for new sandboxes, as NAME:TAG.",
    )
    sandbox_timeout_seconds: int = Field(
        default=900,
        ge=10,
        le=86400,
        description="Seconds after which E2B pauses a running sandbox. The operator extends this while a "
        "worker runs; without an operator it limits the cost.",
    )
    max_idle_seconds: int = Field(
        default=10, ge=1, le=3600, description="Seconds that a worker waits for the next message."
    )
    min_idle_seconds: int = Field(
        default=1,
        ge=1,
        le=3600,
        description="Seconds that a worker waits for the next message in a session that has mostly come back "
        "late. With MANAGED_SESSIONS_MAX_IDLE_SECONDS or more, all workers wait that long.",
    )
    attach_timeout_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds to wait for a session's first message, and for the work of an announced run.",
    )
    pause_while_waiting_seconds: int = Field(
        default=60,
        ge=0,
        le=86400,
        description="Seconds that a worker waits for its session's user (to confirm a tool call, or to "
        "return a custom tool's result) before its sandbox is paused and its slot is free; 0 means never.",
    )
    max_parallel_calls: int = Field(
        default=8,
        ge=1,
        le=20,
        description="How many tool calls of different threads of one session run at the same time.",
    )
    worker_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Log level of worker.log in the sandboxes."
    )
    idle_ttl_seconds: int = Field(
        default=0,
        ge=0,
        le=31_536_000,
        description="Seconds without a turn after which a session's resource is deleted; 0 means never.",
    )
    ttl_seconds_after_end: int = Field(
        default=3600,
        ge=0,
        le=31_536_000,
        description="Seconds that the paused sandbox of a terminated or archived session is kept.",
    )
    on_sandbox_lost: Literal["Recreate", "Fail"] = Field(
        default="Recreate",
        description="What to do when E2B no longer has a session's sandbox: go on in an empty one, or fail.",
    )
    audit: str = Field(
        default="off",
        pattern=r"^(off|stdout|/.*[^/])$",
        description="Where the audit goes: off, stdout, or the absolute path of a file to append to.",
    )
    e2b_plan: Literal["hobby", "pro"] = Field(
        default="hobby",
        description="Plan of the E2B team. Sets the defaults of MAX_ACTIVE_SANDBOXES, SANDBOX_CREATION_RATE "
        "and SANDBOX_MAX_LIFETIME_SECONDS; setting one of them overrides its default.",
    )
    webhook_silence_turns: int = Field(
        default=5,
        ge=0,
        le=10000,
        description="Number of turns in a row, found by polling alone, after which webhook events count as "
        "missing, if there have been any before; 0 means never.",
    )
    webhook_silence_seconds: int = Field(
        default=600,
        ge=0,
        le=604_800,
        description="Seconds between the first and the last of these turns, at least.",
    )
    sandbox_price_per_second: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="US dollars for one second of a running sandbox of any size, for the estimates in "
        "`status.cost`. Default: the size decides.",
    )
    sandbox_price_per_vcpu_second: float = Field(
        default=0.000014,
        ge=0,
        le=10,
        description="US dollars for one second of a virtual processor of a running sandbox. Default: E2B's "
        "public price in November 2026. No estimates if this and the price of memory are 0.",
    )
    sandbox_price_per_gib_second: float = Field(
        default=0.0000045,
        ge=0,
        le=10,
        description="US dollars for one second of a GiB of memory of a running sandbox. Default: E2B's "
        "public price in November 2026.",
    )
    metrics_agents: int = Field(
        default=50,
        ge=0,
        le=1000,
        description="How many agents have a label of their own in the metrics of costs. The others count as "
        "`other`.",
    )
    max_active_sandboxes: int = Field(
        default=_PLANS["hobby"]["max_active_sandboxes"],
        ge=1,
        le=10000,
        description="Sandbox slots: the maximum number of sandboxes that run at once. Default by plan: 20 on "
        "hobby, 100 on pro (E2B can raise that to 1100). Further work waits in Anthropic's queue, oldest "
        "first.",
    )
    offers_ahead: int = Field(
        default=1000,
        ge=1,
        le=10000,
        description="Number of offers beyond the slots that the operator takes from Anthropic's queue while "
        "there are session classes, so that it sees the work of all classes. Further offers are "
        "left to the queue, which makes them again.",
    )
    prewarm_capacity_percent: int = Field(
        default=80,
        ge=0,
        le=100,
        description="Percentage of the slots that may be used to start sandboxes early, for announced "
        "runs whose work has not been claimed yet.",
    )
    sandbox_creation_rate: float = Field(
        default=_PLANS["hobby"]["sandbox_creation_rate"],
        gt=0,
        le=1000,
        description="Maximum number of sandboxes created per second. Default by plan: 1 on hobby, 5 on pro.",
    )
    sandbox_creation_burst: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of sandboxes that may be created at once before the rate applies.",
    )
    sandbox_max_lifetime_seconds: int = Field(
        default=_PLANS["hobby"]["sandbox_max_lifetime_seconds"],
        ge=10,
        le=86400,
        description="Seconds for which E2B lets a sandbox run without a pause. Default by plan: 3600 on "
        "hobby, 86400 on pro. When a worker runs longer, its sandbox is paused and resumed after three "
        "quarters of this time.",
    )
    poll_concurrency: int = Field(
        default=16, ge=1, le=64, description="Number of concurrent polls while the queue has items."
    )
    poll_block_milliseconds: int = Field(
        default=999, ge=1, le=999, description="Milliseconds that one poll of an empty queue waits."
    )
    reclaim_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Seconds after which the queue offers unacknowledged work again. Must be longer than the "
        "slowest start of a sandbox.",
    )
    reconcile_concurrency: int = Field(
        default=256, ge=1, le=2000, description="Maximum number of resources that are reconciled at once."
    )
    resync_interval_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds between two resyncs with E2B's sandboxes and Anthropic's work list.",
    )
    watch_deadline_seconds: float = Field(
        default=180.0,
        gt=0,
        le=3600,
        description="Seconds that the watch may be behind a change that is already known; then /livez fails. "
        "A watch that has been silent for 70 s is always reopened.",
    )
    orphan_grace_seconds: float = Field(
        default=600.0,
        ge=0,
        le=2_592_000,
        description="Seconds to keep an orphaned sandbox whose resource the leader has never seen, so that "
        "resources can be restored from a backup while the operator runs. If the leader has seen the "
        "resource, the second resync without it kills the sandbox.",
    )
    end_checks_per_minute: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="Number of idle sessions per minute that are checked for an end whose webhook was lost.",
    )
    end_check_seconds: float = Field(
        default=21600.0,
        gt=0,
        le=86400,
        description="Seconds between two such end checks of the same session.",
    )
    lease_duration_seconds: float = Field(
        default=15.0, gt=1, le=300, description="Seconds for which the leader's Lease is valid."
    )
    lease_renew_seconds: float = Field(
        default=3.0, gt=0.05, le=60, description="Seconds between two renewals of the Lease."
    )
    request_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Timeout of one call to Anthropic or E2B, in seconds. Must be shorter than the Lease; "
        "a short Lease lowers the default.",
    )
    create_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Seconds that a step waits for a create, resume or pause in E2B before it checks what "
        "else has changed. Must be shorter than the Lease; a short Lease lowers the default. The call itself "
        "stays open for up to 85 s.",
    )
    worker_start_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Seconds within which a worker must send its first heartbeat."
    )
    worker_start_attempts: int = Field(
        default=5, ge=1, le=100, description="Maximum number of worker starts for one claim."
    )
    skill_max_bytes: int = Field(
        default=100_000_000,
        ge=1,
        description="Maximum size of a skill's archive, in bytes. Larger skills are left out.",
    )
    skill_max_unpacked_bytes: int = Field(
        default=500_000_000, ge=1, description="Maximum size of an unpacked skill, in bytes."
    )
    skill_max_files: int = Field(
        default=10_000, ge=1, description="Maximum number of files and directories in a skill's archive."
    )
    skill_max_count: int = Field(
        default=64,
        ge=1,
        le=1000,
        description="Maximum number of skills per session. Further skills of the agent are left out.",
    )
    skill_downloads: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Maximum number of skills that are downloaded or delivered at once, over all sessions. "
        "Each needs up to 20 MiB of memory, whatever the skill's size.",
    )
    skill_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        le=600,
        description="Timeout for moving one skill from Anthropic into a sandbox, in seconds.",
    )
    skill_cache_folder: Path | None = Field(
        default=None,
        description="Folder in which the operator keeps archives of skills, so that each version is "
        "downloaded once. Without it, each sandbox's skills are downloaded anew. `deploy/` sets it.",
    )
    skill_cache_mib: int = Field(
        default=256,
        ge=0,
        le=1_048_576,
        description="Maximum size of these archives together, in MiB; 0 turns the cache off. More than 256 "
        "needs a larger volume in `deploy/`.",
    )
    tool_call_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Number of times that a tool call is run if its worker ends during it without giving the "
        "lease back. After that the next worker answers the call with an error.",
    )
    recovery_attempts: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Number of consecutive attempts to recover a stuck session. After them, a person has to.",
    )
    retry_scale: float = Field(
        default=1.0, gt=0, le=10, description="Multiplies the delays between retries; meant for tests."
    )
    allow_environment_key_in_sandbox: bool = Field(
        default=False,
        description="Give the environment key to sandboxes if the environment issues no session tokens. "
        "Anyone with that key can act as the worker of every session in the environment.",
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
        """Refuse calls that could outlive the Lease and change what the next leader has begun."""
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
