"""Measures the dashboard with 5,000 sessions: start, memory, and what a viewer loads.

The exit code is 1 if the process takes more than 256 MiB or a viewer's first load more than 1 MiB: `python
benchmarks/dashboard_at_scale.py [--sessions 5000]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import sys
import time

import httpx
from managed_session_api.names import PLURAL, resource_name
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.dashboard import dashboard_pod
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod
from managed_session_devkit.system.settled_sessions import add_settled_sessions

MIB = 2**20
LIMIT_MEMORY_MIB = 256
LIMIT_LOAD_MIB = 1
TOKEN = "token-of-the-benchmark"


async def measure(sessions: int) -> bool:
    """Create the sessions, start the dashboard, load it as a viewer does, and print the figures."""
    async with (
        LocalSystem(operator_settings={"max_idle_seconds": "1"}, delete_sessions_at_exit=False) as system,
        Conversation.begin(
            system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
        ) as conversation,
    ):
        await conversation.say("Run: true")
        name = resource_name(conversation.session_id)
        await system.kubectl(
            "wait", "--for=jsonpath={.status.phase}=Idle", "--timeout=60s", f"{PLURAL}/{name}"
        )
        await system.operator.process.stop()
        await add_settled_sessions(system, conversation.session_id, sessions - 1)
        pod, url = await dashboard_pod(
            system.control_plane, system.namespace, system.system_namespace, system.folder, settings={}
        )
        pod.set_credential("dashboard-token", TOKEN)
        began = time.monotonic()
        await pod.start()
        try:
            await pod.wait_ready()
            print(f"ready with {sessions} sessions {time.monotonic() - began:.1f} s after its start")
            return await load(pod, url, sessions)
        finally:
            await pod.process.stop()


async def load(pod: Pod, url: str, sessions: int) -> bool:
    """Load the page's data twice, and print the figures."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as viewer:
        await viewer.post("sign-in", data={"token": TOKEN})
        times = []
        for _ in range(2):
            began = time.monotonic()
            async with viewer.stream("GET", "api/board") as answer:
                sent = b"".join([chunk async for chunk in answer.aiter_raw()])
            times.append(time.monotonic() - began)
        board = json.loads(gzip.decompress(sent))
        assert len(board["tables"]["sessions"]) == sessions
        metrics = (await viewer.get(f"{pod.probe_url}/metrics")).text
    found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.MULTILINE)
    memory = float(found[1]) / MIB if found else 0.0
    print(
        f"a viewer's first load: {len(sent) / 1000:.0f} kB, in {times[0]:.2f} s, the next in {times[1]:.2f} s"
    )
    print(f"memory of the process: {memory:.0f} MiB (limit {LIMIT_MEMORY_MIB} MiB)")
    return memory < LIMIT_MEMORY_MIB and len(sent) < LIMIT_LOAD_MIB * MIB


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=5000, help="sessions at rest")
    return 0 if asyncio.run(measure(parser.parse_args().sessions)) else 1


if __name__ == "__main__":
    sys.exit(main())
