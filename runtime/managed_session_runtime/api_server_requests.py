"""Sends requests to the API server as plain JSON.

The library's typed methods validate and convert every argument and answer, which costs more than the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.rest import RESTResponse

Body = dict[str, Any]
"""An object or a part of one, as JSON."""

MERGE_PATCH = "application/merge-patch+json"


async def send(
    client: ApiClient,
    method: str,
    path: str,
    *,
    query: Sequence[tuple[str, str]] = (),
    body: Body | None = None,
    content_type: str = "application/json",
) -> RESTResponse:
    """Send a request with the connection's credentials, and return the answer, whatever its status.

    Args:
        client: the connection.
        method: HTTP method.
        path: path of the API, in which every part is a valid name.
        query: parameters of the query.
        body: the object to send.
        content_type: its media type.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: the API server cannot be reached.
        kubernetes.aio.config.ConfigException: the token cannot be read.
    """
    configuration = client.configuration
    headers = {**client.default_headers, "Accept": "application/json", "Content-Type": content_type}
    token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    if token:
        headers["authorization"] = token
    url = f"{configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
    return await client.call_api(method, url, headers, body)
