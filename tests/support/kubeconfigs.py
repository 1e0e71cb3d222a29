"""Kubeconfigs with one cluster and one user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

TOKEN = {"token": "secret-token"}


def write_kubeconfig(
    folder: Path, server: str, *, ca: Path | None = None, proxy: str = "", user: Mapping[str, str] = TOKEN
) -> Path:
    """Write a kubeconfig into the folder. Return its path.

    Args:
        folder: where to write it.
        server: URL of the API server.
        ca: certificate authority of the API server.
        proxy: URL of the proxy to the API server.
        user: how the user authenticates.
    """
    cluster = {"server": server}
    if ca is not None:
        cluster["certificate-authority"] = str(ca)
    if proxy:
        cluster["proxy-url"] = proxy
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "only",
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
        "clusters": [{"name": "only", "cluster": cluster}],
        "users": [{"name": "only", "user": dict(user)}],
    }
    path = folder / "config"
    path.write_text(json.dumps(config))
    return path
