"""Defines the skills that are in a sandbox, and those on their way into it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from managed_session_worker.paths import Paths

_PARTS = Paths().skill_parts


@dataclass(frozen=True)
class Installed:
    """A skill that is in a sandbox."""

    version_id: str
    directory: str


@dataclass(frozen=True)
class Bounds:
    """Limits for one unpacked skill."""

    most_bytes: int
    most_files: int


@dataclass
class Upload:
    """An archive that is uploaded in parts. Unpacking it removes the directory that it `replaces`."""

    key: str
    directory: str
    replaces: str | None = None
    parts: int = 0
    folder: str = field(default_factory=lambda: f"{_PARTS}/{uuid.uuid4().hex}")
