"""Runs programs: kubectl, kind and docker."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any


class CommandError(Exception):
    """A program failed. The text has the command and its stderr."""


async def run(
    *command: str,
    input: str | None = None,  # noqa: A002 - the name that subprocess uses
    environment: dict[str, str] | None = None,
    timeout_seconds: float = 60.0,
) -> str:
    """Run a program and return its standard output.

    Raises:
        CommandError: it failed, or took longer than `timeout_seconds`.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        content = input.encode() if input is not None else None
        output, errors = await asyncio.wait_for(process.communicate(content), timeout_seconds)
    except TimeoutError:
        raise CommandError(f"{' '.join(command)}: took longer than {timeout_seconds:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {errors.decode(errors='replace').strip()}")
    return output.decode()


class Kubectl:
    """kubectl for the administrator of one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make clients of Kubernetes use this cluster."""
        # The user's preferences (kuberc) would change what commands do.
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECTL_KUBERC": "false"}

    async def __call__(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as `run`
        timeout_seconds: float = 60.0,
    ) -> str:
        """Run kubectl. Raises CommandError."""
        return await run(
            "kubectl", *args, input=input, environment=self.environment, timeout_seconds=timeout_seconds
        )

    async def get(self, namespace: str, *what: str) -> dict[str, Any]:
        """Return an object, or a List of several. Return nothing if it does not exist."""
        found = await self(f"--namespace={namespace}", "get", *what, "--ignore-not-found", "--output=json")
        return dict(json.loads(found)) if found.strip() else {}

    async def list(self, namespace: str, *what: str) -> list[dict[str, Any]]:
        """Return the objects of a kind, with a selector only those that match."""
        return list((await self.get(namespace, *what)).get("items", []))
