"""Which operation accepts which credential."""

from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import DEFAULTS, Api, token_of

ENVIRONMENT, TOKEN, API_KEY = "environment_key", "sessions_token", "api_key"
Operation = Callable[[AsyncAnthropic, Api, str], Awaitable[Any]]


async def first_event(client: AsyncAnthropic, session_id: str) -> None:
    async with await client.beta.sessions.events.stream(session_id):
        pass


def send(kind: str) -> Operation:
    events: Any = {
        "user.interrupt": [{"type": "user.interrupt"}],
        "user.message": [{"type": "user.message", "content": [{"type": "text", "text": "x"}]}],
        "user.tool_result": [{"type": "user.tool_result", "tool_use_id": "sevt_unknown"}],
    }[kind]
    return lambda client, _, session_id: client.beta.sessions.events.send(session_id, events=events)


def work(method: str, **options: Any) -> Operation:
    async def call(client: AsyncAnthropic, api: Api, session_id: str) -> Any:
        function = getattr(client.beta.environments.work, method)
        return await function(session_id, environment_id=api.environment_id, **options)

    return call


TABLE: list[tuple[str, Operation, set[str]]] = [
    ("poll", lambda c, api, _: c.beta.environments.work.poll(api.environment_id), {ENVIRONMENT}),
    ("ack", work("ack"), {ENVIRONMENT}),
    ("heartbeat", work("heartbeat"), {ENVIRONMENT, TOKEN}),
    ("stop", work("stop"), {ENVIRONMENT, TOKEN, API_KEY}),
    ("list", lambda c, api, _: c.beta.environments.work.list(api.environment_id), {ENVIRONMENT}),
    ("retrieve", work("retrieve"), {API_KEY}),
    ("update", work("update", metadata={}), {API_KEY}),
    ("stats", lambda c, api, _: c.beta.environments.work.stats(api.environment_id), {ENVIRONMENT, API_KEY}),
    ("get session", lambda c, _, s: c.beta.sessions.retrieve(s), {ENVIRONMENT, TOKEN, API_KEY}),
    ("list sessions", lambda c, _, __: c.beta.sessions.list(), {API_KEY}),
    ("archive session", lambda c, _, s: c.beta.sessions.archive(s), {API_KEY}),
    ("delete session", lambda c, _, s: c.beta.sessions.delete(s), {API_KEY}),
    ("list events", lambda c, _, s: c.beta.sessions.events.list(s), {ENVIRONMENT, TOKEN, API_KEY}),
    ("stream events", lambda c, _, s: first_event(c, s), {ENVIRONMENT, TOKEN, API_KEY}),
    ("send result", send("user.tool_result"), {ENVIRONMENT, TOKEN, API_KEY}),
    ("send interrupt", send("user.interrupt"), {API_KEY}),
    ("send message", send("user.message"), {API_KEY}),
    (
        "skill",
        lambda c, _, __: c.beta.skills.versions.retrieve("latest", skill_id="x"),
        {ENVIRONMENT, API_KEY},
    ),
    ("memories", lambda c, _, __: c.beta.memory_stores.memories.list("memstore_1"), {TOKEN, API_KEY}),
    ("environment", lambda c, api, _: c.beta.environments.retrieve(api.environment_id), {API_KEY}),
    ("agent", lambda c, api, _: c.beta.agents.retrieve(api.agent_id), {API_KEY}),
]


@pytest.mark.parametrize(("operation", "accepts"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("kind", [ENVIRONMENT, TOKEN, API_KEY])
async def test_operation_accepts_only_its_credentials(
    api: Api, operation: Operation, accepts: set[str], kind: str
) -> None:
    resource: Any = {"type": "memory_store", "memory_store_id": "memstore_1"}
    session = await api.create(resources=[resource])
    offered = await api.poll()
    assert offered is not None
    token = {ENVIRONMENT: DEFAULTS.environment_key, TOKEN: token_of(offered), API_KEY: DEFAULTS.api_key}[kind]
    refusal = None
    try:
        await operation(api.client(token), api, session.id)
    except anthropic.APIStatusError as error:
        refusal = error if error.status_code in (401, 403) else None
    assert (refusal is None) == (kind in accepts)
    if refusal is not None:
        assert set(refusal.response.json()) == {"type", "error", "request_id"}


async def test_unknown_credential_is_401(api: Api) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        await api.client("sk-ant-oat01-wrong").beta.environments.work.poll(api.environment_id)


async def test_api_key_is_accepted_as_header_and_as_bearer_token(api: Api) -> None:
    url = f"{api.url}/v1/sessions"
    async with httpx.AsyncClient(trust_env=False) as http:
        for headers in ({"x-api-key": DEFAULTS.api_key}, {"authorization": f"Bearer {DEFAULTS.api_key}"}):
            assert (await http.get(url, headers=headers)).status_code == 200
        environment_key = {"x-api-key": DEFAULTS.environment_key}
        assert (await http.get(url, headers=environment_key)).status_code == 401
        refused = await http.get(
            f"{api.url}/v1/environments/{api.environment_id}/work/poll", headers=environment_key
        )
    assert refused.json()["error"] == {
        "type": "authentication_error",
        "message": "Missing Authorization header",
    }


async def test_session_token_serves_only_its_own_session(api: Api) -> None:
    mine, other = await api.create(), await api.create()
    work = await api.claim()
    assert work.id == mine.id
    client = api.client(token_of(work))
    assert (await client.beta.sessions.retrieve(mine.id)).id == mine.id
    with pytest.raises(anthropic.PermissionDeniedError):
        await client.beta.sessions.retrieve(other.id)
    with pytest.raises(anthropic.PermissionDeniedError):
        await client.beta.environments.work.heartbeat(other.id, environment_id=api.environment_id)


async def test_environment_key_sees_only_its_own_environment(api: Api, simulator: AnthropicSimulator) -> None:
    session = await api.create()
    environment_id, key = await simulator.add_environment()
    foreign = api.client(key)
    with pytest.raises(anthropic.PermissionDeniedError):
        await foreign.beta.environments.work.poll(api.environment_id)
    assert await foreign.beta.environments.work.poll(environment_id) is None
    with pytest.raises(anthropic.NotFoundError):
        await foreign.beta.sessions.retrieve(session.id)
    await simulator.change_settings(events={"foreign_session_status": 403})
    with pytest.raises(anthropic.PermissionDeniedError):
        await foreign.beta.sessions.retrieve(session.id)


async def test_session_token_expires_after_its_lifetime(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(work={"sessions_token_seconds": 0})
    session = await api.create()
    client = api.client(token_of(await api.claim()))
    with pytest.raises(anthropic.AuthenticationError, match="expired"):
        await client.beta.sessions.retrieve(session.id)


async def test_revoked_environment_key_is_refused_and_a_new_one_accepted(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.revoke(DEFAULTS.environment_key)
    with pytest.raises(anthropic.AuthenticationError):
        await api.poll()
    _, key = await simulator.add_environment(api.environment_id)
    assert await api.client(key).beta.environments.work.poll(api.environment_id) is None


async def test_setting_allows_a_session_token_to_acknowledge(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(work={"sessions_token_may_ack": True})
    await api.create()
    offered = await api.poll()
    assert offered is not None
    client = api.client(token_of(offered))
    acked = await client.beta.environments.work.ack(offered.id, environment_id=api.environment_id)
    assert acked.state == "starting"
