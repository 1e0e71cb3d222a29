"""What can be set at start (`--settings F.json`) and changed while running (`PATCH /_simulator/settings`)."""

import random
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveSeconds = Annotated[float, Field(gt=0)]


class Latency(BaseModel):
    """How long an operation takes from request to answer, at least: mean ± jitter, uniform."""

    model_config = ConfigDict(extra="forbid")

    mean_ms: float = Field(default=0, ge=0)
    jitter_ms: float = Field(default=0, ge=0)

    def draw_seconds(self) -> float:
        """One duration in seconds."""
        return max(0.0, self.mean_ms + random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000


class Settings(BaseModel):
    """Limits, windows and behaviour. Defaults are those of E2B's Pro plan where E2B documents one."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    api_keys: list[str] = Field(default=[], description="accepted keys; empty: any key")
    other_teams_keys: list[str] = Field(default=[], description="accepted keys that see no sandbox")
    latencies: dict[str, Latency] = Field(default={}, description="by operation; '*' for all others")

    max_concurrent_sandboxes: int = Field(default=100, ge=1)
    creations_per_second: float | None = Field(default=None, gt=0, description="null: no limit")
    creation_burst: int = Field(default=1, ge=1)
    default_timeout_seconds: int = Field(default=300, ge=1)
    max_timeout_seconds: int = Field(default=86_400, ge=1)
    max_lifetime_seconds: PositiveSeconds = 86_400
    auto_resume_min_timeout_seconds: PositiveSeconds = 300
    transition_wait_seconds: PositiveSeconds = 60

    idempotency_enabled: bool = True
    idempotency_window_seconds: PositiveSeconds = 86_400
    idempotency_deadline_seconds: PositiveSeconds = 65

    list_lag_seconds: float = Field(default=0, ge=0, description="how long a new sandbox stays unlisted")
    list_page_size: int = Field(default=100, ge=1, le=100, description="entries on one page, at most")
    disk_megabytes: int | None = Field(default=None, ge=16, description="null: as much as the host has")
    clock_offset_seconds: int = Field(
        default=0, description="how far a sandbox's clock is ahead of the host's"
    )
    sever_connections: bool = Field(default=True, description="TCP connections are dead after a pause")
    exit_retention_seconds: float = Field(default=30, ge=0)
    envd_version: str = "0.6.13"

    warm_pool: int = Field(default=2, ge=0, description="ready sandboxes kept per template")
    preload_modules: list[str] = Field(
        default=[
            "anthropic",
            "anthropic.lib.environments",
            "anthropic.lib.tools.agent_toolset",
            "anyio._backends._asyncio",
        ],
        description="imported once, shared by start commands like `python3 script.py …`; empty: off",
    )
    ready_timeout_seconds: PositiveSeconds = 60
    extra_read_only_paths: list[str] = Field(default=[], description="host directories visible in sandboxes")

    def latency_seconds(self, operation: str) -> float:
        """How long this call of `operation` is to take."""
        latency = self.latencies.get(operation) or self.latencies.get("*")
        return latency.draw_seconds() if latency else 0.0

    def patched(self, changes: dict[str, object]) -> "Settings":
        """These settings with changes; latencies merge by operation. Raises pydantic.ValidationError."""
        merged = self.model_dump()
        latencies = changes.get("latencies")
        merged.update(changes)
        if isinstance(latencies, dict):
            merged["latencies"] = {**self.model_dump()["latencies"], **latencies}
        return Settings.model_validate(merged)


def load_settings(path: Path | None) -> Settings:
    """Settings from a JSON file, or the defaults. Raises OSError and pydantic.ValidationError."""
    return Settings() if path is None else Settings.model_validate_json(path.read_text())
