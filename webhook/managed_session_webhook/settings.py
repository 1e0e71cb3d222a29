"""Settings of the webhook's process."""

from __future__ import annotations

from managed_session_runtime.settings import Settings
from pydantic import Field


class WebhookSettings(Settings):
    """What the webhook can be told; see also the settings that every process has."""

    webhook_host: str = Field(
        "::", min_length=1, description="Address the webhook listens on; `::` is every address."
    )
    webhook_port: int = Field(8000, ge=0, le=65535, description="Port of the webhook; 0 picks a free one.")
    webhook_max_connections: int = Field(
        500, ge=10, le=100_000, description="Open connections to the webhook; more are answered 503."
    )
    webhook_body_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Time a sender has to send a request's body."
    )
    webhook_large_bodies: int = Field(
        16,
        ge=1,
        le=1000,
        description="Bodies above 16 KiB (at most 1 MiB) that are in memory at the same time, at most.",
    )
    webhook_deadline_seconds: float = Field(
        10.0,
        gt=0,
        le=300,
        description="Time to record one event, waiting included; then the sender is told to try again (503).",
    )
    webhook_concurrent_events: int = Field(
        32, ge=1, le=1000, description="Events that are recorded in the API server at the same time, at most."
    )
    webhook_retry_after_seconds: int = Field(
        5, ge=1, le=3600, description="What a 503 tells the sender to wait (Retry-After)."
    )
    webhook_readiness_interval_seconds: float = Field(
        5.0, gt=0, le=300, description="Time between two checks of the API server for /readyz."
    )
    webhook_shutdown_delay_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="After SIGTERM: time as unready that still serves, where no preStop hook has waited "
        "until load balancers have noticed.",
    )
    webhook_drain_seconds: float = Field(
        15.0, gt=0, le=300, description="After that: time for requests under way to finish."
    )
    kubernetes_timeout_seconds: float = Field(
        5.0, gt=0, le=300, description="Longest wait for one answer of the Kubernetes API server."
    )
