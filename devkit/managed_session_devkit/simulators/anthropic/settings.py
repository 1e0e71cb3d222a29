"""Settings of the simulator. `PATCH /_simulator/settings` changes them while it runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from managed_session_devkit.simulators.common.settings import Latency, StrictModel, latency_of


class WorkSettings(StrictModel):
    """The work queue of an environment."""

    item_ids: Literal["session", "work"] = "session"
    """Whether a work item has its session's ID (as seen in practice) or a ``work_…`` ID (as typed)."""
    lease_ttl_seconds: int = Field(default=300, ge=1)
    """How long a heartbeat extends the lease. The SDK's comments name this default."""
    max_lease_ttl_seconds: int = Field(default=3600, ge=1)
    """Maximum of ``desired_ttl_seconds``."""
    empty_poll: Literal["null", "no_content"] = "null"
    """Answer to an empty poll: 200 with JSON null, or 204."""
    reclaim_older_than_ms: int = Field(default=5000, ge=0)
    """Used if a poll does not say it."""
    enqueue_at_creation: bool = True
    issue_secrets: bool = True
    """Whether a polled item has a ``secret``. Not every environment issues them."""
    sessions_token_seconds: float | None = None
    """Lifetime of a session token. null: that of the session."""
    only_newest_token: bool = False
    """Refuse a session token after its item was offered again with a newer one."""
    sessions_token_may_ack: bool = False
    requeue_unanswered_on_stop: bool = False
    """Queue work again if its item stops in the middle of a turn. By SDK issue 1779 it is not."""
    lapse_while_idle: Literal["queue", "stop"] = "queue"
    """What a lapsed lease makes of the item of an idle session, which needs no worker yet. The SDK's comments
    say that a lapsed item is queued again, and do not mention the session's status."""
    stranded_after_seconds: float = 30
    """After this time, an acknowledged item without a heartbeat counts as stranded (ledger only)."""


class EventSettings(StrictModel):
    """Events of a session."""

    ping_seconds: float = Field(default=15, gt=0)
    worker_credentials_may_send: list[str] = Field(default=["user.tool_result", "user.custom_tool_result"])
    """Event types that the environment key and a session token may send. An API key may send all."""
    unexpected_results: Literal["reject", "accept"] = "reject"
    """Answer 400 to a result of a call that waits for none (answered, interrupted), or just record it."""
    results_without_lease: Literal["accept", "reject"] = "accept"
    """A result from a worker that does not hold the item's lease: accept it, or answer 403. Anthropic does
    not document which it does."""
    answers_queue_work: bool = False
    """Queue work for an answer of the session's user (`user.tool_confirmation`, `user.custom_tool_result`),
    unless it is queued or held. Documented is only that new messages of dormant sessions do."""
    confirmations_run: bool = False
    """Whether a session runs, and says so, from a call's confirmation on. Otherwise its result does that."""
    thread_calls_settle_ms: float = Field(default=0, ge=0)
    """Refuse a result of a sub-agent's call (400) until the call is this old (SDK issue 1744)."""
    foreign_session_status: Literal[403, 404] = 404
    """Status of the answer if an environment key requests another environment's session."""


class WebhookSettings(StrictModel):
    """Webhook delivery."""

    time_scale: float = Field(default=1.0, ge=0)
    """Factor on every retry delay."""
    attempts: int = Field(default=3, ge=1)
    retry_min_seconds: float = 5
    retry_max_seconds: float = 120
    response_timeout_seconds: float = Field(default=10, gt=0)
    disable_after_failing_seconds: float | None = None
    """Disable an endpoint after failing this long without a 2xx (also scaled). null: never."""
    undocumented_events: bool = False
    """Also send event types that the SDK knows and the documentation does not (`session.created` …)."""
    latency: Latency = Latency()
    """From the event to the first attempt."""
    max_connections: int = Field(default=100, ge=1)
    """Maximum of concurrent deliveries. Read at the first delivery."""


class SkillSettings(StrictModel):
    """Downloads of skills."""

    bytes_per_second: float | None = Field(default=None, gt=0)
    """Speed of one download. null: not limited."""


class AgentSettings(StrictModel):
    """The scripted agent."""

    thinking: Latency = Latency()
    """Before each step of a script."""
    cents_per_request: float = Field(default=1, ge=0)
    """List cost of each model request: one for each message, and for the tool calls that are made at once."""
    raised_budget_queues_work: bool = True
    """Whether a session that goes on because its budget was raised is queued at once. Documented is only that
    it goes on."""


class Settings(StrictModel):
    """All settings. Identities and keys are read at the start; the others take effect at once."""

    organization_id: str = "7f1d2c3b-0000-4000-8000-000000000001"
    workspace_id: str = "wrkspc_01Simulated"
    environment_id: str = "env_01Simulated"
    environment_key: str = "sk-ant-oat01-simulated-environment-key"
    api_key: str = "sk-ant-api03-simulated-api-key"
    agent_id: str = "agent_01Simulated"
    latencies: dict[str, Latency] = Field(default={})
    """Per operation (`work.poll`, …); ``*`` for all others. Half before the effect, half after it."""
    work: WorkSettings = WorkSettings()
    events: EventSettings = EventSettings()
    webhooks: WebhookSettings = WebhookSettings()
    skills: SkillSettings = SkillSettings()
    agent: AgentSettings = AgentSettings()
    ledger_capacity: int = Field(default=200_000, ge=1)
    """How many calls and deliveries are kept. Read at the start."""

    def latency_of(self, operation: str) -> Latency:
        """Return the latency of one operation."""
        return latency_of(self.latencies, operation)

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
