"""Connects the test process to a Service, wherever it can reach the API server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator

from .commands import CommandError, Kubectl

START_SECONDS = 15.0


@contextlib.asynccontextmanager
async def port_forward(kubectl: Kubectl, namespace: str, service: str, port: int) -> AsyncIterator[str]:
    """Yield a local URL of the Service. It works until the block ends or the pod behind it goes.

    Raises:
        CommandError: kubectl could not connect.
    """
    process = await asyncio.create_subprocess_exec(
        "kubectl", f"--namespace={namespace}", "port-forward", f"service/{service}", f":{port}",
        env={**os.environ, **kubectl.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    reading: list[asyncio.Task[bytes]] = []
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise CommandError(f"port-forward to {service}: {(await process.stderr.read()).decode().strip()}")
        # kubectl writes a line for each connection, and would block without a reader.
        reading = [asyncio.create_task(pipe.read()) for pipe in (process.stdout, process.stderr)]
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        for task in reading:
            task.cancel()
