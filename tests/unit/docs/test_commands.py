"""Every bash block of README and docs is valid, and has no secret on a command line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ...support.docs_commands import PAGES, Block, blocks

BASH = [block for page in PAGES for block in blocks(page) if block.language == "bash"]
SECRET = re.compile(r"\$\{?\w*_(KEY|TOKEN)\b|printenv \w*_(KEY|TOKEN)\b")
INTO_A_FILE = re.compile(r"<\(.*?\)", re.DOTALL)


def test_there_are_blocks_on_many_pages() -> None:
    assert len({block.page for block in BASH}) >= 10


@pytest.mark.parametrize("block", BASH, ids=str)
def test_block_is_bash(block: Block) -> None:
    parsed = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=60)
    assert parsed.returncode == 0, parsed.stderr
    assert parsed.stderr == ""  # bash only warns about an unfinished here-document


@pytest.mark.parametrize("block", BASH, ids=str)
def test_block_has_no_secret_on_a_command_line(block: Block) -> None:
    """Secrets are exported, or pass through a process substitution."""
    for line in INTO_A_FILE.sub("", block.text.replace("\\\n", " ")).splitlines():
        if not re.match(r"\s*(export |read -rs |WEBHOOK_ADMIN_TOKEN=)", line):
            assert not SECRET.search(line), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_fence_is_closed_and_has_a_known_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {
        "",
        "bash",
        "text",
        "yaml",
        "json",
        "python",
    }
    fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
