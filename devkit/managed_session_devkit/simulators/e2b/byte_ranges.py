"""The `Range` header of downloads, handled as Go's `http.ServeContent` does in envd."""

import re
from dataclasses import dataclass
from typing import Final

_ONE_RANGE: Final = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*")


@dataclass(frozen=True)
class Part:
    """The part of a file to send: `length` bytes from `start` on, with this status and these headers."""

    start: int
    length: int
    status: int
    headers: dict[str, str]


def part_of(size: int, wanted: str | None) -> Part:
    """Return the part that a `Range` header requests: 206, 416 beyond the end, or 200 with everything.

    Several ranges are answered with everything, because no client here uses them.
    """
    whole = Part(0, size, 200, {"Content-Length": str(size), "Accept-Ranges": "bytes"})
    found = _ONE_RANGE.fullmatch(wanted) if wanted is not None else None
    if found is None or not (found[1] or found[2]) or size == 0:
        return whole
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
    else:
        start, end = max(0, size - int(found[2])), size - 1
    if start >= size or end < start:
        return Part(0, 0, 416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    length = end - start + 1
    headers = {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": str(length)}
    return Part(start, length, 206, {**headers, "Accept-Ranges": "bytes"})
