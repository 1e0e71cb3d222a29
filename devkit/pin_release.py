"""Pins the Go modules of a release in `control_plane/go`, from which it is built if it cannot be downloaded.

    .venv/bin/python devkit/pin_release.py kubernetes v1.36.4
    .venv/bin/python devkit/pin_release.py etcd v3.6.16

It needs Go and a module proxy. Go verifies each module with its checksum database (unless GONOSUMDB or
GOFLAGS turn this off) before it writes the checksum into go.sum. Builds accept only what go.sum names. Name
the release in `control_plane/releases.py` too.
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from managed_session_devkit.control_plane.go_build import MODULES, TOOLS

_MODULE = "managedagents.dev/managed-sessions/control-plane"
_SOURCES = {"kubernetes": "k8s.io/kubernetes", "etcd": "go.etcd.io/etcd/server/v3"}
# The go command knows tools as part of a module since this version.
_FIRST_WITH_TOOLS = (1, 24)
_HEADERS = {
    "kubernetes": """\
// Pins what kube-apiserver and kubectl are built from where no release can be downloaded: k8s.io/kubernetes,
// whose in-tree staging modules are replaced by their published counterparts of the same release.
""",
    "etcd": """\
// Pins what etcd is built from where no release can be downloaded.
""",
}


def main(name: str, version: str) -> None:
    """Write `go/NAME/VERSION/go.mod` and `go.sum`."""
    folder = MODULES / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(go_mod(name, version, _published(_SOURCES[name], version)))
    (folder / "go.sum").unlink(missing_ok=True)
    _go("mod", "tidy", cwd=folder)


def go_mod(name: str, version: str, published: dict[str, Any]) -> str:
    """Return a go.mod that requires only the release and replaces its in-tree modules.

    `published` is the release's own go.mod, as `go mod edit -json` prints it. Its `godebug` lines hold only
    for its own main module, so they are repeated, and the binaries behave like the released ones.
    """
    source = _SOURCES[name]
    settings = published.get("Godebug") or []
    staging = "v0" + version.removeprefix("v1")
    in_tree = [replacement["Old"]["Path"] for replacement in published.get("Replace") or []]
    blocks = [
        f"module {_MODULE}/{name}",
        f"go {_language(published['Go'])}",
        _block("godebug", [f"{setting['Key']}={setting['Value']}" for setting in settings]),
        f"require {source} {version} // indirect",
        _block("tool", list(TOOLS[name].values())),
        # etcd's own replacements are its modules too, but it requires them by version.
        _block("replace", [f"{path} => {path} {staging}" for path in in_tree if name == "kubernetes"]),
    ]
    return _HEADERS[name] + "\n\n".join(block for block in blocks if block) + "\n"


def _block(directive: str, entries: list[str]) -> str:
    if len(entries) <= 1:
        return "".join(f"{directive} {entry}" for entry in entries)
    return "\n".join([f"{directive} (", *(f"\t{entry}" for entry in entries), ")"])


def _language(declared: str) -> str:
    numbers = tuple(int(part) for part in declared.split(".")[:2])
    return declared if numbers >= _FIRST_WITH_TOOLS else ".".join(map(str, _FIRST_WITH_TOOLS)) + ".0"


def _published(source: str, version: str) -> dict[str, Any]:
    downloaded = json.loads(_go("mod", "download", "-json", f"{source}@{version}", cwd=MODULES))
    published: dict[str, Any] = json.loads(_go("mod", "edit", "-json", downloaded["GoMod"], cwd=MODULES))
    return published


def _go(*arguments: str, cwd: Path) -> str:
    environment = os.environ | {"GOWORK": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    command = ["go", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:3])
