"""Keeps the layers of template steps for the next build of the same steps, as E2B does.

Each simulator builds the worker's template, whose step copies a whole Python in seconds. So the step's result
is kept in the user's cache folder. Its name depends on everything that it was made from.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from managed_session_devkit.simulators.e2b.namespace import image, root
from managed_session_devkit.simulators.e2b.template_layer import shared_trees

_KEPT_SECONDS: Final = 7 * 86_400
_LAYER: Final = "layer"


class LayerCache:
    """Finished layers by the steps that made them. If the folder cannot be used, nothing is kept.

    Args:
        folder: holds a folder for each layer. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def name_of(self, steps: Sequence[dict[str, Any]]) -> str | None:
        """Return the name of the layer that these steps make, or None if nothing is kept."""
        if self._folder is None:
            return None
        parts = json.dumps([self._host, list(steps)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:40]

    @cached_property
    def _host(self) -> str:
        """What a layer takes from the host: user, Python, packages and the code of the skeleton."""
        # A distribution's version is part of the name of its folder. Reading all metadata takes longer.
        folders = {each for entry in sys.path for each in Path(entry).glob("*.*-info")}
        packages = sorted({each.name for each in folders})
        sources = [Path(module.__file__ or "").read_text() for module in (image, root)]
        parts = [os.geteuid(), sys.version, image.host_interpreter(), packages, sources]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def restore(self, name: str, layer: Path) -> bool:
        """Replace the content of `layer` with the kept layer, if there is one. Return whether there is."""
        if self._folder is None or not (self._folder / name / _LAYER).is_dir():
            return False
        kept = self._folder / name / _LAYER
        # Sandboxes see these read-only, so all builds can share the files.
        shared = shared_trees(kept)
        shutil.rmtree(layer)
        layer.mkdir(mode=0o755)
        root.copy_tree(kept, layer, frozenset(f"{kept}{path}" for path in shared))
        for path in shared:
            _link_tree(Path(f"{kept}{path}"), Path(f"{layer}{path}"))
        os.utime(self._folder / name)
        return True

    def keep(self, name: str, layer: Path) -> None:
        """Keep a copy of `layer`, and remove layers that were not used for a week."""
        if self._folder is None:
            return
        new = self._folder / f".{uuid4()}"
        try:
            (new / _LAYER).mkdir(parents=True)
            root.copy_tree(layer, new / _LAYER)
            new.rename(self._folder / name)
            self._remove_unused()
        except OSError:
            # Another simulator was faster, or the disk is full.
            shutil.rmtree(new, ignore_errors=True)

    def _remove_unused(self) -> None:
        assert self._folder is not None
        for entry in self._folder.iterdir():
            if entry.stat().st_mtime < time.time() - _KEPT_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    """Link all files of `source` into `target`, or copy them to another file system."""
    target.mkdir(parents=True, exist_ok=True)
    link, copy = (["cp", option, f"{source}/.", str(target)] for option in ("-al", "-a"))
    if subprocess.run(link, check=False, capture_output=True).returncode:  # noqa: S603 - coreutils
        subprocess.run([*copy, "--remove-destination"], check=True, capture_output=True)  # noqa: S603
