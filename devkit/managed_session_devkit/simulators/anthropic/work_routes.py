"""`/v1/environments/…`: the environment and its work queue."""

from __future__ import annotations

from starlette.responses import Response

from managed_session_devkit.simulators.anthropic.credentials import API_KEY, ENVIRONMENT_KEY, SESSIONS_TOKEN
from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.operations import Call, JSONResponse, Operation
from managed_session_devkit.simulators.anthropic.paging import limit_of, page_of
from managed_session_devkit.simulators.anthropic.work_item import WorkItem
from managed_session_devkit.simulators.anthropic.work_queue import WorkQueue

_ENVIRONMENT = frozenset({ENVIRONMENT_KEY})
_WORKER = frozenset({ENVIRONMENT_KEY, SESSIONS_TOKEN})
_API = frozenset({API_KEY})
_WORK = "/v1/environments/{environment_id}/work"


def _queue(call: Call) -> WorkQueue:
    return call.cloud.queue(call.path("environment_id"), call.credential)


def _own_item(call: Call) -> tuple[WorkQueue, WorkItem]:
    queue = _queue(call)
    item = queue.get(call.path("work_id"))
    if call.credential.kind == SESSIONS_TOKEN and item.data_id != call.credential.session_id:
        raise APIError(403, "This credential belongs to another session")
    if item.data_type == "session":
        call.fields["session_id"] = item.data_id
    return queue, item


async def _get_environment(call: Call) -> Response:
    environment = call.cloud.environments.get(call.path("environment_id"))
    if environment is None:
        raise APIError(404, "Environment not found")
    return JSONResponse(environment)


async def _update_environment(call: Call) -> Response:
    environment = call.cloud.environments.get(call.path("environment_id"))
    if environment is None:
        raise APIError(404, "Environment not found")
    _patch_metadata(environment.setdefault("metadata", {}), call.body.get("metadata"))
    return JSONResponse(environment)


async def _poll(call: Call) -> Response:
    queue = _queue(call)
    worker_id = call.request.headers.get("anthropic-worker-id", "")
    item = await queue.poll(call.integer("block_ms"), call.integer("reclaim_older_than_ms"), worker_id)
    settings = call.cloud.settings.work
    if item is None:
        return Response(status_code=204) if settings.empty_poll == "no_content" else JSONResponse(None)
    call.fields["work_id"] = item.id
    secret = None
    if settings.issue_secrets and item.data_type == "session":
        call.fields["session_id"] = item.data_id
        if settings.only_newest_token:
            call.cloud.credentials.revoke_tokens_of(item.data_id)
        secret = call.cloud.credentials.issue_work_secret(
            item.environment_id, item.data_id, settings.sessions_token_seconds
        )
    return JSONResponse(item.as_json(secret))


async def _ack(call: Call) -> Response:
    if call.credential.kind == SESSIONS_TOKEN and not call.cloud.settings.work.sessions_token_may_ack:
        raise APIError(403, "This endpoint does not accept this credential; use: environment key")
    queue, item = _own_item(call)
    return JSONResponse(queue.ack(item.id).as_json())


async def _heartbeat(call: Call) -> Response:
    queue, item = _own_item(call)
    expected = call.request.query_params.get("expected_last_heartbeat")
    beat = queue.heartbeat(item.id, expected, call.integer("desired_ttl_seconds"), call.credential.name)
    return JSONResponse(beat)


async def _stop(call: Call) -> Response:
    queue, item = _own_item(call)
    force = bool(call.body.get("force"))
    call.fields["force"] = force
    return JSONResponse(queue.stop(item.id, force=force).as_json())


async def _list(call: Call) -> Response:
    queue = _queue(call)
    limit = limit_of(call.integer("limit"), default=20, maximum=1000)
    rows, following = page_of(list(queue.items.values()), call.request.query_params.get("page"), limit)
    return JSONResponse({"data": [item.as_json() for item in rows], "next_page": following})


async def _retrieve(call: Call) -> Response:
    return JSONResponse(_own_item(call)[1].as_json())


async def _update(call: Call) -> Response:
    item = _own_item(call)[1]
    _patch_metadata(item.metadata, call.body.get("metadata"))
    return JSONResponse(item.as_json())


def _patch_metadata(metadata: dict[str, str], patch: object) -> None:
    """Merge a request's metadata, in which null removes a name. Raises APIError 400."""
    if not isinstance(patch, dict) or any(not isinstance(value, str | None) for value in patch.values()):
        raise APIError(400, "metadata: must map names to strings or null")
    for key, value in patch.items():
        if value is None:
            metadata.pop(key, None)
        else:
            metadata[key] = value


async def _stats(call: Call) -> Response:
    return JSONResponse(_queue(call).stats())


OPERATIONS = [
    Operation("environments.get", "GET", "/v1/environments/{environment_id}", _API, _get_environment),
    Operation("environments.update", "POST", "/v1/environments/{environment_id}", _API, _update_environment),
    Operation("work.poll", "GET", f"{_WORK}/poll", _ENVIRONMENT, _poll),
    Operation("work.stats", "GET", f"{_WORK}/stats", _ENVIRONMENT | _API, _stats),
    Operation("work.list", "GET", _WORK, _ENVIRONMENT, _list),
    Operation("work.ack", "POST", f"{_WORK}/{{work_id}}/ack", _WORKER, _ack),
    Operation("work.heartbeat", "POST", f"{_WORK}/{{work_id}}/heartbeat", _WORKER, _heartbeat),
    Operation("work.stop", "POST", f"{_WORK}/{{work_id}}/stop", _WORKER | _API, _stop),
    Operation("work.retrieve", "GET", f"{_WORK}/{{work_id}}", _API, _retrieve),
    Operation("work.update", "POST", f"{_WORK}/{{work_id}}", _API, _update),
]
