"""Settings, given at the start (`--settings F.json`) and changed later by `PATCH /_simulator/settings`."""

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import ConfigDict, Field

from managed_session_devkit.simulators.common.settings import Latency, StrictModel, latency_of

PositiveSeconds = Annotated[float, Field(gt=0)]


class Settings(StrictModel):
    """Limits, times and behaviour. Defaults are those of E2B's Pro plan, if E2B documents them."""

    model_config = ConfigDict(validate_assignment=True)

    api_keys: list[str] = Field(default=[], description="accepted keys; empty: any key")
    other_teams_keys: list[str] = Field(default=[], description="accepted keys that see no sandboxes")
    latencies: dict[str, Latency] = Field(default={}, description="by operation; '*' for all others")

    max_concurrent_sandboxes: int = Field(default=100, ge=1)
    creations_per_second: float | None = Field(default=None, gt=0, description="null: no limit")
    creation_burst: int = Field(default=1, ge=1)
    default_timeout_seconds: int = Field(default=300, ge=1)
    max_timeout_seconds: int = Field(default=86_400, ge=1)
    max_lifetime_seconds: PositiveSeconds = 86_400
    auto_resume_min_timeout_seconds: PositiveSeconds = 300
    api_budget_seconds: PositiveSeconds = 70
    starts_at_once: int | None = Field(default=None, ge=1, description="E2B: 3 on each node; null: no limit")
    resume_queue_seconds: PositiveSeconds = 15
    transition_wait_seconds: PositiveSeconds = 60

    idempotency_enabled: bool = True
    idempotency_window_seconds: PositiveSeconds = 86_400
    idempotency_deadline_seconds: PositiveSeconds = 65

    layer_cache_folder: Path | None = Field(
        default_factory=lambda: platformdirs.user_cache_path("managed-sessions") / "template-layers",
        description="folder of template layers that simulators share; null: none",
    )

    list_lag_seconds: float = Field(default=0, ge=0, description="how long a new sandbox stays unlisted")
    list_page_size: int = Field(default=100, ge=1, le=100, description="maximum of entries on one page")
    disk_megabytes: int | None = Field(default=None, ge=16, description="null: as much as the host")
    fuse: bool = Field(
        default=False,
        description="root in a sandbox may mount file systems, which sessions that share a sandbox need, and "
        "there is a /dev/fuse (needs a real root)",
    )
    volumes_enabled: bool = Field(default=False, description="volumes are a private beta of E2B")
    clock_offset_seconds: int = Field(
        default=0, description="how far a sandbox's clock is ahead of the host's"
    )
    keep_snapshots: bool = Field(
        default=False,
        description="copy the files at each pause, so that a rolled-back sandbox has the files of that pause",
    )
    upload_bytes_per_second: float | None = Field(
        default=None, gt=0, description="speed of one upload; null: not limited"
    )
    sever_connections: bool = Field(default=True, description="a pause cuts TCP connections")
    cut_silently: bool = Field(
        default=True, description="a pause cuts connections silently; false: with a reset"
    )
    egress_proxy: bool = Field(
        default=False,
        description="lead sandboxes' programs to a proxy that applies their network rules",
    )
    egress_hosts: dict[str, str] = Field(
        default={}, description="where a host leads: 'name:port' to 'address:port'; others are looked up"
    )
    exit_retention_seconds: float = Field(default=30, ge=0)
    envd_version: str = "0.6.13"

    stub_workers: bool = Field(
        default=False,
        description="new sandboxes have no processes; workers in them are tasks of the simulator, for "
        "measurements (stub_worker.py)",
    )
    warm_pool: int = Field(default=2, ge=0, description="ready sandboxes kept per template")
    preload_modules: list[str] = Field(
        default=[
            "anthropic",
            "anthropic.lib.environments",
            "anthropic.lib.tools.agent_toolset",
            "anyio._backends._asyncio",
        ],
        description="imported once, and shared by start commands like `python3 script.py …`; empty: off",
    )
    ready_timeout_seconds: PositiveSeconds = 60
    extra_read_only_paths: list[str] = Field(default=[], description="host directories visible in sandboxes")

    def latency_seconds(self, operation: str) -> float:
        """Draw the least time that a call of `operation` takes, from request to answer."""
        return latency_of(self.latencies, operation).sample_seconds()

    def patched(self, changes: dict[str, object]) -> "Settings":
        """Return changed settings. Latencies merge by operation. Raises pydantic.ValidationError."""
        merged = self.model_dump()
        latencies = changes.get("latencies")
        merged.update(changes)
        if isinstance(latencies, dict):
            merged["latencies"] = {**self.model_dump()["latencies"], **latencies}
        return Settings.model_validate(merged)
