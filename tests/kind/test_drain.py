"""A node is drained as an administrator does."""

from __future__ import annotations

from typing import Any

import pytest

from .commands import CommandError
from .installation import OPERATOR, PODS, WEBHOOK, Installation

REFUSED_SECONDS = 15


async def test_drain_of_the_last_node_leaves_one_pod_per_deployment_and_turns_continue(
    installation: Installation,
) -> None:
    nodes = [each["metadata"]["name"] for each in await installation.kubectl.list("", "nodes")]
    if len(nodes) > 1:
        pytest.skip("this cluster has more nodes, to which the evicted pods would go")
    try:
        # Evicted pods cannot move to another node, so a second eviction would leave a Deployment without
        # pods.
        with pytest.raises(CommandError, match="disruption budget"):
            await installation.kubectl(
                "drain",
                nodes[0],
                f"--pod-{PODS.removeprefix('--')}",
                "--delete-emptydir-data",
                f"--timeout={REFUSED_SECONDS}s",
            )
        for deployment in (WEBHOOK, OPERATOR):
            ready = [pod for pod in await installation.pods(deployment) if is_ready(pod)]
            assert len(ready) == 1, deployment
        async with installation.clouds.begin() as session:
            assert await session.say("Run: echo drained") == "drained"
            await installation.idle(session.session_id)
    finally:
        await installation.kubectl("uncordon", nodes[0])
    await installation.rolled_out()
    for deployment in (WEBHOOK, OPERATOR):
        assert len(await installation.pods(deployment)) == 2


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
