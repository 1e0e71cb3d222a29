"""The commands of README and docs: which there are, and what is to become of each in a test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<marker>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: name of the file.
        line: of the block's first line of text, from 1.
        text: without the fence and its indentation.
        skipped: why no test can run it, as the comment before it says (`<!-- test: skip: WHY -->`).
        only: the way through the page that it belongs to (`<!-- test: only WAY -->`); None for every way.
    """

    page: str
    line: int
    language: str
    text: str
    skipped: str | None
    only: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises:
        ValueError: a comment for tests that is not understood.
    """
    content = page.read_text()
    found = []
    for match in _BLOCK.finditer(content):
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines(keepends=True)]
        skipped, only = _meaning(match["marker"], page)
        line = content.count("\n", 0, match.start("text")) + 1
        found.append(Block(page.name, line, match["language"], "".join(lines), skipped, only))
    return found


def bash_blocks(name: str) -> list[Block]:
    """The commands of the page of that name."""
    page = next(page for page in PAGES if page.name == name)
    return [block for block in blocks(page) if block.language == "bash"]


def _meaning(marker: str | None, page: Path) -> tuple[str | None, str | None]:
    kind, _, rest = (marker or "").partition(" ")
    if kind == "skip:" and rest:
        return rest, None
    if kind == "only" and re.fullmatch(r"[a-z]+", rest):
        return None, rest
    if marker is not None:
        raise ValueError(f"{page.name}: <!-- test: {marker} --> is neither 'skip: WHY' nor 'only WAY'")
    return None, None
