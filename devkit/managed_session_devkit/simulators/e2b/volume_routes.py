"""The control plane's endpoints for volumes."""

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.volumes import Volumes


class VolumeRoutes:
    """Handlers that call Volumes."""

    def __init__(self, gateway: Gateway, volumes: Volumes) -> None:
        self._gateway = gateway
        self._volumes = volumes

    def routes(self) -> list[Route]:
        """Return all routes."""
        endpoint, one = self._gateway.endpoint, "/volumes/{volume_id}"
        return [
            Route("/volumes", endpoint("create_volume", self._create, body="json"), methods=["POST"]),
            Route("/volumes", endpoint("list_volumes", self._list), methods=["GET"]),
            Route(one, endpoint("get_volume", self._get), methods=["GET"]),
            Route(one, endpoint("delete_volume", self._delete), methods=["DELETE"]),
        ]

    def _check_enabled(self) -> None:
        if not self._gateway.settings.volumes_enabled:
            raise ApiError(400, "Volumes are not enabled.")

    async def _create(self, call: Call) -> Response:
        self._check_enabled()
        return JSONResponse(self._volumes.create(call.body.get("name")).with_token(), 201)

    async def _list(self, _: Call) -> Response:
        self._check_enabled()
        return JSONResponse([each.as_json() for each in self._volumes.list()])

    async def _get(self, call: Call) -> Response:
        return JSONResponse(self._volumes.get(call.request.path_params["volume_id"]).with_token())

    async def _delete(self, call: Call) -> Response:
        self._volumes.delete(call.request.path_params["volume_id"])
        return Response(status_code=204)
