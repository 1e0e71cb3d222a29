"""The control plane's sandbox endpoints."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_local.simulators.e2b.errors import ApiError
from managed_session_local.simulators.e2b.gateway import Call, Gateway, status_answer
from managed_session_local.simulators.e2b.idempotency import IdempotencyStore, fingerprint
from managed_session_local.simulators.e2b.ledger import now
from managed_session_local.simulators.e2b.lifecycle import Lifecycle
from managed_session_local.simulators.e2b.listing import list_page

_V1_DEFAULT_TIMEOUT: Final = 15
_CREATE_FIELDS: Final[tuple[str, ...]] = (
    "templateID", "timeout", "autoPause", "autoPauseMemory", "autoResume", "allow_internet_access", "network",
    "metadata", "envVars", "mcp", "iam", "volumeMounts", "secure",
)  # fmt: skip


class ControlRoutes:
    """Thin handlers over Lifecycle."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self.idempotency = IdempotencyStore()

    def routes(self) -> list[Route]:
        """All routes, current and first version."""
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

    def fallback(self) -> Route:
        """What is not simulated, visible in the ledger as `unknown`."""
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
            sandbox = await lifecycle.create(call.body, key, default)
            call.sandbox_id = sandbox.id
            await self._gateway.take_time(call)
            return JSONResponse(sandbox.created_json(lifecycle.settings), 201)

        call.takes_time_itself = (
            True  # within the idempotency record, so that a repetition meets it in flight
        )
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
        sandbox, resumed = await lifecycle.connect(_id(call), call.body)
        return JSONResponse(sandbox.created_json(lifecycle.settings), 201 if resumed else 200)

    async def _pause(self, call: Call) -> Response:
        damage = call.fault_name if call.fault_name in ("pause_dropped", "pause_rolled_back") else None
        await self._lifecycle.pause(_id(call), call.body, damage)
        return Response(status_code=204)

    async def _kill(self, call: Call) -> Response:
        await self._lifecycle.kill(_id(call))
        return Response(status_code=204)

    async def _timeout(self, call: Call) -> Response:
        seconds = call.body.get("timeout")
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            raise ApiError(400, "timeout must be an integer")
        await self._lifecycle.set_timeout(_id(call), seconds)
        return Response(status_code=204)

    async def _refresh(self, call: Call) -> Response:
        sandbox = self._lifecycle.get(_id(call))
        left = (sandbox.end_at - now()).total_seconds()
        await self._lifecycle.set_timeout(sandbox.id, max(int(left), int(call.body.get("duration") or 60)))
        return Response(status_code=204)

    async def _network(self, call: Call) -> Response:
        await self._lifecycle.set_network(_id(call), call.body)
        return Response(status_code=204)

    async def _metrics(self, call: Call) -> Response:
        sandbox = self._lifecycle.get(_id(call))
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
        self._lifecycle.get(_id(call))
        return JSONResponse({"logs": []})

    async def _get(self, call: Call) -> Response:
        return JSONResponse(self._lifecycle.get(_id(call)).detail_json(self._lifecycle.settings))

    async def _list(self, call: Call) -> Response:
        lifecycle = self._lifecycle
        query = _query(call.request)
        another_team = call.header("x-api-key") in lifecycle.settings.other_teams_keys
        ours = [] if another_team else list(lifecycle.sandboxes.values())
        page = list_page(ours, query, lifecycle.settings)
        listed = [] if call.fault_name == "page_missing" else page.sandboxes
        entries: list[dict[str, Any]] = [sandbox.listed_json(lifecycle.settings) for sandbox in listed]
        headers = {"X-Total-Running": str(lifecycle.admission.active)}
        if page.next_token is not None and call.fault_name != "page_token_lost":
            headers["x-next-token"] = page.next_token
        return JSONResponse(entries, headers=headers)


def _id(call: Call) -> str:
    assert call.sandbox_id is not None
    return call.sandbox_id


def _query(request: Request) -> dict[str, str]:
    return dict(request.query_params)
