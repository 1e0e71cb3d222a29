"""The dashboard with many sessions: start, memory, and what a viewer loads."""

from __future__ import annotations

import gzip
import json
import time

import httpx
from managed_session_devkit.system.dashboard import dashboard_pod
from managed_session_devkit.system.pod import Pod

from benchmarks.figures import Figure
from benchmarks.sessions import metric, settled_system

MIB = 2**20
SCALES = (500, 1500, 5000)
GOAL_MEMORY_MIB = 256
GOAL_LOAD_KB = 1000
TOKEN = "token-of-the-benchmark"


async def watch(sessions: int) -> list[Figure]:
    """Create the sessions, start the dashboard, and load it as a viewer does."""
    async with settled_system(sessions) as system:
        pod, url = await dashboard_pod(
            system.control_plane, system.namespace, system.system_namespace, system.folder, settings={}
        )
        pod.set_credential("dashboard-token", TOKEN)
        began = time.monotonic()
        await pod.start()
        try:
            await pod.wait_ready()
            ready = time.monotonic() - began
            return [
                Figure(
                    key="dashboard-start", name="start of the dashboard until it is ready", value=ready,
                    unit="s", scale=sessions,
                ),
                *await load(pod, url, sessions),
            ]  # fmt: skip
        finally:
            await pod.process.stop()


async def load(pod: Pod, url: str, sessions: int) -> list[Figure]:
    """Load the page's data twice."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as viewer:
        await viewer.post("sign-in", data={"token": TOKEN})
        times = []
        for _ in range(2):
            began = time.monotonic()
            async with viewer.stream("GET", "api/board") as answer:
                sent = b"".join([chunk async for chunk in answer.aiter_raw()])
            times.append(time.monotonic() - began)
    found = len(json.loads(gzip.decompress(sent))["tables"]["sessions"])
    if found != sessions:
        raise RuntimeError(f"the page has {found} of {sessions} sessions")
    memory = await metric(f"{pod.probe_url}/metrics", "process_resident_memory_bytes") / MIB
    return [
        Figure(
            key="dashboard-memory", name="memory of the dashboard", value=memory, unit="MiB", scale=sessions,
            goal=GOAL_MEMORY_MIB,
        ),
        Figure(
            key="dashboard-load", name="a viewer's first load", value=len(sent) / 1000, unit="kB",
            scale=sessions, goal=GOAL_LOAD_KB,
        ),
        Figure(
            key="dashboard-time", name="time of a first load", value=times[0], unit="s", scale=sessions,
        ),
    ]  # fmt: skip


async def measure() -> list[Figure]:
    """Measure every scale."""
    return [figure for sessions in SCALES for figure in await watch(sessions)]
