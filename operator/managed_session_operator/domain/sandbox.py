"""Defines a sandbox as E2B reports it, and the request that creates one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from managed_session_api import names
from managed_session_api.resource import Volume
from pydantic import SecretStr


@dataclass(frozen=True)
class SandboxView:
    """A sandbox as E2B reports it (`GET /sandboxes/{id}` and the list)."""

    sandbox_id: str
    paused: bool
    template_id: str
    metadata: Mapping[str, str]
    started_at: datetime
    end_at: datetime
    vcpus: int | None = None
    """None: E2B did not say."""
    memory_mib: int | None = None

    @property
    def attempt(self) -> int:
        """Number of the attempt that created it; 0 if the metadata has none."""
        number = self.metadata.get(names.METADATA_ATTEMPT, "")
        return int(number) if number.isdecimal() else 0


def adoption_order(
    listed: Iterable[SandboxView], *, attempt: int, vanished: Collection[str]
) -> list[SandboxView]:
    """Return the sandboxes of an owner that it may adopt, best first.

    First come those that had vanished and have reappeared, because they hold files. Then come those of the
    newest attempt: newest first, running before paused. A sandbox of an earlier attempt is never adopted,
    because a kill of it may still be on its way.

    Args:
        listed: the owner's sandboxes.
        attempt: the owner's newest attempt.
        vanished: IDs of the sandboxes that had vanished, the newest last.
    """
    by_id = {view.sandbox_id: view for view in listed}
    reappeared = [by_id[each] for each in reversed(list(vanished)) if each in by_id]
    views = [view for view in by_id.values() if view.attempt >= attempt and view not in reappeared]
    views.sort(key=lambda view: (-view.attempt, view.paused, -view.started_at.timestamp()))
    return reappeared + views


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
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True)
class SandboxNetwork:
    """All rules for a sandbox's egress. E2B replaces them together.

    Attributes:
        allow: destinations that are reachable even within a denied range.
        deny: ranges that are not reachable.
        headers: what E2B adds to the sandbox's requests, by host and by header.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    headers: Mapping[str, Mapping[str, SecretStr]] = field(default_factory=dict)
