"""The control plane's sandbox endpoints."""

from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.common.times import now
from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway, status_answer
from managed_session_devkit.simulators.e2b.idempotency import IdempotencyStore, fingerprint
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle, not_found
from managed_session_devkit.simulators.e2b.listing import list_page

_V1_DEFAULT_TIMEOUT: Final = 15
_CREATE_FIELDS: Final[tuple[str, ...]] = (
    "templateID", "timeout", "autoPause", "autoPauseMemory", "autoResume", "allow_internet_access", "network",
    "metadata", "envVars", "mcp", "iam", "volumeMounts", "secure",
)  # fmt: skip


class ControlRoutes:
    """Handlers that call Lifecycle."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self.idempotency = IdempotencyStore()

    def routes(self) -> list[Route]:
        """Return all routes, of the current and the first version."""
        operation = self._gateway.endpoint
        sandbox = "/sandboxes/{sandbox_id}"
        connect = operation("connect", self._connect, body="json")
        create = operation("create", self._create, body="json")
        listing = operation("list", self._list)
        return [
            Route("/v2/sandboxes", create, methods=["POST"]),
            Route("/sandboxes", create, methods=["POST"]),
            Route("/v2/sandboxes", listing, methods=["GET"]),
            Route("/sandboxes", listing, methods=["GET"]),
            Route("/v2" + sandbox + "/connect", connect, methods=["POST"]),
            Route(sandbox + "/connect", connect, methods=["POST"]),
            Route(sandbox + "/resume", connect, methods=["POST"]),
            Route(sandbox + "/pause", operation("pause", self._pause, body="json"), methods=["POST"]),
            Route(
                sandbox + "/timeout", operation("set_timeout", self._timeout, body="json"), methods=["POST"]
            ),
            Route(sandbox + "/refreshes", operation("refresh", self._refresh, body="json"), methods=["POST"]),
            Route(sandbox + "/network", operation("network", self._network, body="json"), methods=["PUT"]),
            Route(sandbox + "/metrics", operation("metrics", self._metrics), methods=["GET"]),
            Route("/v2" + sandbox + "/logs", operation("logs", self._logs), methods=["GET"]),
            Route(sandbox, operation("get", self._get), methods=["GET"]),
            Route(sandbox, operation("kill", self._kill), methods=["DELETE"]),
        ]

    def _is_another_team(self, call: Call) -> bool:
        return call.header("x-api-key") in self._lifecycle.settings.other_teams_keys

    def _id(self, call: Call) -> str:
        """Return the ID of the call's sandbox. Raises ApiError 404 if it belongs to another team."""
        assert call.sandbox_id is not None
        if self._is_another_team(call):
            raise not_found(call.sandbox_id)
        return call.sandbox_id

    def fallback(self) -> Route:
        """Return the route for calls that are not simulated. The ledger shows them as `unknown`."""
        endpoint = self._gateway.endpoint("unknown", self._unknown)
        return Route("/{path:path}", endpoint, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])

    async def _unknown(self, call: Call) -> Response:
        raise ApiError(404, f"{call.request.method} {call.request.url.path} is not simulated")

    async def _create(self, call: Call) -> Response:
        lifecycle = self._lifecycle
        version_2 = call.request.url.path.startswith("/v2/")
        key = call.header("idempotency-key") if lifecycle.settings.idempotency_enabled else None

        async def create() -> Response:
            if call.fault is not None and call.fault.recorded:
                return status_answer(call.fault)
            default = lifecycle.settings.default_timeout_seconds if version_2 else _V1_DEFAULT_TIMEOUT
            sandbox = await lifecycle.create(call.body, key, default, partial(self._gateway.take_time, call))
            call.sandbox_id = sandbox.id
            return JSONResponse(sandbox.created_json(lifecycle.settings), 201)

        call.takes_time_itself = (
            True  # inside the idempotency record, so that a repetition finds the create in progress
        )
        network = call.body.get("network") or {}
        if not version_2 and network.get("allowPublicTraffic") is False and not call.body.get("secure"):
            raise ApiError(400, "You cannot restrict public traffic to a sandbox that is not secure")
        lifecycle.admission.check_rate(lifecycle.settings)
        if key is None:
            return await create()
        fields = {name: call.body[name] for name in _CREATE_FIELDS if name in call.body}
        identity = fingerprint("POST", call.request.url.path, fields)
        response = await self.idempotency.run(key, identity, lifecycle.settings, create)
        if call.fault_name == "idempotency_outcome_unknown":
            self.idempotency.abandon(key)
        return response

    async def _connect(self, call: Call) -> Response:
        lifecycle = self._lifecycle
        take_time = partial(self._gateway.take_time, call)
        sandbox, resumed = await lifecycle.connect(self._id(call), call.body, take_time)
        return JSONResponse(sandbox.created_json(lifecycle.settings), 201 if resumed else 200)

    async def _pause(self, call: Call) -> Response:
        damage = call.fault_name if call.fault_name in ("pause_dropped", "pause_rolled_back") else None
        take_time = partial(self._gateway.take_time, call)
        await self._lifecycle.pause(self._id(call), call.body, take_time, damage)
        return Response(status_code=204)

    async def _kill(self, call: Call) -> Response:
        await self._lifecycle.kill(self._id(call))
        return Response(status_code=204)

    async def _timeout(self, call: Call) -> Response:
        seconds = call.body.get("timeout")
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            raise ApiError(400, "timeout must be an integer")
        await self._lifecycle.set_timeout(self._id(call), seconds)
        return Response(status_code=204)

    async def _refresh(self, call: Call) -> Response:
        sandbox = self._lifecycle.get(self._id(call))
        left = (sandbox.end_at - now()).total_seconds()
        await self._lifecycle.set_timeout(sandbox.id, max(int(left), int(call.body.get("duration") or 60)))
        return Response(status_code=204)

    async def _network(self, call: Call) -> Response:
        await self._lifecycle.set_network(self._id(call), call.body)
        return Response(status_code=204)

    async def _metrics(self, call: Call) -> Response:
        sandbox = self._lifecycle.get(self._id(call))
        moment = now()
        total = sandbox.build.memory_mb * 1024 * 1024
        return JSONResponse(
            [
                {
                    "timestamp": moment.isoformat(),
                    "timestampUnix": int(moment.timestamp()),
                    "cpuCount": sandbox.build.cpu_count,
                    "cpuUsedPct": 0.0,
                    "memUsed": total // 10,
                    "memTotal": total,
                    "memCache": 0,
                    "diskUsed": 0,
                    "diskTotal": 10 * 1024**3,
                }
            ]
        )

    async def _logs(self, call: Call) -> Response:
        self._lifecycle.get(self._id(call))
        return JSONResponse({"logs": []})

    async def _get(self, call: Call) -> Response:
        return JSONResponse(self._lifecycle.get(self._id(call)).detail_json(self._lifecycle.settings))

    async def _list(self, call: Call) -> Response:
        lifecycle = self._lifecycle
        query = _query(call.request)
        ours = [] if self._is_another_team(call) else list(lifecycle.sandboxes.values())
        page = list_page(ours, query, lifecycle.settings)
        listed = [] if call.fault_name == "page_missing" else page.sandboxes
        entries: list[dict[str, Any]] = [sandbox.listed_json(lifecycle.settings) for sandbox in listed]
        headers = {"X-Total-Running": str(lifecycle.admission.active)}
        if page.next_token is not None and call.fault_name != "page_token_lost":
            headers["x-next-token"] = page.next_token
        return JSONResponse(entries, headers=headers)


def _query(request: Request) -> dict[str, str]:
    return dict(request.query_params)
