"""Writes the flat manifests in `deploy/` from `deploy/kustomize` and `crds/`: `make manifests`.

`deploy/*.yaml` come from the base, and `deploy/dashboard/*.yaml` from the folder of that name. A flat file is
the text of its file there, with comments, and with the image reference from `images:`. The script then
compares the objects with those that `kubectl kustomize` makes of the folder. So it refuses a folder that does
more than the script understands.

With `--check` it writes nothing; the exit status says whether the committed files are up to date.
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from managed_session_devkit.control_plane.binaries import resolve_binaries
from render_definitions import definitions, rendered_definitions

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SOURCES = {
    DEPLOY: DEPLOY / "kustomize" / "base",
    DEPLOY / "dashboard": DEPLOY / "kustomize" / "dashboard",
}
"""The folders of flat files, each with its source."""
DEFINITION = "../../../crds"
_TIMEOUT_SECONDS = 60


class RenderError(Exception):
    """The flat files cannot be made from the base. The text says why."""


def rendered() -> dict[Path, str]:
    """Return each flat file with the text that it should have.

    Raises:
        RenderError: `kubectl kustomize` refuses a source, or makes different objects of it.
        BinariesUnavailableError: kubectl is not available.
    """
    files: dict[Path, str] = {}
    for folder, source in SOURCES.items():
        files |= _rendered(folder, source)
    return files


def _rendered(folder: Path, base: Path) -> dict[Path, str]:
    kustomization = yaml.safe_load((base / "kustomization.yaml").read_text())
    files = {}
    for resource in kustomization["resources"]:
        name = "10-customresourcedefinition.yaml" if resource == DEFINITION else resource
        sources = definitions() if resource == DEFINITION else [base / resource]
        text = "---\n".join(_header(each) + each.read_text() for each in sources)
        files[folder / name] = with_images(text, kustomization.get("images", []))
    made = [each for text in files.values() for each in yaml.safe_load_all(text)]
    if by_identity(made) != by_identity(kustomized(base)):
        raise RenderError(
            f"kubectl kustomize makes different objects of {base.relative_to(ROOT)} than its files hold: "
            "this script knows `resources` and `images` only"
        )
    return files


def _header(source: Path) -> str:
    return f"# Made from {source.relative_to(ROOT)} by `make manifests`: change that file, not this one.\n"


def with_images(text: str, images: Iterable[dict[str, str]]) -> str:
    """Return the manifests with the image references from kustomize's `images`."""
    for image in images:
        tag = f"@{image['digest']}" if "digest" in image else f":{image['newTag']}"
        reference = image.get("newName", image["name"]) + tag
        pattern = rf"^(\s*(?:- )?image: ){re.escape(image['name'])}$"
        text = re.sub(pattern, rf"\g<1>{reference}", text, flags=re.MULTILINE)
    return text


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that `kubectl kustomize` makes of a folder.

    Raises:
        RenderError: it refuses the folder.
    """
    command = [str(resolve_binaries().kubectl), "kustomize", str(folder)]
    done = subprocess.run(  # noqa: S603 - our own kubectl
        command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    return list(yaml.safe_load_all(done.stdout))


def by_identity(objects: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the objects by API version, kind, namespace and name."""
    return {
        (
            each["apiVersion"],
            each["kind"],
            each["metadata"].get("namespace", ""),
            each["metadata"]["name"],
        ): each
        for each in objects
    }


def main(arguments: list[str]) -> int:
    """Write the files, or compare them (`--check`). Return the exit status."""
    check = "--check" in arguments
    crds = rendered_definitions()
    stale = [path for path, text in crds.items() if path.read_text() != text]
    if not check:
        _write(stale, crds)  # first, because the flat files contain them
    try:
        files = rendered()
    except RenderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    flat = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    flat += [path for folder in SOURCES for path in folder.glob("*.yaml") if path not in files]
    if not check:
        _write(flat, files)
        return 0
    for path in stale + flat:
        print(f"{path.relative_to(ROOT)} is not what `make manifests` makes", file=sys.stderr)
    return 1 if stale + flat else 0


def _write(paths: Iterable[Path], files: Mapping[Path, str]) -> None:
    """Write these files, and delete those that should not exist."""
    for path in paths:
        if path in files:
            path.write_text(files[path])
        else:
            path.unlink()
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
