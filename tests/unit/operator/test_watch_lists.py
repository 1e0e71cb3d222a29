"""The watch passes whole lists to its observers, and everything else of an answer to kopf."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from managed_session_operator.clients.kubernetes.watch import short_lists

PAGE = {"kind": "ThingList", "metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"a": 1}]}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def page(_: web.Request) -> web.Response:
        return web.json_response(PAGE)

    async def sign_in(_: web.Request) -> web.Response:
        return web.Response(text="<html>sign in</html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/page", page)
    app.router.add_get("/sign-in", sign_in)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def answered(url: str, kinds: dict[str, Any]) -> Any:
    """Return the JSON of the answer, as kopf gets it."""
    async with aiohttp.ClientSession(response_class=short_lists(kinds)) as client, client.get(url) as answer:
        return await answer.json()


async def test_the_objects_of_a_list_are_delivered_and_kopf_sees_an_empty_one(url: str) -> None:
    delivered: list[tuple[str | None, list[dict[str, Any]]]] = []
    found = await answered(f"{url}/page", {"ThingList": lambda *event: delivered.append(event)})
    assert delivered == [(None, [{"a": 1}])]
    assert found == PAGE | {"items": []}


async def test_lists_of_other_kinds_are_left_to_kopf(url: str) -> None:
    assert await answered(f"{url}/page", {}) == PAGE


async def test_a_page_that_is_no_json_is_the_librarys_error(url: str) -> None:
    with pytest.raises(aiohttp.ContentTypeError):
        await answered(f"{url}/sign-in", {})
