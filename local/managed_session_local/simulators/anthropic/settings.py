"""Settings of the simulator, changed while it runs by `PATCH /_simulator/settings`."""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Latency(_Section):
    """A delay, uniformly distributed over mean ± jitter, in milliseconds."""

    mean_ms: float = Field(default=0, ge=0)
    jitter_ms: float = Field(default=0, ge=0)

    def sample_seconds(self) -> float:
        """Draw one delay, in seconds, never negative."""
        if not self.mean_ms and not self.jitter_ms:
            return 0.0
        return max(0.0, self.mean_ms + random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000


class WorkSettings(_Section):
    """The work queue of an environment."""

    item_ids: Literal["session", "work"] = "session"
    """A work item has its session's own ID (as seen in practice) or a ``work_…`` ID (as the type says)."""
    lease_ttl_seconds: int = Field(default=300, ge=1)
    """How long a heartbeat holds the lease (the server's default in the SDK's comments)."""
    max_lease_ttl_seconds: int = Field(default=3600, ge=1)
    """Upper bound for ``desired_ttl_seconds``."""
    empty_poll: Literal["null", "no_content"] = "null"
    """Answer to an empty poll: 200 with JSON null, or 204."""
    reclaim_older_than_ms: int = Field(default=5000, ge=0)
    """Window when the poll names none."""
    enqueue_at_creation: bool = True
    issue_secrets: bool = True
    """Whether a polled item carries a per-item ``secret``; not every environment issues one."""
    sessions_token_seconds: float | None = None
    """Lifetime of a sessions token; null: as long as the session."""
    sessions_token_may_ack: bool = False
    requeue_unanswered_on_stop: bool = False
    """Queue the work again when an item stops while its session waits for results (SDK issue 1779: no)."""
    stranded_after_seconds: float = 30
    """An acknowledged item without a heartbeat counts as stranded after this time (ledger only)."""


class EventSettings(_Section):
    """Events of a session."""

    ping_seconds: float = Field(default=15, gt=0)
    worker_credentials_may_send: list[str] = ["user.tool_result", "user.custom_tool_result"]
    """Event types that the environment key and a sessions token may send. An API key may send any."""
    unexpected_results: Literal["reject", "accept"] = "reject"
    """A result for a call that waits for none (answered, interrupted): 400, or recorded and ignored."""
    foreign_session_status: Literal[403, 404] = 404
    """Answer to an environment key that asks for another environment's session."""


class WebhookSettings(_Section):
    """Webhook delivery."""

    time_scale: float = Field(default=1.0, ge=0)
    """Factor on every retry delay."""
    attempts: int = Field(default=3, ge=1)
    retry_min_seconds: float = 5
    retry_max_seconds: float = 120
    response_timeout_seconds: float = Field(default=10, gt=0)
    disable_after_failing_seconds: float | None = None
    """Disable an endpoint that has failed for this long without one 2xx (scaled too); null: never."""
    undocumented_events: bool = False
    """Also send the event types that only the SDK knows, not the documentation (`session.created` …)."""
    latency: Latency = Latency()
    """From the event to the first attempt."""
    max_connections: int = Field(default=100, ge=1)
    """Deliveries in flight side by side; read at the first one."""


class AgentSettings(_Section):
    """The scripted agent."""

    thinking: Latency = Latency()
    """Before each step of a script."""


class Settings(_Section):
    """All settings. Identities and keys are read at the start; the rest is live."""

    organization_id: str = "7f1d2c3b-0000-4000-8000-000000000001"
    workspace_id: str = "wrkspc_01Simulated"
    environment_id: str = "env_01Simulated"
    environment_key: str = "sk-ant-oat01-simulated-environment-key"
    api_key: str = "sk-ant-api03-simulated-api-key"
    agent_id: str = "agent_01Simulated"
    latencies: dict[str, Latency] = {}
    """Per operation (`work.poll`, …); ``*`` for all others. Half before the effect, half after it."""
    work: WorkSettings = WorkSettings()
    events: EventSettings = EventSettings()
    webhooks: WebhookSettings = WebhookSettings()
    agent: AgentSettings = AgentSettings()
    ledger_capacity: int = Field(default=200_000, ge=1)
    """Newest calls and deliveries kept; read at start."""

    def latency_of(self, operation: str) -> Latency:
        """Return the latency model of one operation."""
        return self.latencies.get(operation) or self.latencies.get("*") or Latency()

    def merged(self, patch: dict[str, Any]) -> Settings:
        """Return a copy with a JSON merge patch applied. Raises pydantic.ValidationError."""
        return Settings.model_validate(_merge(self.model_dump(mode="json"), patch))


def _merge(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        current = merged.get(key)
        merged[key] = (
            _merge(current, value) if isinstance(current, dict) and isinstance(value, dict) else value
        )
    return merged
