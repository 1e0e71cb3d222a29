"""The installation under test: `deploy/`, applied with an overlay as a user does."""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from managed_session_api import names
from managed_session_api.credentials import OPERATOR_CREDENTIALS, Credential

from ..support.waiting import eventually
from .commands import CommandError, Kubectl
from .images import ROOT, split
from .simulated_clouds import NAMESPACE as SIMULATORS_NAMESPACE
from .simulated_clouds import SimulatedClouds

SYSTEM = names.SYSTEM_NAMESPACE
RESOURCES = names.RESOURCE_NAMESPACE
WEBHOOK = "managed-session-webhook"
OPERATOR = "managed-session-operator"
WEBHOOK_URL = f"http://{WEBHOOK}.{SYSTEM}.svc:8000/webhook"
DEPLOY = ROOT / "deploy"
PODS = "--selector=app.kubernetes.io/part-of=managed-sessions"
CREDENTIALS_FOLDER = "/etc/managed-sessions/credentials"
ROLLOUT_SECONDS = 120.0

_SETTINGS = {
    "MANAGED_SESSIONS_MAX_IDLE_SECONDS": "2",
    "MANAGED_SESSIONS_SANDBOX_CREATION_RATE": "10",
    "MANAGED_SESSIONS_SANDBOX_CREATION_BURST": "10",
}
"""Everything else has its defaults, especially the times of the Lease."""


