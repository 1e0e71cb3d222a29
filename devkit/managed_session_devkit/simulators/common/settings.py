"""Settings that both simulators have: strict models and latencies."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """A model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Latency(StrictModel):
    """A delay in milliseconds, uniformly distributed over mean ± jitter."""

    mean_ms: float = Field(default=0, ge=0)
    jitter_ms: float = Field(default=0, ge=0)

    def sample_seconds(self) -> float:
        """Draw one delay in seconds, never negative."""
        return max(0.0, self.mean_ms + random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000


def latency_of(latencies: Mapping[str, Latency], operation: str) -> Latency:
    """Return the latency of an operation; `*` is for all others."""
    return latencies.get(operation) or latencies.get("*") or Latency()


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def read_settings(model: type[SettingsT], path: Path | None) -> SettingsT:
    """Read settings from a JSON file, or return the defaults.

    Raises:
        OSError: the file cannot be read.
        pydantic.ValidationError: it has invalid settings.
    """
    return model() if path is None else model.model_validate_json(path.read_bytes())
