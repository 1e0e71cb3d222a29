"""Changes files in directories of the agent, always as the agent's own user.

The agent may have prepared these directories, with links to anywhere. The kernel then lets these programs do
what the agent could do itself, and no more. Each of them is a short Python program of its own, because this
process is root.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from managed_session_worker.preparation.sandbox import Finished, Sandbox, SectionFailedError

QUICK_SECONDS = 60.0
MOST_DOWNLOADED_BYTES = 256 * 1024 * 1024
"""Greatest size of a file that is downloaded."""

_CLEAR = """
import os, shutil, sys
path, new = sys.argv[1:]
os.makedirs(os.path.dirname(path), exist_ok=True)
if os.path.islink(new) or os.path.isfile(new):
    os.unlink(new)
shutil.rmtree(new, ignore_errors=True)
"""
_TAKE = """
import os, sys
new, path = sys.argv[1:]
if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
    os.rmdir(path)
if os.path.lexists(path):
    number = 1
    while os.path.lexists(f"{path}.before-{number}"):
        number += 1
    os.rename(path, f"{path}.before-{number}")
os.rename(new, path)
"""
_WRITE = """
import os, sys, tempfile
path, mode = sys.argv[1], int(sys.argv[2], 8)
os.makedirs(os.path.dirname(path), exist_ok=True)
handle, new = tempfile.mkstemp(prefix=".setup-", dir=os.path.dirname(path))
try:
    with os.fdopen(handle, "wb") as file:
        file.write(sys.stdin.buffer.read())
        os.fchmod(handle, mode)
    os.replace(new, path)
except BaseException:
    os.unlink(new)
    raise
"""
_DOWNLOAD = """
import hashlib, os, sys, tempfile, urllib.request
path, mode, url, wanted, most = sys.argv[1], int(sys.argv[2], 8), sys.argv[3], sys.argv[4], int(sys.argv[5])
os.makedirs(os.path.dirname(path), exist_ok=True)
handle, new = tempfile.mkstemp(prefix=".setup-", dir=os.path.dirname(path))
found, size = hashlib.sha256(), 0
try:
    with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=60) as answer:
        while chunk := answer.read(262144):
            size += len(chunk)
            if size > most:
                sys.exit(f"the file has more than {most} bytes")
            found.update(chunk)
            file.write(chunk)
        os.fchmod(handle, mode)
    if found.hexdigest() != wanted:
        sys.exit(f"the file's SHA-256 is {found.hexdigest()}, not {wanted}")
    os.replace(new, path)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
finally:
    if os.path.lexists(new):
        os.unlink(new)
"""


def as_agent(
    sandbox: Sandbox,
    command: Sequence[str],
    *,
    seconds: float = QUICK_SECONDS,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program as the agent's user, in the session's directory."""
    return sandbox.run_as_agent(command, seconds=seconds, stdin=stdin, env=env)


def beside(path: str) -> str:
    """Return the path at which new content is made, before it takes its place at `path`."""
    place = Path(path)
    return str(place.with_name(f".{place.name}.setup"))


def clear_place(sandbox: Sandbox, step: str, path: str) -> str:
    """Make the directory above `path`, and return a free path beside it for its new content."""
    new = beside(path)
    _python(sandbox, step, _CLEAR, [path, new], f"the directory above {path} could not be prepared")
    return new


def take_place(sandbox: Sandbox, step: str, new: str, path: str) -> None:
    """Move new content to its place. What was there is kept beside it as `PATH.before-NUMBER`."""
    _python(sandbox, step, _TAKE, [new, path], f"{path} could not be replaced")


def write(sandbox: Sandbox, step: str, path: str, mode: str, content: bytes) -> None:
    """Write a file, which is there with its whole content or not at all."""
    _python(sandbox, step, _WRITE, [path, mode], f"{path} could not be written", stdin=content)


def download(
    sandbox: Sandbox, step: str, path: str, mode: str, url: str, sha256: str, *, seconds: float
) -> None:
    """Download a file, and give it its name once its checksum is right."""
    arguments = [path, mode, url, sha256.lower(), str(MOST_DOWNLOADED_BYTES)]
    _python(sandbox, step, _DOWNLOAD, arguments, f"{url} could not be downloaded", seconds=seconds)


def _python(
    sandbox: Sandbox,
    step: str,
    program: str,
    arguments: Sequence[str],
    why: str,
    *,
    stdin: bytes = b"",
    seconds: float = QUICK_SECONDS,
) -> None:
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    finished = as_agent(sandbox, command, seconds=seconds, stdin=stdin)
    if finished.status is None:
        raise SectionFailedError(step, f"{why}: it took longer than {seconds:.0f} seconds", finished.output)
    if not finished.succeeded:
        last = (finished.output.splitlines() or [""])[-1]
        raise SectionFailedError(
            step, f"{why}: {json.dumps(last, ensure_ascii=False)[1:-1]}", finished.output
        )
