"""The version before this one, from git's history."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from managed_session_devkit.system.source_tree import SourceTree

ROOT = Path(__file__).parents[2]
VERSION_BEFORE = "190a951675e3181f7de633db10b926f7ea68c987"
"""The last commit of the version before, which knows no classes. It needs the same libraries as today's."""


def version_before(folder: Path) -> SourceTree:
    """Unpack it into the folder. Skip the test in a source archive; fail in a clone without history."""
    if not (ROOT / ".git").exists():
        pytest.skip("NOT SHOWN: the version before is in git's history, which a source archive does not have")
    packed = folder / "version-before.tar"
    try:
        _git("archive", f"--output={packed}", VERSION_BEFORE)
    except subprocess.CalledProcessError as error:
        pytest.fail(
            f"the version before is not in git's history: `git fetch --unshallow` brings it ({error.stderr})"
        )
    tree = folder / "version-before"
    tree.mkdir()
    subprocess.run(["tar", "--extract", f"--file={packed}", f"--directory={tree}"], check=True)
    return SourceTree(tree)


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
