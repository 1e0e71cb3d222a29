"""What a cluster does and the test control plane does not: pods that run, rollouts, namespaces that go.

The control plane of the tests is an API server and etcd. `ClusterStandIn` plays the missing parts for the two
Deployments of an installation, as far as the commands of the documentation need them:

- kubelet: one process per Deployment, with the Deployment's command, its environment (`env` and `envFrom`),
  the ServiceAccount's rights, and the files of its Secret, which follow the Secret.
- Deployment controller: a changed pod template is a rollout, the status says how far it is; no replicas, no
  process.
- Namespace controller: a deleted namespace loses its contents, and is gone when nothing holds one of them.

What it does not play: images are not pulled (the reference is noted), there are no Pod objects, and so no
`kubectl logs` and no `kubectl port-forward`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from managed_session_api.names import API_VERSION, KIND, PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import ClusterError
from managed_session_devkit.control_plane import ControlPlane, KubectlError, ProcessFailedError
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.pod import Pod
from managed_session_devkit.system.ports import free_port

from ..support.waiting import eventually

POLL_SECONDS = 0.3
QUICK = {
    "MANAGED_SESSIONS_MAX_IDLE_SECONDS": "1",
    "MANAGED_SESSIONS_RESYNC_INTERVAL_SECONDS": "1",
    "MANAGED_SESSIONS_WEBHOOK_READINESS_INTERVAL_SECONDS": "0.5",
}
"""Settings of all processes, so that a test does not wait for slow clocks; the Deployments' own go before."""

_CONTENTS = (
    "deployments", "services", "poddisruptionbudgets", "rolebindings", "roles", "serviceaccounts", "secrets",
    "configmaps", "leases", "events",
)  # fmt: skip
"""What a namespace of an installation may hold, beside ManagedSessions."""

Object = dict[str, Any]


