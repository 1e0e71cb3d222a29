"""The control surface, `/_simulator/…`, for tests, the demo and benchmarks. It needs no credential."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from managed_session_devkit.simulators.anthropic.cloud import Cloud
from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.faults import Fault
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.operations import JSONResponse
from managed_session_devkit.simulators.anthropic.resources import Skill, new_agent
from managed_session_devkit.simulators.anthropic.scripts import Script
from managed_session_devkit.simulators.anthropic.webhooks import (
    DOCUMENTED_SESSION_EVENTS,
    Endpoint,
    new_signing_secret,
)
from managed_session_devkit.simulators.common.times import timestamp


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WebhookRequest(_Request):
    """Register an endpoint."""

    url: str
    events: list[str] = list(DOCUMENTED_SESSION_EVENTS)
    secret: str | None = None
    secrets: list[str] = []


class WebhookChange(_Request):
    """Enable an endpoint again, or change its signing secrets."""

    enabled: bool | None = None
    secrets: list[str] | None = Field(default=None, min_length=1)


class DeliveryRequest(_Request):
    """Deliver any event: `event` as it is, or an event made from `type` and `object_id`."""

    event: dict[str, Any] | None = None
    type: str = "session.status_run_started"
    object_id: str = ""
    id: str | None = None
    created_at: str | None = None
    endpoint_id: str | None = None
    copies: int = Field(default=1, ge=1)
    timestamp_offset_seconds: float = 0


class HoldRequest(_Request):
    """Hold deliveries, or release them in an order."""

    hold: bool
    order: str = Field(default="fifo", pattern="^(fifo|lifo|shuffle)$")


class EnvironmentRequest(_Request):
    """Add an environment, or another key to one."""

    id: str = Field(default_factory=lambda: new_id("env"))
    key: str = Field(default_factory=lambda: new_id("sk-ant-oat01-simulated"))


class RevocationRequest(_Request):
    """Revoke a key or token."""

    secret: str


class AgentRequest(_Request):
    """Add an agent."""

    id: str = Field(default_factory=lambda: new_id("agent"))
    skills: list[dict[str, Any]] = []


class SkillRequest(_Request):
    """Add a version of a skill: text files by path, or an archive of any kind."""

    id: str = Field(default_factory=lambda: new_id("skill"))
    name: str
    description: str = ""
    files: dict[str, str] = {}
    archive: Base64Bytes | None = None


class HealthcheckRequest(_Request):
    """Queue a health check."""

    environment_id: str | None = None


Handler = Callable[[Cloud, Request, Any], Awaitable[Any]]


async def _ledger(cloud: Cloud, request: Request, _: Any) -> Any:
    calls = request.query_params.get("calls", "true") != "false"
    return {**cloud.ledger.report(calls=calls), "stranded": stranded(cloud)}


async def _clear_ledger(cloud: Cloud, _: Request, __: Any) -> Any:
    cloud.ledger.clear()
    return {}


async def _settings(cloud: Cloud, _: Request, __: Any) -> Any:
    return cloud.settings.model_dump(mode="json")


async def _patch_settings(cloud: Cloud, _: Request, body: Any) -> Any:
    merged = cloud.settings.merged(body)
    unknown = set(merged.latencies) - {"*", *cloud.operation_names}
    if unknown:
        raise APIError(
            400, f"latencies: no operations {sorted(unknown)}; there are: {', '.join(cloud.operation_names)}"
        )
    cloud.settings = merged
    return cloud.settings.model_dump(mode="json")


async def _faults(cloud: Cloud, _: Request, __: Any) -> Any:
    return [fault.model_dump(mode="json") for fault in cloud.faults.faults]


async def _add_fault(cloud: Cloud, _: Request, body: Any) -> Any:
    fault = Fault.model_validate(body)
    known = [*cloud.operation_names, "webhook.deliver"]
    if not fnmatch.filter(known, fault.operation):
        raise APIError(400, f"no operation matches {fault.operation!r}; there are: {', '.join(known)}")
    return cloud.faults.add(fault).model_dump(mode="json")


async def _clear_faults(cloud: Cloud, _: Request, __: Any) -> Any:
    cloud.faults.clear()
    return {}


async def _webhooks(cloud: Cloud, _: Request, __: Any) -> Any:
    return [endpoint.as_json() for endpoint in cloud.webhooks.endpoints.values()]


async def _add_webhook(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = WebhookRequest.model_validate(body)
    secrets = wanted.secrets or [wanted.secret or new_signing_secret()]
    endpoint = Endpoint(wanted.url, wanted.events, secrets)
    cloud.webhooks.endpoints[endpoint.id] = endpoint
    return endpoint.as_json()


def _endpoint(cloud: Cloud, endpoint_id: str) -> Endpoint:
    endpoint = cloud.webhooks.endpoints.get(endpoint_id)
    if endpoint is None:
        raise APIError(404, f"no webhook endpoint {endpoint_id}")
    return endpoint


async def _change_webhook(cloud: Cloud, request: Request, body: Any) -> Any:
    change = WebhookChange.model_validate(body)
    endpoint = _endpoint(cloud, request.path_params["endpoint_id"])
    if change.enabled is not None:
        endpoint.disabled = None if change.enabled else "disabled through the control surface"
        endpoint.failing_since = None
    endpoint.secrets = change.secrets or endpoint.secrets
    return endpoint.as_json()


async def _remove_webhook(cloud: Cloud, request: Request, _: Any) -> Any:
    return cloud.webhooks.endpoints.pop(_endpoint(cloud, request.path_params["endpoint_id"]).id).as_json()


async def _deliver(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = DeliveryRequest.model_validate(body)
    event = wanted.event
    if event is None:
        settings = cloud.settings
        event = cloud.webhooks.event(
            wanted.type, wanted.object_id, settings.organization_id, settings.workspace_id
        )
        event["id"] = wanted.id or event["id"]
        event["created_at"] = wanted.created_at or timestamp()
    endpoints = list(cloud.webhooks.endpoints.values())
    if wanted.endpoint_id is not None:
        endpoints = [_endpoint(cloud, wanted.endpoint_id)]
    for endpoint in endpoints:
        for _copy in range(wanted.copies):
            cloud.webhooks.send(endpoint, event, offset_seconds=wanted.timestamp_offset_seconds)
    return {"event": event, "sent": len(endpoints) * wanted.copies}


async def _hold(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = HoldRequest.model_validate(body)
    if wanted.hold:
        cloud.webhooks.holding = True
        return {"released": 0}
    return {"released": cloud.webhooks.release(wanted.order)}


async def _add_environment(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = EnvironmentRequest.model_validate(body)
    return {**cloud.add_environment(wanted.id, wanted.key), "key": wanted.key}


async def _revoke(cloud: Cloud, _: Request, body: Any) -> Any:
    cloud.credentials.revoke(RevocationRequest.model_validate(body).secret)
    return {}


async def _add_agent(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = AgentRequest.model_validate(body)
    cloud.agents[wanted.id] = new_agent(wanted.id, wanted.skills)
    return cloud.agents[wanted.id]


async def _add_skill(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = SkillRequest.model_validate(body)
    skill = Skill(wanted.id, wanted.name, wanted.description, wanted.files, wanted.archive)
    cloud.skills.add(skill)
    return skill.as_json()


async def _scripts(cloud: Cloud, _: Request, __: Any) -> Any:
    return cloud.scripts.names()


async def _add_script(cloud: Cloud, _: Request, body: Any) -> Any:
    cloud.scripts.add(Script.model_validate(body))
    return cloud.scripts.names()


async def _add_healthcheck(cloud: Cloud, _: Request, body: Any) -> Any:
    wanted = HealthcheckRequest.model_validate(body)
    environment_id = wanted.environment_id or cloud.settings.environment_id
    if environment_id not in cloud.queues:
        raise APIError(404, f"no environment {environment_id}")
    return cloud.queues[environment_id].enqueue_healthcheck().as_json()


async def _lapse(cloud: Cloud, request: Request, _: Any) -> Any:
    item = next((item for item in cloud.items() if item.id == request.path_params["work_id"]), None)
    if item is None or item.lease_holder is None:
        raise APIError(404, "no live lease on this work item")
    cloud.queues[item.environment_id].lapse(item)
    return item.as_json()


async def _session(cloud: Cloud, request: Request, _: Any) -> Any:
    session_id = request.path_params["session_id"]
    session = cloud.sessions.get(session_id)
    item = next((item for item in cloud.items() if item.data_id == session_id), None)
    return {
        "session": None if session is None else session.as_json(),
        "events": [] if session is None else session.events,
        "waiting_for": [] if session is None else list(session.waiting),
        "work": None if item is None else {**item.as_json(), "stranded": item.id in stranded(cloud)},
        **cloud.ledger.session_report(session_id),
    }


def stranded(cloud: Cloud) -> list[str]:
    """Return the IDs of stranded items: acknowledged some time ago, without a heartbeat since."""
    return [item.id for item in cloud.items() if item.stranded(cloud.settings.work.stranded_after_seconds)]


async def _terminate(cloud: Cloud, request: Request, _: Any) -> Any:
    session = cloud.sessions.get(request.path_params["session_id"])
    if session is None:
        raise APIError(404, "no such session")
    cloud.terminate(session)
    return session.as_json()


async def _sever(cloud: Cloud, request: Request, _: Any) -> Any:
    session = cloud.sessions.get(request.path_params["session_id"])
    if session is None:
        raise APIError(404, "no such session")
    return {"severed": session.sever()}


async def _work(cloud: Cloud, _: Request, __: Any) -> Any:
    return {"items": [item.as_json() for item in cloud.items()], "stranded": stranded(cloud)}


_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/ledger", _ledger),
    ("DELETE", "/ledger", _clear_ledger),
    ("GET", "/settings", _settings),
    ("PATCH", "/settings", _patch_settings),
    ("GET", "/faults", _faults),
    ("POST", "/faults", _add_fault),
    ("DELETE", "/faults", _clear_faults),
    ("GET", "/webhooks", _webhooks),
    ("POST", "/webhooks", _add_webhook),
    ("POST", "/webhooks/deliveries", _deliver),
    ("POST", "/webhooks/hold", _hold),
    ("PATCH", "/webhooks/{endpoint_id}", _change_webhook),
    ("DELETE", "/webhooks/{endpoint_id}", _remove_webhook),
    ("POST", "/environments", _add_environment),
    ("POST", "/credentials/revoke", _revoke),
    ("POST", "/agents", _add_agent),
    ("POST", "/skills", _add_skill),
    ("GET", "/scripts", _scripts),
    ("POST", "/scripts", _add_script),
    ("GET", "/work", _work),
    ("POST", "/work/healthchecks", _add_healthcheck),
    ("POST", "/work/{work_id}/lapse", _lapse),
    ("GET", "/sessions/{session_id}", _session),
    ("POST", "/sessions/{session_id}/terminate", _terminate),
    ("POST", "/sessions/{session_id}/sever", _sever),
]


def routes(cloud: Callable[[], Cloud]) -> list[Route]:
    """Return the routes of the control surface."""
    return [_route(cloud, method, path, handler) for method, path, handler in _ROUTES]


def _route(cloud: Callable[[], Cloud], method: str, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            content = await request.body()
            return JSONResponse(await handler(cloud(), request, json.loads(content) if content else {}))
        except APIError as error:
            return JSONResponse({"error": error.message}, error.status)
        except ValidationError as error:
            problems = json.loads(error.json(include_url=False, include_context=False))
            return JSONResponse({"error": problems}, 400)
        except ValueError as error:
            return JSONResponse({"error": f"the body is not JSON: {error}"}, 400)

    return Route(f"/_simulator{path}", endpoint, methods=[method], name=f"control {method} {path}")
