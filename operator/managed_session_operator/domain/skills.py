"""Defines the skills that are in a sandbox, and those on their way into it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field


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
    """An archive that is uploaded in parts, in a folder of that name.

    Unpacking it removes the directory that it `replaces`.
    """

    key: str
    directory: str
    replaces: str | None = None
    parts: int = 0
    folder: str = field(default_factory=lambda: uuid.uuid4().hex)