class ClusterStandIn:
    """Plays a cluster's node and controllers for one installation, for as long as the block lasts.

    Args:
        control_plane: what it watches.
        folder: for logs and credentials of the processes.
        environment: variables that every process gets beside its Deployment's: where the clouds are.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path, environment: Mapping[str, str]) -> None:
        self.images: set[str] = set()
        """Every image that a Deployment has named."""
        self.webhook_url = f"http://127.0.0.1:{free_port()}/webhook"
        self._control_plane = control_plane
        self._cluster = Cluster(control_plane.kubeconfig)
        self._folder = folder
        self._environment = dict(environment)
        self._pods: dict[str, tuple[Object, Pod]] = {}
        self._mounted: dict[str, dict[str, str]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        for _, pod in self._pods.values():
            await pod.process.stop()

    async def ended(self, deployment: str) -> None:
        """Wait until the Deployment of that name has no process."""

        async def look() -> bool:
            return deployment not in self._pods

        await eventually(f"{deployment} has ended", look)

    @property
    def logs(self) -> list[Path]:
        """The logs of all processes that there were."""
        return sorted(self._folder.glob("managed-session-*.log"))

    async def _play(self) -> None:
        while True:
            # Between two looks anything may go away; the next look sees it.
            with suppress(KubectlError, ClusterError):
                await self._look()
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        for namespace in await self._list("v1", "Namespace", everywhere=True):
            if "deletionTimestamp" in namespace["metadata"]:
                await self._end(namespace)
        deployments = await self._list("apps/v1", "Deployment")
        wanted = {each["metadata"]["name"] for each in deployments if each["spec"]["replicas"]}
        for name in [name for name in self._pods if name not in wanted]:
            await self._pods[name][1].process.stop()
            del self._pods[name]
        if deployments:
            secrets, settings = await self._list("v1", "Secret"), await self._list("v1", "ConfigMap")
            objects = {("Secret", each["metadata"]["name"]): each for each in secrets}
            objects |= {("ConfigMap", each["metadata"]["name"]): each for each in settings}
            for deployment in deployments:
                await self._roll_out(deployment, objects)

    async def _list(self, api_version: str, kind: str, *, everywhere: bool = False) -> list[Object]:
        namespace = "" if everywhere else SYSTEM_NAMESPACE
        return await asyncio.to_thread(self._cluster.list, api_version, kind, namespace)

    async def _roll_out(self, deployment: Object, objects: Mapping[tuple[str, str], Object]) -> None:
        name, template = deployment["metadata"]["name"], deployment["spec"]["template"]
        [container] = template["spec"]["containers"]
        self.images.add(container["image"])
        if deployment["spec"]["replicas"]:
            running = self._pods.get(name)
            if running is not None and running[0] == template:
                self._mount(running[1], objects.get(("Secret", name)))
            else:
                if running is not None:  # one port, so one after the other
                    await running[1].process.stop()
                pod = await self._new_pod(name, template["spec"], self._settings(container, objects))
                self._mount(pod, objects.get(("Secret", name)))
                self._pods[name] = (template, pod)
                await pod.start()
            try:
                await self._pods[name][1].wait_ready(timeout_seconds=1.0)
            except ProcessFailedError:
                return  # not ready yet: a credential may still be missing
        await self._report(deployment)

    def _settings(self, container: Object, objects: Mapping[tuple[str, str], Object]) -> dict[str, str]:
        settings: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                settings |= objects.get(("ConfigMap", source["configMapRef"]["name"]), {}).get("data", {})
            else:
                found = objects.get(("Secret", source["secretRef"]["name"]), {}).get("data", {})
                settings |= {key: base64.b64decode(value).decode() for key, value in found.items()}
        for variable in container.get("env", []):
            settings[variable["name"]] = variable.get("value", SYSTEM_NAMESPACE)
        return settings

    async def _new_pod(self, name: str, spec: Object, settings: Mapping[str, str]) -> Pod:
        self._count += 1
        kubeconfig = await self._control_plane.service_account_kubeconfig(
            SYSTEM_NAMESPACE, spec["serviceAccountName"]
        )
        [command] = spec["containers"][0]["command"]
        port = self.webhook_url.removesuffix("/webhook").rpartition(":")[2]
        return Pod(
            f"{name}-{self._count}",
            command,
            f"{command.replace('-', '_')}.main",
            self._folder,
            environment={
                **base_environment(self._environment),
                **self._environment,
                "KUBECONFIG": str(kubeconfig),
            },
            settings={
                **QUICK,
                **settings,
                "MANAGED_SESSIONS_WEBHOOK_HOST": "127.0.0.1",
                "MANAGED_SESSIONS_WEBHOOK_PORT": port,
            },
            probe_port=free_port(),
        )

    def _mount(self, pod: Pod, secret: Object | None) -> None:
        data = (secret or {}).get("data") or {}
        files = {key: base64.b64decode(value).decode().rstrip("\n") for key, value in data.items()}
        mounted = self._mounted.get(pod.name, {})
        for key in {*mounted, *files}:
            if mounted.get(key) != files.get(key):
                pod.set_credential(key, files.get(key))
        self._mounted[pod.name] = files

    async def _report(self, deployment: Object) -> None:
        """Write what a Deployment controller writes when all pods are there and ready."""
        replicas = deployment["spec"]["replicas"]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas),
        }
        known = deployment.get("status", {})
        if {key: known.get(key, 0) for key in status} != status:
            reference = Reference("apps/v1", "Deployment", deployment["metadata"]["name"], SYSTEM_NAMESPACE)
            await asyncio.to_thread(self._cluster.merge, reference, {"status": status}, subresource="status")

    async def _end(self, namespace: Object) -> None:
        name = namespace["metadata"]["name"]
        for kind in (*_CONTENTS, *([PLURAL] if name == RESOURCE_NAMESPACE else [])):
            with suppress(KubectlError):  # the definition may be gone before the namespace
                await self._control_plane.kubectl(
                    "delete", kind, "--all", f"--namespace={name}", "--wait=false", "--ignore-not-found"
                )
        if not await asyncio.to_thread(self._cluster.list, API_VERSION, KIND, name):
            namespace["spec"]["finalizers"] = []
            await self._control_plane.kubectl(
                "replace",
                f"--raw=/api/v1/namespaces/{name}/finalize",
                "--filename=-",
                input=json.dumps(namespace),
            )
