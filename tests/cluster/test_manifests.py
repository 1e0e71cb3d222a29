"""deploy/*.yaml are what `make manifests` makes of the kustomize base, and overlays keep its rules."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from managed_session_local.control_plane.binaries import ControlPlaneBinaries, resolve_binaries

DEPLOY = Path(__file__).parents[2] / "deploy"
RENDER = DEPLOY / "kustomize/render.py"


def kustomized(folder: Path, binaries: ControlPlaneBinaries) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run([binaries.kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def in_order(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        objects,
        key=lambda each: (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]),
    )


def test_flat_files_and_the_base_give_the_same_objects() -> None:
    flat = [each for path in sorted(DEPLOY.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    assert in_order(flat) == in_order(kustomized(DEPLOY / "kustomize/base", resolve_binaries()))


def test_flat_files_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, RENDER, "--check"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_entry_in_an_overlay_changes_every_image(tmp_path: Path) -> None:
    # kustomize wants a relative path.
    base = Path("../" * (len(tmp_path.parts) - 1)) / (DEPLOY / "kustomize/base").relative_to("/")
    image = {"name": "managed-sessions", "newName": "registry.example.com/team/sessions", "newTag": "1.2.3"}
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [str(base)], "images": [image]})
    )
    images = {
        container["image"]
        for each in kustomized(tmp_path, resolve_binaries())
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example.com/team/sessions:1.2.3"}
