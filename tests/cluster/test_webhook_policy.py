"""What the webhook's account may write of a ManagedSession: what the webhook writes, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError
from managed_session_devkit.system.manifests import install
from managed_session_runtime.kubernetes_client import connect

from ..rights import expect_refusals
from ..support.systems import unique_name
from ..support.waiting import eventually

NAMESPACE = unique_name()
SYSTEM_NAMESPACE = f"{NAMESPACE}-system"
ACCOUNT = "managed-session-webhook"
EVENT = {"id": "whe_1", "type": "session.status_run_started", "createdAt": "2026-11-26T00:00:00Z"}
SANDBOX = {"id": "sandbox-of-another-session", "state": "Paused", "attempt": 1}
NO_STATUS = "the webhook may only change lastEvent of a status"
NO_SPEC = "the webhook may only create a ManagedSession with spec.sessionID and labels"


@pytest.fixture(scope="module")
async def webhook(control_plane: ControlPlane) -> AsyncIterator[Path]:
    """The kubeconfig of the webhook's account."""
    await install(control_plane, NAMESPACE, SYSTEM_NAMESPACE)
    kubeconfig = await control_plane.service_account_kubeconfig(SYSTEM_NAMESPACE, ACCOUNT)

    async def takes_effect() -> bool:
        refusal = await refused(control_plane, session("probe", spec={"agentID": "agent_1"}), kubeconfig)
        return NO_SPEC in refusal

    with expect_refusals(NAMESPACE, ACCOUNT):
        await eventually("the API server has taken up the policy", takes_effect)
        yield kubeconfig


@pytest.fixture
async def served(control_plane: ControlPlane, webhook: Path) -> str:
    """A resource that the webhook has made, and in which the operator has recorded a sandbox."""
    name = unique_name()
    await create(control_plane, session(name), webhook)
    await patch_status(control_plane, name, {"phase": "Idle", "sandbox": {**SANDBOX, "id": "its-own"}})
    return name


def session(name: str, *, spec: Any = None, metadata: Any = None) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE, **(metadata or {})},
        "spec": {"sessionID": f"sesn_{name.replace('-', '')}", **(spec or {})},
    }


async def create(control_plane: ControlPlane, body: dict[str, Any], kubeconfig: Path | None = None) -> None:
    arguments = ("create", "--validate=false", "--filename=-")
    await control_plane.kubectl(*arguments, input=json.dumps(body), kubeconfig=kubeconfig)


async def refused(control_plane: ControlPlane, body: dict[str, Any], kubeconfig: Path) -> str:
    """Why this may not be created; empty where it was."""
    try:
        await create(control_plane, body, kubeconfig)
    except KubectlError as error:
        return str(error)
    return ""


async def patch_status(
    control_plane: ControlPlane, name: str, status: dict[str, Any], kubeconfig: Path | None = None
) -> None:
    # Not with kubectl, which reads a status before it patches it; the webhook may not.
    config = kubeconfig or control_plane.kubeconfig
    async with await connect(environ={**os.environ, "KUBECONFIG": str(config)}) as api_client:
        await client.CustomObjectsApi(api_client).patch_namespaced_custom_object_status(
            names.GROUP, names.VERSION, NAMESPACE, names.PLURAL, name, {"status": status},
            _content_type="application/merge-patch+json",
        )  # fmt: skip


async def status_of(control_plane: ControlPlane, name: str) -> dict[str, Any]:
    found = await control_plane.kubectl(
        "get", names.PLURAL, name, f"--namespace={NAMESPACE}", "--output=jsonpath={.status}"
    )
    return dict(json.loads(found))


async def test_event_is_noted_and_replaced(control_plane: ControlPlane, webhook: Path, served: str) -> None:
    before = await status_of(control_plane, served)
    for event in (EVENT, {**EVENT, "id": "whe_2"}):
        await patch_status(control_plane, served, {"lastEvent": event}, webhook)
        assert await status_of(control_plane, served) == {**before, "lastEvent": event}


async def test_event_is_noted_in_a_resource_without_status(
    control_plane: ControlPlane, webhook: Path
) -> None:
    name = unique_name()
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    await create(control_plane, session(name, metadata={"labels": labels}), webhook)
    await patch_status(control_plane, name, {"lastEvent": EVENT}, webhook)
    assert await status_of(control_plane, name) == {"lastEvent": EVENT}


@pytest.mark.parametrize(
    "status",
    [
        {"sandbox": SANDBOX},
        {"sandbox": {"id": SANDBOX["id"]}},
        {"sandbox": None},
        {"phase": None},
        {"phase": "Failed"},
        {"endedAt": "2026-11-26T00:00:00Z"},
        {"work": {"id": "work_1"}},
        {"lastEvent": EVENT, "recovery": {"attempts": 9}},
    ],
)
async def test_rest_of_the_status_is_the_operators(
    control_plane: ControlPlane, webhook: Path, served: str, status: dict[str, Any]
) -> None:
    before = await status_of(control_plane, served)
    with pytest.raises(ApiException, match=NO_STATUS):
        await patch_status(control_plane, served, status, webhook)
    assert await status_of(control_plane, served) == before
    await patch_status(control_plane, served, status)


@pytest.mark.parametrize(
    "more",
    [
        {"spec": {"sandbox": {"template": "of-a-stranger"}}},
        {"spec": {"environmentID": "env_1"}},
        {"spec": {"lifecycle": {"suspend": True}}},
        {"metadata": {"annotations": {names.ANNOTATION_IDENTITY: "of-another-resource"}}},
        {"metadata": {"finalizers": ["example.com/held"]}},
    ],
)
async def test_resource_is_created_with_its_session_alone(
    control_plane: ControlPlane, webhook: Path, more: dict[str, Any]
) -> None:
    assert NO_SPEC in await refused(control_plane, session(unique_name(), **more), webhook)


@pytest.mark.usefixtures("webhook")
async def test_policy_is_about_the_webhook_alone(control_plane: ControlPlane) -> None:
    await create(control_plane, session(unique_name(), spec={"sandbox": {"template": "ours"}}))
