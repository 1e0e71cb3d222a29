"""Writes kubeconfig files of a control plane."""

import base64
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from managed_session_devkit.control_plane.certificates import CertificateFiles


def write_admin_kubeconfig(path: Path, url: str, certificates: CertificateFiles) -> None:
    """Write a kubeconfig that signs in with the admin's client certificate."""
    user = {
        "client-certificate-data": _base64(certificates.admin_certificate),
        "client-key-data": _base64(certificates.admin_key),
    }
    _write(path, url, certificates.ca, "admin", user, "default")


def write_token_kubeconfig(
    path: Path, url: str, ca: Path, user_name: str, token: str, namespace: str
) -> None:
    """Write a kubeconfig that signs in with a bearer token, with `namespace` as its default namespace."""
    _write(path, url, ca, user_name, {"token": token}, namespace)


def redirect_kubeconfig(source: Path, url: str, path: Path) -> Path:
    """Write a copy of a kubeconfig of this module with another URL of the API server. Return `path`."""
    config = json.loads(source.read_text())
    config["clusters"][0]["cluster"]["server"] = url
    _replace(path, config)
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, url: str, ca: Path, user_name: str, user: dict[str, str], namespace: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "local", "cluster": {"server": url, "certificate-authority-data": _base64(ca)}},
        ],
        "users": [{"name": user_name, "user": user}],
        "contexts": [
            {"name": "local", "context": {"cluster": "local", "user": user_name, "namespace": namespace}},
        ],
        "current-context": "local",
    }
    _replace(path, config)


def _replace(path: Path, config: dict[str, Any]) -> None:
    # A reader sees either the old or the new file. mkstemp lets only the owner read it. JSON is YAML.
    descriptor, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file, indent=2)
    Path(part).replace(path)
