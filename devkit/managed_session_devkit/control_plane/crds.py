"""Waits for CustomResourceDefinitions.

`kubectl wait --for=condition=Established` fails at once if the CRD does not exist yet (NotFound), or if its
status has no conditions yet, which the API server writes as `null`: ".status.conditions accessor error: <nil>
is of the type <nil>, expected []interface{}". Both happen for a moment after an apply.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_devkit.control_plane.control_plane import KubectlError

Kubectl = Callable[..., Awaitable[str]]
"""Runs kubectl with these arguments and returns its output. Raises KubectlError."""

_POLL_SECONDS = 0.1


async def established(kubectl: Kubectl, *names: str, timeout_seconds: float = 30.0) -> None:
    """Wait until the API server serves these CRDs. Default: all that exist.

    Raises:
        KubectlError: it does not do so in time. The message names the CRDs, or has kubectl's last error.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            found = json.loads(await kubectl("get", "customresourcedefinitions", "--output=json"))["items"]
            missing = _missing(found, names)
            message = f"not established after {timeout_seconds:g} s: {', '.join(missing)}"
        except KubectlError as error:
            missing, message = list(names), str(error)
        else:
            if not missing:
                return
        if time.monotonic() > deadline:
            raise KubectlError(message)
        await asyncio.sleep(_POLL_SECONDS)


def _missing(found: list[dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    served = {
        each["metadata"]["name"]
        for each in found
        for condition in (each.get("status") or {}).get("conditions") or []
        if condition["type"] == "Established" and condition["status"] == "True"
    }
    wanted = names or [each["metadata"]["name"] for each in found]
    return sorted(set(wanted) - served)
