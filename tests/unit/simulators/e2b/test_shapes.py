"""Raw answers of the control plane fit the models that the SDK generates from E2B's OpenAPI."""

import typing
from collections.abc import AsyncIterator
from typing import Any

import attrs
import httpx
import pytest
from e2b.api.client import models
from e2b.api.client.models import (
    AssignedTemplateTags,
    Error,
    ListedSandbox,
    Sandbox,
    SandboxDetail,
    SandboxLogsV2Response,
    SandboxMetric,
    TemplateAliasResponse,
    TemplateBuildFileUpload,
    TemplateBuildInfo,
    TemplateRequestResponseV3,
    TemplateTag,
)
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from pydantic import ConfigDict, TypeAdapter

ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)


@pytest.fixture
async def api(control: E2BSimulatorClient) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"X-API-Key": "e2b_0123456789"}
    async with httpx.AsyncClient(
        base_url=control.url, headers=headers, timeout=30, trust_env=False
    ) as client:
        yield client


def check(model: Any, answer: Any) -> None:
    """Assert that the answer has the model's required keys, no others, and values of its types."""
    parsed = model.from_dict(answer)
    again = parsed.to_dict()
    assert answer.keys() <= again.keys()
    # The models read a missing list as an empty one.
    assert all(again[name] == [] for name in again.keys() - answer.keys())
    check_values(parsed)


def check_values(parsed: Any) -> None:
    hints = typing.get_type_hints(type(parsed), localns=vars(models))
    for field in attrs.fields(type(parsed)):
        value = getattr(parsed, field.name)
        if field.name == "additional_properties":
            # Open objects (metadata, headers) have no other field.
            assert not value or len(attrs.fields(type(parsed))) == 1, value
            continue
        TypeAdapter(hints[field.name], config=ANY_TYPE).validate_python(value, strict=True)
        for part in value if isinstance(value, list) else [value]:
            if attrs.has(type(part)):
                check_values(part)


async def create(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 60, **fields})
    assert answer.status_code == 201
    created: dict[str, Any] = answer.json()
    return created


async def request_build(api: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await api.post("/v3/templates", json={"name": name, "cpuCount": 2, "memoryMB": 512})
    assert answer.status_code == 202
    requested: dict[str, Any] = answer.json()
    return requested


async def test_create(api: httpx.AsyncClient) -> None:
    check(Sandbox, await create(api))


@pytest.mark.parametrize("paused", [False, True])
async def test_connect(api: httpx.AsyncClient, *, paused: bool) -> None:
    path = f"/sandboxes/{(await create(api))['sandboxID']}"
    if paused:
        assert (await api.post(f"{path}/pause", json={})).status_code == 204
    answer = await api.post(f"/v2{path}/connect", json={"timeout": 60})
    assert answer.status_code == (201 if paused else 200)
    check(Sandbox, answer.json())


@pytest.mark.parametrize("paused", [False, True])
async def test_get(api: httpx.AsyncClient, *, paused: bool) -> None:
    made = await create(
        api,
        metadata={"a": "b"},
        autoPause=True,
        allow_internet_access=False,
        network={"allowOut": ["192.0.2.1"], "allowPublicTraffic": False},
    )
    path = f"/sandboxes/{made['sandboxID']}"
    if paused:
        assert (await api.post(f"{path}/pause", json={})).status_code == 204
    answer = await api.get(path)
    assert answer.status_code == 200
    check(SandboxDetail, answer.json())


async def test_list(api: httpx.AsyncClient) -> None:
    await create(api, metadata={"a": "b"})
    paused = await create(api)
    await api.post(f"/sandboxes/{paused['sandboxID']}/pause", json={})
    answer = await api.get("/v2/sandboxes")
    assert answer.status_code == 200
    assert len(answer.json()) == 2
    for entry in answer.json():
        check(ListedSandbox, entry)


async def test_metrics(api: httpx.AsyncClient) -> None:
    answer = await api.get(f"/sandboxes/{(await create(api))['sandboxID']}/metrics")
    assert answer.json()
    for entry in answer.json():
        check(SandboxMetric, entry)


async def test_logs(api: httpx.AsyncClient) -> None:
    answer = await api.get(f"/v2/sandboxes/{(await create(api))['sandboxID']}/logs")
    check(SandboxLogsV2Response, answer.json())


@pytest.mark.parametrize(
    ("action", "method", "body"),
    [
        ("/timeout", "POST", {"timeout": 90}),
        ("/refreshes", "POST", {"duration": 90}),
        ("/network", "PUT", {"allowOut": ["192.0.2.1"]}),
        ("/pause", "POST", {}),
        ("", "DELETE", None),
    ],
)
async def test_changes_have_empty_answers(
    api: httpx.AsyncClient, action: str, method: str, body: dict[str, Any] | None
) -> None:
    made = await create(api)
    answer = await api.request(method, f"/sandboxes/{made['sandboxID']}{action}", json=body)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_template_request(api: httpx.AsyncClient) -> None:
    check(TemplateRequestResponseV3, await request_build(api, "shapes:v1"))


async def test_template_file_upload(api: httpx.AsyncClient) -> None:
    requested = await request_build(api, "shapes-files")
    answer = await api.get(f"/templates/{requested['templateID']}/files/{'0' * 64}")
    assert answer.status_code == 201
    check(TemplateBuildFileUpload, answer.json())


@pytest.mark.parametrize("ready_command", ["true", "false"])
async def test_template_build_and_its_status(api: httpx.AsyncClient, until: Any, ready_command: str) -> None:
    requested = await request_build(api, f"shapes-{ready_command}")
    build = f"/templates/{requested['templateID']}/builds/{requested['buildID']}"
    check(TemplateBuildInfo, (await api.get(f"{build}/status")).json())
    start = {"startCmd": "exit 3", "readyCmd": ready_command, "fromImage": "python:3.12", "steps": []}
    started = await api.post(f"/v2{build}", json=start)
    assert (started.status_code, started.content) == (202, b"")
    seen: list[dict[str, Any]] = []

    async def over() -> bool:
        seen.append((await api.get(f"{build}/status")).json())
        return seen[-1]["status"] in ("ready", "error")

    await until(over)
    for status in seen:
        check(TemplateBuildInfo, status)


@pytest.mark.usefixtures("worker_name")
async def test_template_alias_and_tags(api: httpx.AsyncClient) -> None:
    alias = await api.get("/templates/aliases/worker")
    assert alias.status_code == 200
    check(TemplateAliasResponse, alias.json())
    assigned = await api.post("/templates/tags", json={"target": "worker:v1", "tags": ["shape"]})
    assert assigned.status_code == 201
    check(AssignedTemplateTags, assigned.json())
    tags = (await api.get(f"/templates/{alias.json()['templateID']}/tags")).json()
    assert tags
    for tag in tags:
        check(TemplateTag, tag)
    removed = await api.request("DELETE", "/templates/tags", json={"name": "worker", "tags": ["shape"]})
    assert (removed.status_code, removed.content) == (204, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/sandboxes/inobody", 404),
        ("POST", "/v2/sandboxes/inobody/connect", 404),
        ("POST", "/sandboxes/inobody/pause", 404),
        ("DELETE", "/sandboxes/inobody", 404),
        ("GET", "/v2/sandboxes?limit=0", 400),
        ("POST", "/v3/templates", 400),
        ("GET", "/templates/aliases/nobody-built-this", 404),
    ],
)
async def test_refusals_have_the_documented_status(
    api: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await api.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    check(Error, answer.json())
