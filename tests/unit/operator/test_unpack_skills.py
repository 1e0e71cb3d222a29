"""The program that unpacks skills in a sandbox, run as a process with real archives."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from ...support.skill_archives import bomb, zipped

SCRIPT = resources.files("managed_session_operator.clients.e2b").joinpath("unpack_skills.py").read_text()
MOST_BYTES, MOST_FILES = 500_000_000, 10_000
AGENT = 1234
MAIN = 'if __name__ == "__main__":'

Unpack = Callable[..., dict[str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "session" / "skills"


@pytest.fixture
def unpack(tmp_path: Path, root: Path) -> Unpack:
    """A function that unpacks one archive as `directory`, and returns why it was refused, by key."""

    def run(
        archive: bytes, directory: str = "tool", *, user: int | None = None, **more: Any
    ) -> dict[str, str]:
        parts = tmp_path / "parts"
        parts.mkdir(exist_ok=True)
        for number, start in enumerate(range(0, len(archive), 1000)):
            (parts / f"{number:06d}").write_bytes(archive[start : start + 1000])
        skill = {"key": "skill_1", "directory": directory, "parts": str(parts), "replaces": None}
        request = {
            "root": str(root),
            "remove": [],
            "maxBytes": MOST_BYTES,
            "maxFiles": MOST_FILES,
            "seconds": 60,
            **more,
            "skills": [{**skill, **more.get("skill", {})}],
        }
        # Only root may be able to read the interpreter, so the process drops root after it has its modules.
        become = f"''.encode('cp437'); os.setgid({user}); os.setuid({user})" if user is not None else "pass"
        script = SCRIPT.replace(MAIN, f"{MAIN}\n    {become}")
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, json.dumps(request)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        for part in parts.iterdir():
            part.unlink()
        return dict(json.loads(ended.stdout.splitlines()[-1])["refused"])

    return run


def member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def tarred(*members: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for each in members:
            archive.addfile(each, io.BytesIO(bytes(each.size)) if each.isreg() else None)
    return buffer.getvalue()


def tar_member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_wrapper_folder_is_stripped_and_modes_are_normalized(unpack: Unpack, root: Path) -> None:
    archive = zipped(
        (member("any/SKILL.md", 0o100666), b"read"),
        (member("any/bin/run", 0o104777), b"run"),
        ("any/plain.txt", b"plain"),
    )
    assert unpack(archive) == {}
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "tool",
        "tool/SKILL.md",
        "tool/bin",
        "tool/bin/run",
        "tool/plain.txt",
    ]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    wanted = {
        "skills": 0o700,
        "tool": 0o700,
        "bin": 0o755,
        "SKILL.md": 0o644,
        "run": 0o755,
        "plain.txt": 0o644,
    }
    assert modes == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a process as somebody else")
def test_files_belong_to_the_unpacking_user(unpack: Unpack, root: Path, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    root.parent.mkdir()
    os.chown(root.parent, AGENT, AGENT)
    assert unpack(zipped(("x/SKILL.md", b"")), user=AGENT) == {}
    assert {path.stat().st_uid for path in [root, *root.rglob("*")]} == {AGENT}


@pytest.mark.parametrize("compression", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_of_all_kinds_are_unpacked(unpack: Unpack, root: Path, compression: str) -> None:
    assert (
        unpack(tarred(tar_member("top", kind=tarfile.DIRTYPE), tar_member("top/f", 9), mode=compression))
        == {}
    )
    assert (root / "tool/f").stat().st_size == 9


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (zipped(("../out", b"")), "outside its directory"),
        (zipped(("x/a/../../../out", b"")), "outside its directory"),
        (zipped(("/out", b"")), "outside its directory"),
        (zipped(("x\\..\\..\\out", b"")), "outside its directory"),
        (tarred(tar_member("../out", 3)), "outside its directory"),
        (tarred(tar_member("/out", kind=tarfile.SYMTYPE, link="/etc")), "outside its directory"),
        (zipped(("x/a", b""), ("x/a/b", b"")), "could not be unpacked"),
        (zipped(("x/" + "n" * 300, b"")), "could not be unpacked"),
        (zipped(*((f"x/{number}", b"") for number in range(MOST_FILES + 1))), "more than 10000 files"),
        (tarred(tar_member("x/zero", MOST_BYTES + 1)), "unpacks to more than"),
        (bomb(10), "unpacks to more than"),
        (bomb(1, announced=10), "not a readable archive"),
        (b"", "not a readable archive"),
        (b"PK\x05\x06", "not a readable archive"),
        (zipped(("x/f", os.urandom(5000)))[:-400], "not a readable archive"),
    ],
    # The archives contain the time, so they differ between the processes that share the tests.
    ids=[
        "parent",
        "parent-after-folders",
        "absolute",
        "backslashes",
        "tar-parent",
        "tar-absolute-link",
        "file-as-folder",
        "name-too-long",
        "too-many-files",
        "too-large",
        "bomb",
        "bomb-announced",
        "nothing",
        "end-record-alone",
        "cut-off",
    ],
)
def test_refused_archive_leaves_nothing(unpack: Unpack, root: Path, archive: bytes, why: str) -> None:
    refused = unpack(archive)
    assert why in refused["skill_1"]
    assert list(root.iterdir()) == []
    assert not (root.parent / "out").exists()


def test_links_and_devices_are_skipped(unpack: Unpack, root: Path) -> None:
    links = (
        tar_member("x/f", 3),
        tar_member("x/link", kind=tarfile.SYMTYPE, link="/etc"),
        tar_member("x/hard", kind=tarfile.LNKTYPE, link="x/f"),
        tar_member("x/device", kind=tarfile.CHRTYPE),
        tar_member("x/pipe", kind=tarfile.FIFOTYPE),
    )
    assert unpack(tarred(*links)) == {}
    assert [path.name for path in (root / "tool").iterdir()] == ["f"]
    assert unpack(zipped((member("x/link", stat.S_IFLNK | 0o777), b"/etc"), ("x/link/passwd", b"mine"))) == {}
    assert (root / "tool/link/passwd").read_bytes() == b"mine"


def test_refused_version_keeps_the_previous_one(unpack: Unpack, root: Path) -> None:
    assert unpack(zipped(("x/SKILL.md", b"one"))) == {}
    assert unpack(zipped(("x/SKILL.md", b"two"), ("../out", b"")))
    assert (root / "tool/SKILL.md").read_bytes() == b"one"
    assert [path.name for path in root.iterdir()] == ["tool"]


def test_anything_in_a_skills_place_is_replaced(unpack: Unpack, root: Path, tmp_path: Path) -> None:
    root.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (root / "tool").symlink_to(elsewhere)
    assert unpack(zipped(("x/SKILL.md", b"mine"))) == {}
    assert not (root / "tool").is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_renamed_and_dropped_skills_are_removed_and_nothing_else(unpack: Unpack, root: Path) -> None:
    for name in ("before", "dropped", "own"):
        (root / name).mkdir(parents=True)
    archive = zipped(("x/SKILL.md", b""))
    assert (
        unpack(archive, "after", remove=["dropped", "..", "a/../../own"], skill={"replaces": "before"}) == {}
    )
    assert sorted(path.name for path in root.iterdir()) == ["after", "own"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "nul\0", "n" * 300])
def test_name_that_is_not_a_directory_name_is_refused(unpack: Unpack, root: Path, name: str) -> None:
    assert "skill_1" in unpack(zipped(("x/SKILL.md", b"")), name)
    assert list(root.iterdir()) == []


def test_skills_folder_that_is_a_file_is_reported(unpack: Unpack, root: Path) -> None:
    root.parent.mkdir()
    root.touch()
    assert "could not be unpacked" in unpack(zipped(("x/SKILL.md", b"")))["skill_1"]


def test_unpacking_is_aborted_after_a_timeout(unpack: Unpack, root: Path) -> None:
    assert unpack(bomb(10), maxBytes=1 << 40, seconds=1) == {"skill_1": "unpacking it takes too long"}
    assert list(root.iterdir()) == []
