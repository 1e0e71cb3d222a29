"""The webhook's process against a real API server, with the rights that the manifests give it."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.control_plane.kubeconfig import redirect_kubeconfig
from managed_session_devkit.system.secret_volume import SecretVolume

from ..rights import expect_refusals
from ..support.api_server_proxy import ApiServerProxy
from .webhook_process import (
    DEADLINE_SECONDS,
    NAME,
    RUN,
    SESSION,
    SIGNING_KEY,
    T0,
    Cluster,
    WebhookProcess,
    event,
    has_status,
    logged,
    running_webhook,
    until,
)

ROOT = Path(__file__).parents[2]
OTHER_KEY = "whsec_" + base64.b64encode(b"another-signing-key-of-32-bytes!").decode()
ADMIN_TOKEN = "administrators-token"


@pytest.fixture
async def kubeconfig(control_plane: ControlPlane, namespace: str) -> Path:
    """The webhook's ServiceAccount with the Role of deploy/, in this test's namespace."""
    documents = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "managed-session-webhook"}}
    ]
    for document in yaml.safe_load_all((ROOT / "deploy/30-roles.yaml").read_text()):
        if document["metadata"] | {"labels": 0} == {
            "name": "managed-session-webhook",
            "namespace": "managed-sessions",
            "labels": 0,
        }:
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", []):
                subject["namespace"] = namespace
            documents.append(document)
    await control_plane.kubectl(
        f"--namespace={namespace}", "apply", "--filename=-", input=yaml.safe_dump_all(documents)
    )
    return await control_plane.service_account_kubeconfig(namespace, "managed-session-webhook")


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "anthropic-webhook-signing-key").write_text(SIGNING_KEY + "\n")
    return tmp_path


@pytest.fixture
async def webhook(kubeconfig: Path, namespace: str, credentials: Path) -> AsyncIterator[WebhookProcess]:
    async with running_webhook(kubeconfig, namespace, credentials) as running:
        yield running


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


async def test_a_run_creates_the_sessions_resource_with_its_event(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    answer = await webhook.send(event())
    assert (answer.status_code, answer.content) == (204, b"")
    resource = await cluster.resource()
    assert resource["metadata"]["name"] == NAME
    assert resource["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "managed-sessions"}
    assert resource["spec"] == {"sessionID": SESSION}
    received = datetime.fromisoformat(resource["status"]["lastEvent"].pop("receivedAt"))
    created = datetime.fromisoformat(resource["metadata"]["creationTimestamp"])
    assert abs(created - received) < timedelta(seconds=60)
    assert resource["status"]["lastEvent"] == {
        "id": "whe_1",
        "type": RUN,
        "createdAt": "2026-03-18T14:05:23.000000Z",
    }
    [line] = await logged(webhook, "routing work")
    assert (line["session"], line["event"], line["resource"]) == (SESSION, "whe_1", NAME)


async def test_the_same_event_again_writes_nothing(webhook: WebhookProcess, cluster: Cluster) -> None:
    await webhook.send(event())
    before = await cluster.resource()
    assert (await webhook.send(event())).status_code == 204
    assert await cluster.resource() == before


async def test_fifty_equal_events_at_once_make_one_resource_through_two_replicas(
    webhook: WebhookProcess, kubeconfig: Path, namespace: str, credentials: Path, cluster: Cluster
) -> None:
    async with running_webhook(kubeconfig, namespace, credentials) as second:
        answers = await asyncio.gather(*((webhook, second)[n % 2].send(event()) for n in range(50)))
    assert Counter(answer.status_code for answer in answers) == {204: 50}
    resource = await cluster.resource()
    assert resource["status"]["lastEvent"]["id"] == "whe_1"
    assert resource["metadata"]["generation"] == 1


async def test_the_newest_event_stays_whatever_the_order_of_arrival(
    webhook: WebhookProcess, kubeconfig: Path, namespace: str, credentials: Path, cluster: Cluster
) -> None:
    async with running_webhook(kubeconfig, namespace, credentials) as second:
        order = [(7 * n) % 30 for n in range(30)]
        answers = await asyncio.gather(*((webhook, second)[n % 2].send(event(n)) for n in order))
        assert {answer.status_code for answer in answers} <= {204, 503}
        for number, answer in zip(order, answers, strict=True):
            if answer.status_code == 503:
                assert (await webhook.send(event(number))).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_29"


async def test_a_resource_whose_creator_died_before_the_status_gets_its_event_with_the_next_delivery(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": NAME},
        "spec": {"sessionID": SESSION},
    }
    await cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    assert (await webhook.send(event())).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_1"


async def test_an_end_without_a_resource_creates_none_and_a_late_run_does(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    assert (await webhook.send(event(2, "session.deleted"))).status_code == 204
    assert await cluster.resources() == []
    assert (await webhook.send(event(1))).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["type"] == RUN


@pytest.mark.parametrize("end", ["session.status_terminated", "session.archived", "session.deleted"])
async def test_an_end_is_noted_and_deletes_nothing(
    webhook: WebhookProcess, cluster: Cluster, end: str
) -> None:
    await webhook.send(event(1))
    assert (await webhook.send(event(2, end))).status_code == 204
    resource = await cluster.resource()
    assert resource["status"]["lastEvent"]["type"] == end
    assert "deletionTimestamp" not in resource["metadata"]


async def test_a_run_of_a_finished_turn_is_ignored_and_one_near_its_end_is_not(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    await webhook.send(event(1))
    finished_at = (T0 + timedelta(seconds=60)).isoformat()
    await cluster.patch({"status": {"work": {"finishedAt": finished_at}}}, "--subresource=status")

    async def cache_has_it() -> bool:
        return bool((await cluster.resource())["status"].get("work"))

    await until(cache_has_it)
    assert (await webhook.send(event(30))).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_1"
    assert (await webhook.send(event(58))).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_58"


async def test_a_resource_being_deleted_refuses_until_it_is_gone(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    await webhook.send(event(1))
    await cluster.patch({"metadata": {"finalizers": [names.FINALIZER]}})
    await cluster.kubectl("delete", names.PLURAL, NAME, "--wait=false")

    async def refused() -> bool:
        return (await webhook.send(event(2))).status_code == 503

    await until(refused)
    answer = await webhook.send(event(2, "session.deleted"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    await cluster.patch({"metadata": {"finalizers": None}})

    async def accepted() -> bool:
        return (await webhook.send(event(2))).status_code == 204

    await until(accepted)
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_2"


async def test_without_the_api_server_deliveries_are_put_off_and_then_recorded(
    webhook: WebhookProcess, cluster: Cluster, control_plane: ControlPlane
) -> None:
    await until(lambda: has_status(webhook, "/readyz", 200))
    async with AsyncExitStack() as stack:
        await control_plane.stop_api_server(kill=True)
        stack.push_async_callback(control_plane.start_api_server)
        answer = await webhook.send(event())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        await until(lambda: has_status(webhook, "/readyz", 503))
        assert (await webhook.probe("/livez")).status_code == 200

    async def accepted() -> bool:
        # An API server that has just started refuses everybody until it has read its roles.
        return (await webhook.send(event())).status_code == 204

    await until(accepted)
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_1"
    await until(lambda: has_status(webhook, "/readyz", 200))


@pytest.mark.parametrize("missing", ["rights", "namespace"])
async def test_what_a_person_has_to_fix_is_put_off_and_named_in_the_log(
    kubeconfig: Path,
    control_plane: ControlPlane,
    namespace: str,
    credentials: Path,
    cluster: Cluster,
    missing: str,
) -> None:
    if missing == "rights":
        await cluster.kubectl("delete", "rolebinding", "managed-session-webhook")
        hint = "apply the Role and RoleBinding"
    else:
        kubeconfig, namespace, hint = control_plane.kubeconfig, "not-there", "create the namespace"
    with expect_refusals(namespace, "managed-session-webhook"):
        async with running_webhook(kubeconfig, namespace, credentials) as webhook:
            answer = await webhook.send(event())
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert any(hint in line["message"] for line in await logged(webhook, "refused"))


async def test_keys_are_added_and_rotated_without_a_restart(
    kubeconfig: Path, namespace: str, tmp_path: Path, cluster: Cluster
) -> None:
    secret = SecretVolume(tmp_path / "mounted")

    def mount(*keys: str) -> None:
        secret.write({"anthropic-webhook-signing-key": "".join(f"{key}\n" for key in keys).encode()})

    async with running_webhook(kubeconfig, namespace, secret.path) as webhook:
        answer = await webhook.send(event(1))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await webhook.request("GET", "/health")).json()["signingKey"] is False
        await until(lambda: has_status(webhook, "/readyz", 200))
        mount(SIGNING_KEY)
        assert (await webhook.request("GET", "/health")).json()["signingKey"] is True
        assert (await webhook.send(event(1))).status_code == 204
        mount(OTHER_KEY, SIGNING_KEY)
        assert (await webhook.send(event(2), OTHER_KEY)).status_code == 204
        assert (await webhook.send(event(3), SIGNING_KEY)).status_code == 204
        mount(OTHER_KEY)
        assert (await webhook.send(event(4), SIGNING_KEY)).status_code == 401
        secret.write({})
        assert (await webhook.send(event(4), OTHER_KEY)).status_code == 503
        mount(OTHER_KEY)
        assert (await webhook.send(event(5), OTHER_KEY)).status_code == 204
    assert (await cluster.resource())["status"]["lastEvent"]["id"] == "whe_5"
    assert not [key for key in (SIGNING_KEY, OTHER_KEY) if key.removeprefix("whsec_") in webhook.text]


async def test_assignments_are_for_the_holder_of_the_admin_token(
    webhook: WebhookProcess, cluster: Cluster
) -> None:
    assert (await webhook.request("GET", "/sandboxes")).status_code == 404
    (webhook.credentials / "webhook-admin-token").write_text(ADMIN_TOKEN)
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {ADMIN_TOKEN}"}):
        answer = await webhook.request("GET", "/sandboxes", headers=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    await webhook.send(event())
    status = {"phase": "Running", "sandbox": {"id": "sbx-1", "state": "Running"}}
    await cluster.patch({"status": status}, "--subresource=status")
    answer = await webhook.request("GET", "/sandboxes", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    assert answer.json() == {
        "sandboxes": [
            {"name": NAME, "sessionID": SESSION, "sandboxID": "sbx-1", "state": "Running", "phase": "Running"}
        ]
    }
    assert ADMIN_TOKEN not in webhook.text


async def test_sigterm_lets_requests_finish_and_ends_with_success(
    kubeconfig: Path, namespace: str, credentials: Path, cluster: Cluster
) -> None:
    slow = {"MANAGED_SESSIONS_WEBHOOK_SHUTDOWN_DELAY_SECONDS": "10"}
    async with running_webhook(kubeconfig, namespace, credentials, **slow) as webhook:
        await until(lambda: has_status(webhook, "/readyz", 200))
        webhook.process.send_signal(signal.SIGTERM)
        await until(lambda: has_status(webhook, "/readyz", 503))
        assert (await webhook.send(event())).status_code == 204
        assert await asyncio.wait_for(webhook.process.wait(), DEADLINE_SECONDS) == 0
    assert len(await cluster.resources()) == 1


async def test_event_under_way_at_sigterm_is_recorded_and_answered(
    control_plane: ControlPlane,
    kubeconfig: Path,
    namespace: str,
    credentials: Path,
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    slow = {
        "MANAGED_SESSIONS_WEBHOOK_SHUTDOWN_DELAY_SECONDS": "10",
        # The call that is held is not given up meanwhile.
        "MANAGED_SESSIONS_KUBERNETES_TIMEOUT_SECONDS": "60",
        "MANAGED_SESSIONS_WEBHOOK_DEADLINE_SECONDS": "60",
        "MANAGED_SESSIONS_WEBHOOK_DRAIN_SECONDS": "60",
    }
    async with ApiServerProxy(control_plane.url, control_plane.ca_file) as proxy:
        through = redirect_kubeconfig(kubeconfig, proxy.url, tmp_path / "through-the-proxy")
        async with running_webhook(through, namespace, credentials, **slow) as webhook:
            held = proxy.hold(lambda call: call.operation == f"create {names.PLURAL}")
            under_way = asyncio.create_task(webhook.send(event()))
            await held.reached.wait()
            webhook.process.send_signal(signal.SIGTERM)
            await until(lambda: has_status(webhook, "/readyz", 503))
            late = await webhook.send(event(2, session="sesn_02Late"))
            assert late.status_code == 204, "a load balancer may not have noticed yet"
            await until(lambda: refuses(webhook))
            assert not under_way.done()
            proxy.remove(held)
            assert (await under_way).status_code == 204
            assert await asyncio.wait_for(webhook.process.wait(), DEADLINE_SECONDS) == 0
    assert len(await cluster.resources()) == 2


async def refuses(webhook: WebhookProcess) -> bool:
    """Whether new connections are refused."""
    try:
        await webhook.request("GET", "/health")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        # It was taken in the moment in which the server stopped to listen.
        return False
    return False


async def test_outcomes_are_counted(webhook: WebhookProcess) -> None:
    await webhook.send(event(1))
    await webhook.send(event(1, "session.updated"))
    await webhook.send(event(2), OTHER_KEY)
    text = (await webhook.probe("/metrics")).text
    for outcome in ("created", "ignored", "bad_signature"):
        assert f'managed_sessions_webhook_requests_total{{outcome="{outcome}"}} 1.0' in text
    assert 'managed_sessions_build_info{component="webhook"' in text
