"""Files between a sandbox and this machine: what the agent's program sends, and what is written here."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from managed_session_cli.errors import CommandError
from managed_session_cli.local_files import pack_files, printable, write_files

PROGRAM = resources.files("managed_session_cli").joinpath("agent_files.py").read_text()


def run(*arguments: object) -> tuple[list[str], dict[str, Any]]:
    """Run the program as in a sandbox. Return its lines, and the last one read."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, *map(str, arguments)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    *lines, last = [line for line in ended.stdout.splitlines() if line]
    return lines, json.loads(last)


def packed(path: Path, most: int = 10_000_000) -> tuple[io.BytesIO, dict[str, Any]]:
    """Return the archive of what is at `path`."""
    lines, end = run("pack", path, most)
    return io.BytesIO(b"".join(base64.b64decode(line) for line in lines)), end


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory of an agent, with all that it may hold."""
    there = tmp_path / "there"
    (there / "deep" / "er").mkdir(parents=True)
    (there / "report.txt").write_text("report")
    (there / "deep" / "er" / "run.sh").write_text("#!/bin/sh")
    (there / "deep" / "er" / "run.sh").chmod(0o755)
    (there / "big").write_bytes(os.urandom(300_000))
    (there / "empty").touch()
    (there / "passwd").symlink_to("/etc/passwd")
    (there / "linked").symlink_to("/etc")
    os.mkfifo(there / "fifo")
    return there


def test_files_are_listed_and_links_are_left_out(there: Path) -> None:
    lines, end = run("list", there)
    found = {each["path"]: each["size"] for each in map(json.loads, lines)}
    assert found == {"report.txt": 6, "deep/er/run.sh": 9, "big": 300_000, "empty": 0}
    assert end == {"left_out": ["fifo", "linked", "passwd"], "directory": True}


def test_a_directory_arrives_with_its_run_bits(there: Path, tmp_path: Path) -> None:
    archive, end = packed(there)
    written = write_files(archive, tmp_path / "here")
    here = tmp_path / "here"
    assert {str(path.relative_to(here)) for path in written} == {
        "report.txt",
        "deep/er/run.sh",
        "big",
        "empty",
    }
    assert (here / "big").read_bytes() == (there / "big").read_bytes()
    assert os.access(here / "deep" / "er" / "run.sh", os.X_OK)
    assert not list(here.rglob(".*"))
    assert end["directory"] is True


def test_a_single_file_arrives_under_its_new_name(there: Path, tmp_path: Path) -> None:
    archive, end = packed(there / "report.txt")
    assert end == {"left_out": [], "directory": False}
    write_files(archive, tmp_path / "new" / "name.txt", single=True)
    assert (tmp_path / "new" / "name.txt").read_text() == "report"


def test_more_than_the_limit_is_refused(there: Path) -> None:
    assert packed(there, 1_000_000)[1]["left_out"]
    assert packed(there, 200_000)[1] == {"error": "the files have more than 0 MiB"}


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    assert run("list", tmp_path / "no")[1] == {"error": f"{tmp_path}/no does not exist in the sandbox"}


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> io.BytesIO:
    """An archive as a hostile agent may send it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as members:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        members.addfile(member, io.BytesIO(b"evil"))
    archive.seek(0)
    return archive


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil-file", ".."])
def test_a_path_outside_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "here"
    with pytest.raises(CommandError, match="is not allowed"):
        write_files(hostile(name), target)
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/evil-file").exists()


def test_links_in_an_archive_are_not_made(tmp_path: Path) -> None:
    assert write_files(hostile("link", tarfile.SYMTYPE, "/etc/passwd"), tmp_path) == []
    assert write_files(hostile("link", tarfile.LNKTYPE, "/etc/passwd"), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_local_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandError, match="leads out of"):
        write_files(hostile("sub/evil"), tmp_path / "here")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_answer_that_is_cut_short_is_refused(there: Path, tmp_path: Path) -> None:
    archive, _ = packed(there)
    with pytest.raises(CommandError, match="cut short"):
        write_files(io.BytesIO(archive.getvalue()[:200_000]), tmp_path / "here")


def test_an_upload_writes_whole_files_and_makes_their_directories(there: Path, tmp_path: Path) -> None:
    with (tmp_path / "upload.tar").open("wb") as archive:
        left_out = pack_files(there, "", archive)
    assert {Path(path).name for path in left_out} == {"fifo", "linked", "passwd"}
    assert run("unpack", tmp_path / "upload.tar", tmp_path / "new")[1]["left_out"] == []
    assert (tmp_path / "new" / "deep" / "er" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "new" / "big").read_bytes() == (there / "big").read_bytes()


def test_names_cannot_control_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
