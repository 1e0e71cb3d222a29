"""What tests of buckets need: s3fs, a /dev/fuse, and a real S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock
from managed_session_devkit.simulators.object_store.program import UnavailableError
from managed_session_devkit.simulators.object_store.server import ObjectStore

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"
BUCKET = "files"
INSTALL_SECONDS = 180


def require_fuse() -> None:
    """Skip the test, and say why, where no bucket can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("buckets are not tested: mounting needs root")
    if not Path("/dev/fuse").exists():
        pytest.skip("buckets are not tested: this machine has no /dev/fuse")
    with FileLock(platformdirs.user_cache_path("managed-sessions", ensure_exists=True) / "s3fs.lock"):
        if shutil.which("s3fs") is None and shutil.which("apt-get") is not None:
            _install("s3fs")
    if shutil.which("s3fs") is None:
        pytest.skip("buckets are not tested: install s3fs (on Debian: apt-get install s3fs)")


def _install(package: str) -> None:
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", package]):
        try:
            subprocess.run(
                [*command, "-q"],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an S3 server with an empty bucket, which accepts one key."""
    require_fuse()
    try:
        server = ObjectStore()
    except UnavailableError as error:
        pytest.skip(f"buckets are not tested: {error}")
    with server as store:
        store.add_bucket(BUCKET)
        store.accept(KEY_ID, SECRET)
        yield store
