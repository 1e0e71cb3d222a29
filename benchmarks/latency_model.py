"""The modelled latencies of the two clouds, and the sums of the remote calls that no dispatcher can avoid.

The clouds' own figures vary by region and day. The model is the same for everything that is compared.
"""

from __future__ import annotations

from managed_session_devkit.system.local_system import LocalSystem

E2B_MODEL = {
    "create": (400, 100),
    "connect": (700, 150),
    "pause": (1500, 300),
    "kill": (200, 50),
    "get": (40, 10),
    "list": (40, 10),
    "set_timeout": (40, 10),
    "files_write": (30, 10),
    "process_start": (30, 10),
}
"""Milliseconds, mean ± jitter."""
ANTHROPIC_MODEL = (60, 15)
POLLERS = 16
"""Polls of the work queue at a time, in the limit."""
LIMIT_COLD_MS = 400 + 60 + 30 + 60
"""Create, acknowledge, start and heartbeat. The poll and the webhook run during the create."""
LIMIT_PAUSED_MS = 700 + 60 + 30 + 60
LIMIT_IS = "create or resume, acknowledge, start and heartbeat"
LIMIT_AT_ONCE_IS = (
    f"create, acknowledge, start and heartbeat, after each session's poll by one of {POLLERS} pollers"
)


def latency(model: tuple[int, int]) -> dict[str, int]:
    """Return the model in the form of the simulators' settings."""
    return {"mean_ms": model[0], "jitter_ms": model[1]}


def limits_at_once(sessions: int) -> tuple[float, float]:
    """Return the median and the maximum of the limit for new sessions at once, in milliseconds."""
    polling = sessions / POLLERS * ANTHROPIC_MODEL[0]
    return LIMIT_COLD_MS + polling / 2, LIMIT_COLD_MS + polling


async def model_clouds(system: LocalSystem) -> None:
    """Give the simulators the model's latencies."""
    await system.e2b_admin.change_settings(
        latencies={name: latency(model) for name, model in E2B_MODEL.items()}
    )
    await system.anthropic_admin.change_settings(latencies={"*": latency(ANTHROPIC_MODEL)})
