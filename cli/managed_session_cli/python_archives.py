"""Fetches a Python that runs anywhere, for images that have none that serves.

The archives are python-build-standalone's (https://github.com/astral-sh/python-build-standalone), which need
glibc 2.17 or later. Alpine and other images with musl have a recent Python in their package manager.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from managed_session_worker.template import PACKAGE
from managed_session_worker.template.base import PYTHON_VERSIONS

from managed_session_cli.errors import TemplateError

_RELEASE = "https://github.com/astral-sh/python-build-standalone/releases/download/20261021"
_NAME = "cpython-3.13.17+20261021-{arch}-unknown-linux-gnu-install_only_stripped.tar.gz"
_SHA256 = {
    ("gnu", "x86_64"): "f829adc9d888e76c8801b4799ed444188d35239fcae3a9808a99ec5cb0d8d92c",
    ("gnu", "aarch64"): "c6857c65b996701a5da104cbb49b35249c0c026dc0664239b04f7156aa88326a",
}
_SECONDS = 60.0
_LARGEST_BYTES = 500 * 1024 * 1024
_LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "lib2to3", "__pycache__"}
"""Folders of the standard library that no worker needs."""
_LIBRARY = re.compile(r"python3\.\d+")
OPTION = "--python-archive"


@dataclass(frozen=True)
class Archive:
    """A tar archive with a relocatable Python: `bin/python3` and its library, in any folder.

    Attributes:
        location: a file or an `https://` address.
        sha256: what its content must have; None if any will do.
    """

    location: str
    sha256: str | None = None


def archive_for(libc: str, arch: str) -> Archive:
    """Return the archive for an image.

    Raises:
        TemplateError: there is none.
    """
    sha256 = _SHA256.get((libc, arch))
    if sha256 is None:
        raise TemplateError(
            f"the image (libc={libc}, {arch}) has no Python that serves, and this command knows no archive "
            f"for it. Install Python {PYTHON_VERSIONS[0]} or later with pip in the image, or pass an archive "
            f"with {OPTION}."
        )
    return Archive(f"{_RELEASE}/{_NAME.format(arch=arch).replace('+', '%2B')}", sha256)


def parse_archive(text: str) -> Archive:
    """Read `FILE|URL[#sha256=HEX]`.

    Raises:
        TemplateError: a URL without TLS or checksum, or a malformed checksum.
    """
    location, _, checksum = text.partition("#")
    sha256 = checksum.removeprefix("sha256=").lower() if checksum else None
    if checksum and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", checksum):
        raise TemplateError(f"{OPTION}: write the checksum as #sha256= and 64 hexadecimal digits")
    if "://" in location and not location.startswith("https://"):
        raise TemplateError(f"{OPTION}: only https:// addresses and files are accepted")
    if "://" in location and sha256 is None:
        raise TemplateError(f"{OPTION}: add the checksum to the address: {location}#sha256=…")
    if "@" in location.partition("://")[2].partition("/")[0]:
        raise TemplateError(f"{OPTION}: an address with a password would be shown in messages")
    return Archive(location, sha256)


@contextmanager
def fetched(archive: Archive) -> Iterator[tuple[Path, str]]:
    """Provide the archive as a file, with its SHA-256.

    Raises:
        TemplateError: it cannot be had, or has another checksum.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "python.tar")
        if archive.location.startswith("https://"):
            _download(archive.location, file)
        else:
            file = Path(archive.location).expanduser()
        try:
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise TemplateError(f"{OPTION}: cannot read {file}: {error.strerror}") from error
        if archive.sha256 not in (None, sha256):
            raise TemplateError(
                f"{archive.location} has the SHA-256 {sha256} instead of {archive.sha256}: do not use it"
            )
        yield file, sha256


def _download(url: str, file: Path) -> None:
    size = 0
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=_SECONDS) as answer,
            file.open("wb") as stream,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                size += len(chunk)
                if size > _LARGEST_BYTES:
                    raise TemplateError(f"{url} is larger than {_LARGEST_BYTES} bytes")
                stream.write(chunk)
    except httpx.HTTPError as error:
        raise TemplateError(
            f"the image needs a Python, and {url} cannot be fetched ({type(error).__name__}). Fetch it "
            f"elsewhere and pass the file with {OPTION}."
        ) from error


@contextmanager
def staged(file: Path) -> Iterator[Path]:
    """Provide a folder with the unpacked Python (`python/`) and the worker, for a build's COPY steps.

    Raises:
        TemplateError: the archive is damaged, leads out of its folder, or has no Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder, "unpacked")
        try:
            with tarfile.open(file) as tar:
                tar.extractall(unpacked, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise TemplateError(f"{OPTION}: {file.name} cannot be unpacked: {error}") from error
        context = Path(folder, "context")
        shutil.move(_root_of(unpacked, file), context / "python")
        _without_extras(context / "python")
        shutil.copytree(PACKAGE, context / PACKAGE.name)
        yield context


def _root_of(unpacked: Path, file: Path) -> Path:
    """Return the folder that has `bin/python3`, and complete the link if only a longer name is there."""
    entries = [unpacked, *(each for each in unpacked.iterdir() if each.is_dir())]
    for root in entries:
        programs = sorted(each for each in (root / "bin").glob("python3.*") if _LIBRARY.fullmatch(each.name))
        if programs and not (root / "bin/python3").exists():
            (root / "bin/python3").symlink_to(programs[0].name)
        if (root / "bin/python3").exists():
            return root
    raise TemplateError(f"{OPTION}: {file.name} has no bin/python3, or more than one folder above it")


def _without_extras(python: Path) -> None:
    for library in python.glob("lib*/python3.*"):
        for name in _LEFT_OUT:
            shutil.rmtree(library / name, ignore_errors=True)
    for name in ("include", "share"):
        shutil.rmtree(python / name, ignore_errors=True)
