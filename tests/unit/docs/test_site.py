"""docs/ builds as a site without dead links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "mkdocs.yml"
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
DRAWINGS = sorted(DOCS.glob("images/**/*.svg"))
PICTURES = [*DRAWINGS, *sorted(DOCS.glob("images/*.png"))]
STYLES = sorted(DOCS.glob("stylesheets/*.css"))
FIRST = "architecture.md"
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def path_in_docs(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def build(folder: Path, *, link: str | None = None) -> subprocess.CompletedProcess[str]:
    """Build a copy of the site in `folder`, with `link` added to one page."""
    for page in [*PAGES, *PICTURES, *STYLES]:
        copy = folder / "docs" / path_in_docs(page)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(page.read_bytes())
    if link is not None:
        first = folder / "docs" / FIRST
        first.write_text(f"{first.read_text()}\n[there]({link})\n")
    (folder / CONFIGURATION.name).write_bytes(CONFIGURATION.read_bytes())
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=folder)


def test_every_page_is_built_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "site"
    pages = {path_in_docs(page.with_suffix(".html")) for page in PAGES}
    assert {path.relative_to(site).as_posix() for path in site.glob("**/*.html")} == {*pages, "404.html"}
    assert PICTURES
    assert [path for path in [*PICTURES, *STYLES] if not (site / path_in_docs(path)).is_file()] == []


@pytest.mark.parametrize("link", ["no-such-page.md", "index.md#no-such-heading", "#no-such-heading"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    built = build(tmp_path, link=link)
    assert built.returncode != 0
    assert FIRST in built.stdout + built.stderr


def test_every_page_is_in_the_navigation() -> None:
    def pages_of(entries: list[object]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            assert isinstance(entry, dict)
            for value in entry.values():
                found += [value] if isinstance(value, str) else pages_of(value)
        return found

    navigation = yaml.safe_load(CONFIGURATION.read_text())["nav"]
    assert sorted(pages_of(navigation)) == [path_in_docs(page) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=path_in_docs)
def test_links_to_files_stay_within_the_site(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            path = target.partition("#")[0]
            within = not path or (page.parent / path).resolve() in [*PAGES, *PICTURES]
            assert within, f"{target} is no page and no picture: name the file as code"


@pytest.mark.parametrize("picture", DRAWINGS, ids=path_in_docs)
def test_a_picture_needs_no_network_and_no_script(picture: Path) -> None:
    drawing = picture.read_text()
    assert "<script" not in drawing
    assert set(re.findall(r"https?://[^\"'<> ]+", drawing)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in drawing, "it is read in light and in dark"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_to_the_web_are_encrypted_and_well_formed(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            address = urlsplit(target)
            assert address.scheme == "https", target
            assert address.hostname is not None, target
            assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", address.hostname), target
            assert address.username is None, target
