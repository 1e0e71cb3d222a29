"""Fixtures: a real simulator process and real SDK clients."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from anthropic import AsyncAnthropic
from anthropic.lib.environments import EnvironmentWorker
from anthropic.types.beta import BetaManagedAgentsSession
from anthropic.types.beta.environments import BetaSelfHostedWork
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings

from ....support.simulator_process import RunningSimulator, simulator_process
from ....support.waiting import eventually

DEFAULTS = Settings()
T = TypeVar("T")


async def until(probe: Callable[[], Awaitable[T | None]], within: float = 60) -> T:
    """Wait until the probe returns a true value, and return it."""
    return await eventually("the condition", probe, seconds=within)


def token_of(work: BetaSelfHostedWork) -> str:
    """Return the session token in a work item's secret, as the SDK's worker reads it."""
    assert work.secret is not None
    padded = work.secret + "=" * (-len(work.secret) % 4)
    return str(json.loads(base64.urlsafe_b64decode(padded))["sessions_token"])


class Api:
    """The SDK's clients of one simulator, one for each kind of credential."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment_id = DEFAULTS.environment_id
        self.agent_id = DEFAULTS.agent_id
        self._base = AsyncAnthropic(base_url=url, auth_token=None, api_key=None, max_retries=0, timeout=30)
        self.admin = self.client(DEFAULTS.api_key)
        self.worker = self.client(DEFAULTS.environment_key)

    def client(self, token: str | None) -> AsyncAnthropic:
        """Return a client with this bearer token, or without a credential. All share their connections."""
        return self._base if token is None else self._base.copy(auth_token=token)

    async def close(self) -> None:
        await self._base.close()

    async def create(self, message: str | None = None, **fields: Any) -> BetaManagedAgentsSession:
        session = await self.admin.beta.sessions.create(
            agent=self.agent_id, environment_id=self.environment_id, **fields
        )
        if message is not None:
            await self.say(session.id, message)
        return session

    async def say(self, session_id: str, text: str) -> None:
        content = [{"type": "text", "text": text}]
        events: Any = [{"type": "user.message", "content": content}]
        await self.admin.beta.sessions.events.send(session_id, events=events)

    async def interrupt(self, session_id: str) -> None:
        await self.admin.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])

    async def poll(self, **options: Any) -> BetaSelfHostedWork | None:
        work = await self.worker.beta.environments.work.poll(self.environment_id, **options)
        return work or None

    async def offered(self, **options: Any) -> BetaSelfHostedWork:
        """Poll until an item is offered."""

        async def next_item() -> BetaSelfHostedWork | None:
            return await self.poll(**options)

        work = await until(next_item)
        assert work is not None
        return work

    async def claim(self) -> BetaSelfHostedWork:
        """Poll an item, acknowledge it, and return it as polled, with its secret."""
        work = await self.poll(block_ms=999)
        assert work is not None
        await self.worker.beta.environments.work.ack(work.id, environment_id=self.environment_id)
        return work

    async def beat(self, work: BetaSelfHostedWork, expected: str = "NO_HEARTBEAT", **options: Any) -> Any:
        return await self.client(token_of(work)).beta.environments.work.heartbeat(
            work.id, environment_id=self.environment_id, expected_last_heartbeat=expected, **options
        )

    async def stop(self, work_id: str, **options: Any) -> BetaSelfHostedWork:
        return await self.worker.beta.environments.work.stop(
            work_id, environment_id=self.environment_id, **options
        )

    async def state(self, work_id: str) -> str:
        return (await self.item(work_id)).state

    async def item(self, work_id: str) -> BetaSelfHostedWork:
        return await self.admin.beta.environments.work.retrieve(work_id, environment_id=self.environment_id)

    async def events(self, session_id: str, **options: Any) -> list[Any]:
        return [event async for event in self.admin.beta.sessions.events.list(session_id, **options)]

    async def answer(self, session_id: str, within: float = 60) -> str:
        """Wait for the end of the newest turn, and return the agent's last message."""

        async def ended() -> str:
            events = await self.events(session_id)
            ends = [e for e in events if e.type == "session.status_idle" and e.stop_reason.type == "end_turn"]
            messages = [e for e in events if e.type == "user.message"]
            answers = [e for e in events if e.type == "agent.message"]
            return str(answers[-1].content[0].text) if answers and len(ends) >= len(messages) else ""

        return await until(ended, within)

    async def tool_use(self, session_id: str) -> str:
        """Wait for the newest unanswered tool call, and return its ID."""

        async def open_call() -> str:
            events = await self.events(session_id)
            if events[-1].type == "session.status_idle" and events[-1].stop_reason.type == "requires_action":
                return str(events[-1].stop_reason.event_ids[-1])
            return ""

        return await until(open_call)


async def serve(api: Api, work: Any, workdir: Path, max_idle: float = 0.1) -> None:
    """Serve a claimed item with Anthropic's own worker and only the work secret."""
    worker = EnvironmentWorker(api.client(None), workdir=workdir, max_idle=max_idle)
    await worker.handle_item(
        work_id=work.id,
        environment_id=work.environment_id,
        session_id=work.data.id,
        work_secret=work.secret,
    )


@pytest.fixture(scope="session")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningSimulator]:
    with simulator_process("anthropic", tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture(scope="session")
async def control(process: RunningSimulator) -> AsyncIterator[AnthropicSimulator]:
    async with AnthropicSimulator(process.url) as control:
        yield control


@pytest.fixture
async def simulator(control: AnthropicSimulator) -> AnthropicSimulator:
    await control.reset()
    return control


@pytest.fixture
async def api(simulator: AnthropicSimulator) -> AsyncIterator[Api]:
    api = Api(simulator.url)
    try:
        yield api
    finally:
        await api.close()
