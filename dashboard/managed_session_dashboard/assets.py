"""Loads the files of the page from the package, once."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Return all files of the page by name."""
    found = {}
    for file in (resources.files(__package__) / "page").iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
            found[file.name] = Asset(content, gzip.compress(content, mtime=0), media_type, etag)
    return found
