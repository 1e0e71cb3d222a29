"""Takes secrets out of what leaves the cluster in a support archive. Pure.

Objects are masked by their structure: only fields that are known to be harmless keep their text. What is free
text, such as messages and logs, is scrubbed of known values and of everything that looks like a credential.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "[redacted]"

_SHORTEST = 6
"""Shorter values are hardly secrets, and removing them would garble ordinary words."""
_SCHEMES = r"(?:bearer|basic|token)"
_NAMES = (
    r"(?:pass(?:word|wd|phrase)?|secret|token|api[-_]?key|authorization|credential|private[-_]?key|cookie)"
)
_TOKENS = r"sk-|whsec_|e2b_|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-|AKIA|ASIA|AIza|npm_|hf_|pypi-"
_PATTERNS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    rf"\b(?:{_TOKENS})[\w\-+/=.]{{6,}}",
    r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?",
    r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)",
    rf"(?i:(?<![\w-]){_SCHEMES}\s+)[\w\-+/=.~]{{8,}}",
    rf"(?i:[\w-]*{_NAMES}[\w-]*[\"']?\s*[=:]\s*)(?:(?i:{_SCHEMES}\s+))?[\"']?[^\s\"',;&}}\]]{{4,}}",
    r"(?<!sha256:)(?<![\w/+.-])(?=[\w/+-]*\d)(?=[\w/+-]*[A-Za-z])[A-Za-z0-9/+]{40,}={0,2}(?![\w/+-])",
)
_LOG_FIELDS = frozenset(
    {
        *(
            "timestamp",
            "time",
            "level",
            "levelname",
            "logger",
            "name",
            "message",
            "msg",
            "session",
            "resource",
        ),
        *("work", "claim", "sandbox", "reason", "cause", "step", "again", "status", "attempt", "seconds"),
        *("event", "outcome", "class", "epoch", "version", "environment", "phase", "count", "delay", "pid"),
    }
)
"""Fields of a log record that are kept."""

Path = tuple[str, ...]


class Scrubber:
    """Removes known values and whatever looks like a credential from text.

    Args:
        known: values that are secret, or might be.
    """

    def __init__(self, known: Iterable[str]) -> None:
        values = {spelling for each in known for spelling in _spellings(each) if len(spelling) >= _SHORTEST}
        ordered = sorted(values, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._patterns = re.compile("|".join(f"(?:{each})" for each in _PATTERNS))

    def text(self, text: str) -> str:
        """Return the text without them."""
        if self._values is not None:
            text = self._values.sub(REDACTED, text)
        return self._patterns.sub(REDACTED, text)

    def all(self, value: Any) -> Any:
        """Return a JSON value with all its texts scrubbed, also its keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.all(item) for key, item in value.items()}
        return [self.all(each) for each in value] if isinstance(value, list) else value

    def log(self, text: str) -> str:
        """Return a log whose JSON records have only known fields."""
        return "\n".join(self._line(line) for line in text.splitlines())

    def _line(self, line: str) -> str:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            return self.text(line)
        kept = {key: value if key in _LOG_FIELDS else REDACTED for key, value in record.items()}
        return json.dumps(self.all(kept))


def _spellings(value: str) -> set[str]:
    """Return how a value may be written: as it is, line by line, in JSON, and in base64."""
    plain = {value.strip(), *(line.strip() for line in value.splitlines())}
    encoded = {base64.b64encode(each.encode()).decode().rstrip("=") for each in {value, *plain} if each}
    return plain | encoded | {json.dumps(each)[1:-1] for each in plain}


def masked(value: Any, kept: Iterable[Path], at: Path = ()) -> Any:
    """Return a JSON value in which only the texts at `kept` paths, and below them, are readable.

    Numbers, truth values and the names of fields stay. In a path, `*` is any name, and lists add nothing.
    """
    paths = tuple(kept)
    if any(_begins(at, path) for path in paths):
        return value
    if isinstance(value, Mapping):
        return {key: masked(item, paths, (*at, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(each, paths, at) for each in value]
    return REDACTED if isinstance(value, str) and value else value


def _begins(at: Path, path: Path) -> bool:
    return len(at) >= len(path) and all(want in ("*", have) for have, want in zip(at, path, strict=False))


def texts(value: Any) -> set[str]:
    """Return all texts in a JSON value, without the names of its fields."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return {text for item in value.values() for text in texts(item)}
    return {text for each in value for text in texts(each)} if isinstance(value, list) else set()
