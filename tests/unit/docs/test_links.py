"""The targets of README and docs exist: files, headings, make targets, commands and options."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from managed_session_cli.app import app

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
OTHERS = [
    *sorted({*ROOT.glob("*.md")} - {*PAGES}),
    ROOT / "deploy" / "README.md",
    ROOT / "devkit" / "README.md",
]
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
MAKE = re.compile(r"(?<![\w-])make (?:[A-Z_]+=\S+ )*([a-z][a-z0-9-]*)")
COMMAND = re.compile(r"(?<![\w=:-])managed-sessions ([a-z-][^`\n|;#]*)")


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub makes of the page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_in(page: Path) -> Iterator[str]:
    return (found.group() for found in CODE.finditer(page.read_text()))


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=by_name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the repository"
        if fragment:
            assert fragment in anchors(linked), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=by_name)
def test_every_make_target_that_is_mentioned_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {target for code in code_in(page) for target in MAKE.findall(code)}
    assert mentioned <= targets


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_command_of_the_cli_that_is_mentioned_exists(page: Path) -> None:
    for code in code_in(page):
        for words in COMMAND.findall(code):
            command: Any = typer.main.get_command(app)
            rest = list(itertools.takewhile(lambda word: word != "--", shlex.split(words)))
            while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
                assert rest[0] in command.commands, f"there is no managed-sessions {words}"
                command = command.commands[rest.pop(0)]
            known = {"--help", "-h"}.union(*(each.opts + each.secondary_opts for each in command.params))
            options = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
            assert options <= known, f"managed-sessions {words}: there is no {options - known}"


def test_the_readme_leads_to_the_overview_and_that_to_every_page() -> None:
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()
    overview = ROOT / "docs" / "index.md"
    for folder in sorted({page.parent for page in PAGES[1:]}):
        first = folder / "index.md"
        others = [path.name for path in PAGES if path.parent == folder and path != first]
        assert [name for name in others if f"]({name})" not in first.read_text()] == []
        assert folder == overview.parent or f"]({folder.name}/index.md)" in overview.read_text()


def test_image_and_template_are_named_with_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    names = re.compile(r"managed-session[a-z-]*:([0-9.]+[0-9])")
    named = {tag for page in PAGES for tag in names.findall(page.read_text())}
    assert named == {version}
