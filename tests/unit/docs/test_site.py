"""docs/ can be built as a site in which every link leads somewhere."""

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
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class _Loader(yaml.SafeLoader):
    """Reads the file without the Python objects that it names."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _loader, suffix, _node: suffix)


def build(folder: Path, *, link: str | None = None) -> subprocess.CompletedProcess[str]:
    """Build a copy of the site in `folder`, where `link` is added to the first page."""
    (folder / "docs").mkdir()
    for page in PAGES:
        (folder / "docs" / page.name).write_bytes(page.read_bytes())
    if link is not None:
        first = folder / "docs" / PAGES[0].name
        first.write_text(f"{first.read_text()}\n[there]({link})\n")
    (folder / CONFIGURATION.name).write_bytes(CONFIGURATION.read_bytes())
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)


def test_every_page_is_built_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.stem for path in PAGES}
    assert {path.stem for path in (tmp_path / "site").glob("*.html")} == {*pages, "404"}


@pytest.mark.parametrize("link", ["no-such-page.md", "index.md#no-such-heading", "#no-such-heading"])
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, link: str) -> None:
    built = build(tmp_path, link=link)
    assert built.returncode != 0
    assert PAGES[0].name in built.stdout + built.stderr


def test_every_page_is_in_the_navigation() -> None:
    def pages_of(entries: list[object]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            assert isinstance(entry, dict)
            for value in entry.values():
                found += [value] if isinstance(value, str) else pages_of(value)
        return found

    navigation = yaml.load(CONFIGURATION.read_text(), Loader=_Loader)["nav"]
    assert sorted(pages_of(navigation)) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_stay_within_the_site(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            path = target.partition("#")[0]
            within = not path or path in {each.name for each in PAGES}
            assert within, f"{target} is no page: name the file as code"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_to_the_web_are_encrypted_and_well_formed(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            address = urlsplit(target)
            assert address.scheme == "https", target
            assert address.hostname is not None, target
            assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", address.hostname), target
            assert address.username is None, target
