"""From an empty cluster to an answered turn and back, with the documented commands."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
from managed_session_api import names
from managed_session_api.credentials import Credential

from .command_line import managed_sessions
from .installation import SYSTEM, WEBHOOK_URL, Installation
from .port_forward import port_forward


@pytest.fixture
async def nothing_installed(installed: Installation) -> Installation:
    """A cluster without the installation, with the clouds' addresses already configured."""
    if await installed.left_over():
        await installed.remove()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    await installed.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(namespace))
    await installed.kubectl("apply", "--server-side", "--filename=-", input=installed.own_manifests())
    return installed


async def dashboard_shows(installation: Installation, session_id: str) -> None:
    """The dashboard's pod shows the session to who has signed in, and nothing to others."""
    name, resource = "managed-session-dashboard", names.resource_name(session_id)
    token = await installation.kubectl("create", "token", f"{name}-viewer", f"--namespace={SYSTEM}")
    async with (
        port_forward(installation.kubectl, SYSTEM, name, 8000) as url,
        httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as client,
    ):
        assert (await client.get(f"/api/sessions/{resource}")).status_code == 401
        assert (await client.post("/sign-in", data={"token": token.strip()})).status_code == 303
        assert "<html" in (await client.get("/")).text
        shown = await client.get(f"/api/sessions/{resource}")
        assert (shown.status_code, session_id in shown.text) == (200, True)


async def test_install_smoke_dashboard_doctor_logs_bundle_and_uninstall(
    nothing_installed: Installation, tmp_path: Path
) -> None:
    installation, clouds = nothing_installed, nothing_installed.clouds
    for old in await clouds.anthropic_admin.webhooks():
        await clouds.anthropic_admin.remove_webhook(old.id)
    endpoint = await clouds.anthropic_admin.add_webhook(WEBHOOK_URL)
    credentials = {Credential(name).variable: value for name, value in installation.credentials().items()}

    await managed_sessions(
        installation, "install", f"--image={installation.image}", "--yes", "--dashboard",
        ANTHROPIC_WEBHOOK_SIGNING_KEY=endpoint.secret, **credentials,
    )  # fmt: skip
    assert {restarts for _, restarts in await installation.lives()} == {0}

    played = await managed_sessions(
        installation, "smoke", "--second-turn", "--keep",
        ANTHROPIC_API_KEY=clouds.user.api_key or "", ANTHROPIC_AGENT_ID=clouds.agent_id,
    )  # fmt: skip
    assert "The smoke test passed." in played

    (sandbox,) = await clouds.alive()
    session_id = sandbox.metadata["managedagents.dev/session"]
    await dashboard_shows(installation, session_id)
    examined = await managed_sessions(installation, "doctor")
    assert "with tokens of the cluster; open it with `managed-sessions dashboard`" in examined
    assert "posted result" in await managed_sessions(installation, "logs", session_id, "--wake")

    await managed_sessions(installation, "bundle", f"--file={tmp_path}/support.tar.gz")
    with tarfile.open(tmp_path / "support.tar.gz") as archive:
        texts = {each.name: (archive.extractfile(each) or io.BytesIO()).read() for each in archive}
    for part in ("/logs/managed-session-operator", "/logs/managed-session-webhook"):
        assert any(part in name and text for name, text in texts.items()), part
    secrets = [value for name, value in installation.credentials().items() if Credential(name).is_secret]
    for secret in (*secrets, endpoint.secret):
        assert not [name for name, text in texts.items() if secret.encode() in text]

    await managed_sessions(installation, "uninstall", "--yes")
    assert await clouds.alive() == []
    assert await installation.left_over() == []
