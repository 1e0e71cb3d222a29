"""Writes the flat manifests `deploy/*.yaml` from `deploy/kustomize/base`: `make manifests`.

A flat file is the text of its file in the base, comments included, with the image reference that the base's
`images:` gives it. What has been made so is then compared, object by object, with what `kubectl kustomize`
makes of the base: a base that does more than this script understands is refused.

With `--check` nothing is written: the exit status says whether the committed files are up to date.
"""
# ruff: noqa: INP001 - a script beside the manifests it reads, not a package

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from managed_session_local.control_plane.binaries import resolve_binaries

DEPLOY = Path(__file__).resolve().parents[1]
ROOT = DEPLOY.parent
BASE = DEPLOY / "kustomize" / "base"
DEFINITION = "../../../crds"
_TIMEOUT_SECONDS = 60


class RenderError(Exception):
    """The flat files cannot be made from the base; the text says why."""


def rendered() -> dict[Path, str]:
    """Each flat file with the text that it should have.

    Raises:
        RenderError: `kubectl kustomize` refuses the base, or makes other objects of it.
        BinariesUnavailableError: there is no kubectl.
    """
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    files = {}
    for resource in kustomization["resources"]:
        source = ROOT / "crds/managedsessions.yaml" if resource == DEFINITION else BASE / resource
        name = "10-customresourcedefinition.yaml" if resource == DEFINITION else resource
        header = (
            f"# Made from {source.relative_to(ROOT)} by `make manifests`: change that file, not this one.\n"
        )
        files[DEPLOY / name] = header + with_images(source.read_text(), kustomization.get("images", []))
    made = [each for text in files.values() for each in yaml.safe_load_all(text)]
    if by_identity(made) != by_identity(kustomized(BASE)):
        raise RenderError(
            f"kubectl kustomize makes other objects of {BASE.relative_to(ROOT)} than its files hold: "
            "this script knows `resources` and `images` only"
        )
    return files


def with_images(text: str, images: Iterable[dict[str, str]]) -> str:
    """The manifests with the image references that kustomize's `images` give them."""
    for image in images:
        tag = f"@{image['digest']}" if "digest" in image else f":{image['newTag']}"
        reference = image.get("newName", image["name"]) + tag
        pattern = rf"^(\s*(?:- )?image: ){re.escape(image['name'])}$"
        text = re.sub(pattern, rf"\g<1>{reference}", text, flags=re.MULTILINE)
    return text


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl kustomize` makes of a folder.

    Raises:
        RenderError: it refuses.
    """
    command = [str(resolve_binaries().kubectl), "kustomize", str(folder)]
    done = subprocess.run(  # noqa: S603 - our own kubectl
        command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    return list(yaml.safe_load_all(done.stdout))


def by_identity(objects: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """The objects by API version, kind, namespace and name."""
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
    """Write the files, or with `--check` compare them; returns the exit status."""
    try:
        files = rendered()
    except RenderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    stale += [path for path in DEPLOY.glob("*.yaml") if path not in files]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what `make manifests` makes", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        if path in files:
            path.write_text(files[path])
        else:
            path.unlink()
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
