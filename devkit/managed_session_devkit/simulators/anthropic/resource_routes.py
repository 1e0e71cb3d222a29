"""`/v1/agents`, `/v1/skills` and `/v1/memory_stores`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from managed_session_devkit.simulators.anthropic.credentials import API_KEY, ENVIRONMENT_KEY, SESSIONS_TOKEN
from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.operations import Call, JSONResponse, Operation
from managed_session_devkit.simulators.anthropic.paging import limit_of, page_of
from managed_session_devkit.simulators.anthropic.resources import MemoryStore

_CHUNK_BYTES = 65_536
_API = frozenset({API_KEY})
_SKILL = frozenset({API_KEY, ENVIRONMENT_KEY})
_MEMORY = frozenset({API_KEY, SESSIONS_TOKEN})
_VERSION = "/v1/skills/{skill_id}/versions/{version}"
_MEMORIES = "/v1/memory_stores/{memory_store_id}/memories"


async def _get_agent(call: Call) -> Response:
    agent = call.cloud.agents.get(call.path("agent_id"))
    if agent is None:
        raise APIError(404, "Agent not found")
    return JSONResponse(agent)


async def _get_skill_version(call: Call) -> Response:
    return JSONResponse(
        call.cloud.skills.get(call.path("skill_id"), call.path("version"), allow_latest=True).as_json()
    )


async def _download_skill(call: Call) -> Response:
    skill = call.cloud.skills.get(call.path("skill_id"), call.path("version"), allow_latest=False)
    archive, speed = skill.archive(), call.cloud.settings.skills.bytes_per_second

    async def content() -> AsyncIterator[bytes]:
        for start in range(0, len(archive), _CHUNK_BYTES):
            chunk = archive[start : start + _CHUNK_BYTES]
            if speed is not None:
                await asyncio.sleep(len(chunk) / speed)
            yield chunk

    headers = {"content-length": str(len(archive))}
    return StreamingResponse(content(), media_type="application/zip", headers=headers)


def _store(call: Call) -> MemoryStore:
    store_id = call.path("memory_store_id")
    session_id = call.credential.session_id
    if session_id is not None:
        session = call.cloud.session(session_id, call.credential)
        if all(resource["memory_store_id"] != store_id for resource in session.resources):
            raise APIError(403, "This memory store is not attached to the session")
    store = call.cloud.memory_stores.get(store_id)
    if store is None:
        raise APIError(404, f"Memory store {store_id} not found")
    return store


async def _list_memories(call: Call) -> Response:
    query = call.request.query_params
    prefix = query.get("path_prefix", "")
    rows = [
        row for row in _store(call).list(full=query.get("view") == "full") if row["path"].startswith(prefix)
    ]
    limit = limit_of(call.integer("limit"), default=20, maximum=1000)
    page, following = page_of(rows, query.get("page"), limit)
    return JSONResponse({"data": page, "next_page": following})


async def _create_memory(call: Call) -> Response:
    path = call.body.get("path")
    if not isinstance(path, str) or not path:
        raise APIError(400, "path: Field required")
    return JSONResponse(_store(call).create(path, call.body.get("content") or ""))


async def _get_memory(call: Call) -> Response:
    return JSONResponse(_store(call).get(call.path("memory_id")))


async def _update_memory(call: Call) -> Response:
    return JSONResponse(_store(call).update(call.path("memory_id"), call.body))


async def _delete_memory(call: Call) -> Response:
    return JSONResponse(
        _store(call).delete(call.path("memory_id"), call.request.query_params.get("expected_content_sha256"))
    )


OPERATIONS = [
    Operation("agents.get", "GET", "/v1/agents/{agent_id}", _API, _get_agent),
    Operation("skills.get", "GET", _VERSION, _SKILL, _get_skill_version),
    Operation("skills.download", "GET", f"{_VERSION}/content", _SKILL, _download_skill),
    Operation("memories.list", "GET", _MEMORIES, _MEMORY, _list_memories),
    Operation("memories.create", "POST", _MEMORIES, _MEMORY, _create_memory),
    Operation("memories.get", "GET", f"{_MEMORIES}/{{memory_id}}", _MEMORY, _get_memory),
    Operation("memories.update", "POST", f"{_MEMORIES}/{{memory_id}}", _MEMORY, _update_memory),
    Operation("memories.delete", "DELETE", f"{_MEMORIES}/{{memory_id}}", _MEMORY, _delete_memory),
]
