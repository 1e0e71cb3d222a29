"""Defines the dashboard's settings."""

from __future__ import annotations

from managed_session_api import names
from managed_session_runtime.settings import Settings
from pydantic import Field


class DashboardSettings(Settings):
    """Settings of the dashboard, in addition to those of every process."""

    system_namespace: str = Field(
        names.SYSTEM_NAMESPACE,
        min_length=1,
        description="Namespace of the pods, which the sign-in page names in its help.",
    )
    dashboard_host: str = Field(
        "::", min_length=1, description="Address that the dashboard listens on; `::` means all addresses."
    )
    dashboard_port: int = Field(
        8000, ge=0, le=65535, description="Port that the dashboard listens on; 0 picks a free port."
    )
    dashboard_max_connections: int = Field(
        200,
        ge=10,
        le=10_000,
        description="Maximum number of open connections; further ones are answered 503. Each open page "
        "uses one.",
    )
    dashboard_sign_in_seconds: int = Field(
        28_800,
        ge=60,
        le=604_800,
        description="Seconds after which a viewer has to sign in again. A token that expires earlier ends it "
        "earlier.",
    )
    dashboard_recheck_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds after which a viewer's right to list ManagedSessions is checked again.",
    )
    dashboard_failed_sign_ins: int = Field(
        10,
        ge=1,
        le=1000,
        description="Maximum number of failed sign-ins per minute and client address; further ones are "
        "answered 429.",
    )
    dashboard_concurrent_reviews: int = Field(
        8,
        ge=1,
        le=1000,
        description="Maximum number of TokenReviews and SubjectAccessReviews that are in progress at once.",
    )
    dashboard_update_seconds: float = Field(
        0.5, gt=0, le=60, description="Minimum time between two updates of an open page, in seconds."
    )
    dashboard_events_per_session: int = Field(
        60, ge=1, le=1000, description="Maximum number of Kubernetes Events in memory for each session."
    )
    dashboard_events: int = Field(
        50_000,
        ge=100,
        le=1_000_000,
        description="Maximum number of Kubernetes Events in memory for all sessions; the oldest are dropped.",
    )
    dashboard_trace_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s]*\{trace_id\}[^\s]*$",
        description="Address of a trace in your tracing system, with `{trace_id}` in it. Without it, the "
        "page shows trace IDs without a link.",
    )
    max_active_sandboxes: int | None = Field(
        None,
        ge=1,
        le=10000,
        description="Sandbox slots that the page compares with the slots in use. `deploy/dashboard` takes it "
        "from the operator's ConfigMap.",
    )
