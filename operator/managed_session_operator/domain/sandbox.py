"""Defines a sandbox as E2B reports it, and the request that creates one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from managed_session_api import names


@dataclass(frozen=True)
class SandboxView:
    """A sandbox as E2B reports it (`GET /sandboxes/{id}` and the list)."""

    sandbox_id: str
    paused: bool
    template_id: str
    metadata: Mapping[str, str]
    started_at: datetime
    end_at: datetime

    @property
    def attempt(self) -> int:
        """Number of the attempt that created it; 0 if the metadata has none."""
        number = self.metadata.get(names.METADATA_ATTEMPT, "")
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True)
class SandboxRequest:
    """The request that creates a sandbox. Equal requests have equal bodies, as idempotency keys require."""

    template: str
    timeout_seconds: int
    metadata: Mapping[str, str]
    env: Mapping[str, str]
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    auto_resume: bool
    allow_public_traffic: bool
