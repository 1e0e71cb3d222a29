"""Settings for messages that arrive while an item is being stopped, and for old tokens."""

from typing import Any

import anthropic
import pytest
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api, token_of


def result(tool_use_id: str) -> Any:
    content = [{"type": "text", "text": "done"}]
    return [{"type": "user.tool_result", "tool_use_id": tool_use_id, "content": content}]


@pytest.mark.parametrize("queued_again", [False, True])
async def test_message_before_the_stop_is_queued_again_if_the_setting_says_so(
    api: Api, simulator: AnthropicSimulator, queued_again: bool
) -> None:
    await simulator.change_settings(work={"requeue_unanswered_on_stop": queued_again})
    session = await api.create()
    work = await api.claim()
    await api.beat(work)
    await api.say(session.id, "Run: echo x")
    await api.stop(work.id, force=True)
    assert await api.state(work.id) == ("queued" if queued_again else "stopped")


async def test_results_are_accepted_without_a_lease_unless_the_setting_forbids_it(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create("Run: echo x")
    work = await api.claim()
    await api.beat(work)
    call = await api.tool_use(session.id)
    await api.stop(work.id, force=True)
    events = api.client(token_of(work)).beta.sessions.events
    await simulator.change_settings(events={"results_without_lease": "reject"})
    with pytest.raises(anthropic.PermissionDeniedError):
        await events.send(session.id, events=result(call))
    await simulator.change_settings(events={"results_without_lease": "accept"})
    await events.send(session.id, events=result(call))
    counts = (await simulator.session(session.id)).counts
    assert (counts["results"], counts["results_without_lease"]) == (1, 2)


async def test_only_the_newest_offers_token_is_accepted_if_the_setting_says_so(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(work={"only_newest_token": True})
    await api.create("Run: echo x")
    first = await api.poll()
    second = await api.poll(reclaim_older_than_ms=0)
    assert first is not None
    assert second is not None
    await api.worker.beta.environments.work.ack(second.id, environment_id=api.environment_id)
    with pytest.raises(anthropic.AuthenticationError):
        await api.beat(first)
    assert (await api.beat(second)).state == "active"
