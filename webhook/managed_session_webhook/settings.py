"""Defines the webhook's settings."""

from __future__ import annotations

from managed_session_runtime.settings import Settings
from pydantic import Field


class WebhookSettings(Settings):
    """Settings of the webhook, in addition to those of every process."""

    webhook_host: str = Field(
        "::", min_length=1, description="Address that the webhook listens on; `::` means all addresses."
    )
    webhook_port: int = Field(
        8000, ge=0, le=65535, description="Port that the webhook listens on; 0 picks a free port."
    )
    webhook_max_connections: int = Field(
        500,
        ge=10,
        le=100_000,
        description="Maximum number of open connections; further ones are answered 503.",
    )
    webhook_body_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Timeout for receiving a request's body, in seconds."
    )
    webhook_large_bodies: int = Field(
        16,
        ge=1,
        le=1000,
        description="Maximum number of bodies above 16 KiB (and up to 1 MiB) in memory at once.",
    )
    webhook_deadline_seconds: float = Field(
        10.0,
        gt=0,
        le=300,
        description="Timeout for recording one event, including time spent waiting, in seconds. "
        "The sender then gets 503 and tries again.",
    )
    webhook_concurrent_events: int = Field(
        32, ge=1, le=1000, description="Maximum number of events that are recorded at once."
    )
    webhook_retry_after_seconds: int = Field(
        5, ge=1, le=3600, description="Seconds that a 503 asks the sender to wait (Retry-After)."
    )
    webhook_readiness_interval_seconds: float = Field(
        5.0, gt=0, le=300, description="Seconds between two checks of the API server for /readyz."
    )
    webhook_shutdown_delay_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Seconds to keep serving after SIGTERM while /readyz fails, so that load balancers stop "
        "sending requests. Needed only without a preStop hook.",
    )
    webhook_drain_seconds: float = Field(
        15.0,
        gt=0,
        le=300,
        description="Seconds that requests in progress get to finish after SIGTERM and the shutdown delay.",
    )
    kubernetes_timeout_seconds: float = Field(
        5.0, gt=0, le=300, description="Timeout of one call to the Kubernetes API server, in seconds."
    )
