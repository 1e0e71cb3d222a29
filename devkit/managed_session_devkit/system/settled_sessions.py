"""Creates many idle sessions at once, and measures what a restarted operator does with them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import httpx
from kubernetes.aio import client
from managed_session_api import names
from managed_session_runtime.kubernetes_client import connect
from prometheus_client.parser import text_string_to_metric_families

from managed_session_devkit.system.local_system import LocalSystem

_CONCURRENCY = 32
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Restart:
    """What happened from the operator's start until it had resynced and reconciled every resource.

    Attributes:
        seconds: seconds since its process started.
        written: names of resources that have changed.
        e2b_calls: calls to E2B by operation.
        anthropic_calls: calls to Anthropic by operation.
    """

    seconds: float
    written: list[str]
    e2b_calls: dict[str, int]
    anthropic_calls: dict[str, int]


async def add_settled_sessions(system: LocalSystem, like: str, count: int) -> None:
    """Add `count` resources, each with a paused sandbox and the status of the session `like`.

    Call this while no operator runs.
    """
    template = await system.kubectl("get", names.PLURAL, names.resource_name(like), "--output=json")
    model: dict[str, Any] = json.loads(template)
    address: dict[str, Any] = {
        "group": names.GROUP,
        "version": names.VERSION,
        "namespace": system.namespace,
        "plural": names.PLURAL,
    }
    limit = asyncio.Semaphore(_CONCURRENCY)
    async with await connect(environ={**os.environ, "KUBECONFIG": str(system.kubeconfig)}) as api_client:
        objects = client.CustomObjectsApi(api_client)

        async def add(session_id: str) -> dict[str, Any]:
            name = names.resource_name(session_id)
            body = {
                **{key: model[key] for key in ("apiVersion", "kind")},
                "metadata": {"name": name, "finalizers": model["metadata"]["finalizers"]},
                "spec": {**model["spec"], "sessionID": session_id},
            }
            async with limit:
                created: Any = await objects.create_namespaced_custom_object(**address, body=body)
            return {**model, "metadata": created["metadata"], "spec": created["spec"]}

        async def settle(body: dict[str, Any], sandbox_id: str) -> None:
            status = {**body["status"], "observedGeneration": body["metadata"]["generation"]}
            status["sandbox"] = {**status["sandbox"], "id": sandbox_id}
            status["work"] = {**status["work"], "id": body["spec"]["sessionID"]}
            name = body["metadata"]["name"]
            async with limit:
                await objects.replace_namespaced_custom_object_status(
                    **address, name=name, body={**body, "status": status}
                )

        added = await asyncio.gather(*(add(f"sesn_{number:020d}") for number in range(count)))
        metadata = [
            {
                names.METADATA_INSTALLATION: system.installation_id,
                names.METADATA_RESOURCE_UID: body["metadata"]["uid"],
                names.METADATA_SESSION: body["spec"]["sessionID"],
                names.METADATA_ATTEMPT: str(body["status"]["sandbox"]["attempt"]),
            }
            for body in added
        ]
        sandboxes = await system.e2b_admin.add_paused(model["status"]["sandbox"]["templateID"], metadata)
        await asyncio.gather(*map(settle, added, sandboxes))


async def restart_operator(system: LocalSystem, *, timeout_seconds: float = 120) -> Restart:
    """Start the stopped operator, and wait until it has nothing left to do.

    Raises:
        TimeoutError: it was not settled in time.
    """
    before = await _versions(system)
    await system.e2b_admin.clear_ledger()
    await system.anthropic_admin.clear_ledger()
    began = time.monotonic()
    async with asyncio.timeout(timeout_seconds), httpx.AsyncClient(trust_env=False) as metrics:
        await system.operator.start()
        settled = False
        while not settled:
            await asyncio.sleep(_POLL_SECONDS)
            settled = await _settled(metrics, system.operator.probe_url, len(before))
    seconds = time.monotonic() - began
    after = await _versions(system)
    anthropic = (await system.anthropic_admin.ledger()).operations
    return Restart(
        seconds=seconds,
        written=sorted(name for name in before | after if before.get(name) != after.get(name)),
        e2b_calls=dict((await system.e2b_admin.ledger()).operations),
        anthropic_calls={name: sum(answers.values()) for name, answers in anthropic.items()},
    )


async def _settled(metrics: httpx.AsyncClient, url: str, count: int) -> bool:
    """Return whether the operator has resynced and found nothing more to do for any resource."""
    try:
        text = (await metrics.get(f"{url}/metrics")).text
    except httpx.TransportError:
        return False
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    waiting = values.get(("managed_sessions_steps_total", "wait"), 0)
    return waiting >= count and values.get(("managed_sessions_resyncs_total", "ok"), 0) >= 1


async def _versions(system: LocalSystem) -> dict[str, str]:
    """Return the resourceVersion of each resource by name."""
    columns = 'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.resourceVersion}{"\\n"}{end}'
    listed = await system.kubectl("get", names.PLURAL, f"--output={columns}")
    return dict(line.split() for line in listed.splitlines())