@dataclass
class Installation:
    """The installation on the cluster, and the clouds that it uses."""

    kubectl: Kubectl
    clouds: SimulatedClouds
    folder: Path
    image: str
    pulls: bool
    secrets: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    async def apply(self) -> None:
        """Apply the manifests at once, then the credentials. Return when all pods can be used."""
        await self.kubectl("apply", f"--kustomize={self._overlay()}", "--validate=strict")
        await self.register()
        await self.rolled_out()
        # Without its key the webhook is ready too, but refuses events.
        await self.credential_reached(WEBHOOK, Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)

    def _overlay(self) -> Path:
        """Write an overlay with the image, the clouds' addresses and access to the simulators."""
        source = self.folder / "source"
        if not source.exists():
            for part in ("deploy/kustomize", "crds"):
                shutil.copytree(ROOT / part, source / part)
        overlay = source / "e2e"
        overlay.mkdir(exist_ok=True)
        name, tag = split(self.image)
        base = "base" if self.pulls else "overlays/kind"
        (overlay / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": [f"../deploy/kustomize/{base}", "own.yaml"],
                    "images": [{"name": "managed-sessions", "newName": name, "newTag": tag}],
                }
            )
        )
        (overlay / "own.yaml").write_text(self.own_manifests())
        return overlay

    def own_manifests(self) -> str:
        """Return the tests' additions to `deploy/` as YAML: the clouds' addresses and access to them."""
        return yaml.safe_dump_all(self.own_objects())

    def own_objects(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return them: the ConfigMap with the clouds' addresses, and the NetworkPolicy."""
        return self._settings(), _network_policy()

    def _settings(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": OPERATOR, "namespace": SYSTEM},
            "data": {**self.clouds.clouds.environment, **_SETTINGS},
        }

    async def register(self) -> None:
        """Register the webhook at Anthropic, and create the Secrets of both processes."""
        for old in await self.clouds.anthropic_admin.webhooks():
            await self.clouds.anthropic_admin.remove_webhook(old.id)
        endpoint = await self.clouds.anthropic_admin.add_webhook(WEBHOOK_URL)
        await self.set_secret(OPERATOR, self.credentials())
        await self.set_secret(WEBHOOK, {Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY: endpoint.secret})

    def credentials(self) -> dict[str, str]:
        """Return the operator's credentials by file name. A key that an earlier test has rotated stays."""
        return self.secrets.get(OPERATOR) or self.clouds.clouds.only(OPERATOR_CREDENTIALS)

    async def set_secret(self, name: str, values: dict[str, str]) -> None:
        """Create or replace a Secret. Its values go through stdin."""
        self.secrets[name] = values
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": SYSTEM},
            "data": data,
        }
        await self.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(secret))

    async def credential_reached(self, deployment: str, key: str) -> None:
        """Wait until every pod of the Deployment sees the Secret's current value.

        The kubelet updates mounted Secrets about once a minute, and whenever the pod changes.
        """
        await self.kubectl(
            f"--namespace={SYSTEM}", "annotate", "pods", f"--selector=app.kubernetes.io/name={deployment}",
            "--overwrite", f"managedagents.dev/e2e={uuid.uuid4()}",
        )  # fmt: skip
        wanted = self.secrets[deployment][key]
        for pod in await self.pods(deployment):

            async def seen(name: str = pod["metadata"]["name"]) -> bool:
                command = f"print(open('{CREDENTIALS_FOLDER}/{key}').read(), end='')"
                return wanted == await self.kubectl(
                    f"--namespace={SYSTEM}", "exec", name, "--", "python", "-c", command
                )

            await eventually(f"{pod['metadata']['name']} sees the new {key}", seen, seconds=120)

    async def rolled_out(self) -> None:
        """Wait until all pods are new and ready, and an operator leads."""
        for name in (WEBHOOK, OPERATOR):
            await self.kubectl(
                f"--namespace={SYSTEM}", "rollout", "status", f"deployment/{name}",
                f"--timeout={ROLLOUT_SECONDS:g}s", timeout_seconds=ROLLOUT_SECONDS + 10,
            )  # fmt: skip
        await self.leader()

    async def pods(self, deployment: str) -> list[dict[str, Any]]:
        """Return the pods of a Deployment, except those that are being deleted."""
        found = await self.kubectl.list(SYSTEM, "pods", f"--selector=app.kubernetes.io/name={deployment}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def lives(self) -> set[tuple[str, int]]:
        """Return every pod's UID and number of restarts. If they stay equal, nothing was restarted."""
        return {
            (pod["metadata"]["uid"], sum(each["restartCount"] for each in pod["status"]["containerStatuses"]))
            for name in (WEBHOOK, OPERATOR)
            for pod in await self.pods(name)
        }

    async def leader(self, other_than: str = "") -> str:
        """Wait until an operator pod, other than `other_than`, holds the Lease. Return its name."""

        async def check() -> str | None:
            lease = await self.kubectl.get(SYSTEM, "lease", OPERATOR)
            holder = lease.get("spec", {}).get("holderIdentity") or ""
            present = [pod["metadata"]["name"] for pod in await self.pods(OPERATOR)]
            return next((name for name in present if name != other_than and holder.startswith(name)), None)

        return await eventually("an operator leads", check, seconds=60)

    async def resource(self, session_id: str) -> dict[str, Any]:
        """Return the session's resource, or nothing if there is none."""
        return await self.kubectl.get(RESOURCES, names.PLURAL, names.resource_name(session_id))

    async def idle(self, session_id: str, *, turns: int = 1) -> dict[str, Any]:
        """Wait until the session has had its turns and its sandbox is paused. Return the status."""

        async def check() -> dict[str, Any] | None:
            status: dict[str, Any] = (await self.resource(session_id)).get("status", {})
            settled = status.get("phase") == "Idle" and status.get("turns") == turns
            return status if settled and status["sandbox"]["state"] == "Paused" else None

        return await eventually(f"{session_id} is idle after {turns} turns", check, seconds=60)

    async def write_file(self, session_id: str, path: str) -> None:
        """Create an empty file in the session's sandbox from outside."""
        (sandbox,) = await self.clouds.sandboxes_of(session_id)
        await self._in_e2b(f"touch {sandbox.root}{path}")

    async def has_file(self, session_id: str, path: str) -> bool:
        """Return whether a file exists in the session's sandbox."""
        sandboxes = await self.clouds.sandboxes_of(session_id)
        return bool(sandboxes) and "yes" in await self._in_e2b(
            f"test ! -e {sandboxes[0].root}{path} || echo yes"
        )

    async def _in_e2b(self, command: str) -> str:
        return await self.kubectl(
            f"--namespace={SIMULATORS_NAMESPACE}", "exec", "deployment/e2b", "--", "sh", "-c", command
        )

    async def remove(self) -> None:
        """Delete the resources with their sandboxes, then everything of `deploy/`."""
        if await self.kubectl.get("", "crd", f"{names.PLURAL}.{names.GROUP}"):
            await self.delete_sessions()
        await self.delete_manifests()

    async def delete_sessions(self) -> None:
        """Delete every resource. Return when the operator has confirmed the end of each sandbox."""
        await self.kubectl(
            f"--namespace={RESOURCES}", "delete", names.PLURAL, "--all", "--timeout=60s", timeout_seconds=70
        )

    async def delete_manifests(self) -> None:
        """Run `kubectl delete -f deploy/`, which is refused until the last resource is gone."""

        async def deleted() -> bool:
            try:
                await self.kubectl(
                    "delete", f"--filename={DEPLOY}", "--ignore-not-found", timeout_seconds=120
                )
            except CommandError as error:
                if "managed-sessions uninstall" not in str(error):
                    raise
                return False
            return True

        await eventually("the manifests are deleted", deleted, seconds=120)

    async def left_over(self) -> list[str]:
        """Return the names of all our objects in the cluster, except the simulators'."""
        found = [
            *await self.kubectl.list("", "namespaces", PODS),
            *await self.kubectl.list("", "clusterroles,clusterrolebindings"),
            *await self.kubectl.list("", "validatingadmissionpolicies,validatingadmissionpolicybindings"),
            *await self.kubectl.list("", "customresourcedefinitions"),
        ]
        ours = [f"{each['kind']}/{each['metadata']['name']}" for each in found]
        return [name for name in ours if "managed" in name]


def _network_policy() -> dict[str, Any]:
    """Allow traffic to the simulators, which are in the cluster and on ports other than 443."""
    simulators = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SIMULATORS_NAMESPACE}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "e2e-simulators", "namespace": SYSTEM},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [simulators]}],
            "egress": [{"to": [simulators]}],
        },
    }
