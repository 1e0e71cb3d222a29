"""Delivery of webhooks to a real receiver. The SDK itself checks the signatures."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from standardwebhooks import WebhookVerificationError

from .conftest import Api, until
from .webhook_receiver import Received, Receiver, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def received(receiver: Receiver, count: int) -> list[Received]:
    async def enough() -> bool:
        return len(receiver.received) >= count

    await until(enough)
    return receiver.received


def types(received: list[Received]) -> list[str]:
    return [json.loads(one.body)["data"]["type"] for one in received]


async def deliveries(simulator: AnthropicSimulator, count: int) -> list[dict[str, Any]]:
    async def recorded() -> list[dict[str, Any]]:
        rows = (await simulator.ledger()).deliveries
        return rows if len(rows) >= count else []

    return await until(recorded)


async def test_turn_is_reported_by_signed_thin_events(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    endpoint = await simulator.add_webhook(receiver.url)
    assert endpoint.secret.startswith("whsec_")
    session = await api.create("Good morning")
    rows = await received(receiver, 2)
    assert sorted(types(rows)) == ["session.status_idled", "session.status_run_started"]
    for row in rows:
        event = api.admin.beta.webhooks.unwrap(row.body, headers=row.headers, key=endpoint.secret)
        assert event.id == row.headers["webhook-id"]
        assert event.id.startswith("whe_")
        payload = json.loads(row.body)
        assert set(payload) == {"type", "id", "created_at", "data"}
        assert set(payload["data"]) == {"type", "id", "organization_id", "workspace_id"}
        assert payload["data"]["id"] == session.id


async def test_signature_fails_for_another_secret_and_for_a_changed_body(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    endpoint = await simulator.add_webhook(receiver.url)
    other = await simulator.add_webhook(receiver.url, events=["none"])
    await simulator.deliver(object_id="sesn_1", endpoint_id=endpoint.id)
    (row,) = await received(receiver, 1)
    unwrap = api.admin.beta.webhooks.unwrap
    with pytest.raises(WebhookVerificationError):
        unwrap(row.body, headers=row.headers, key=other.secret)
    with pytest.raises(WebhookVerificationError):
        unwrap(row.body.replace("sesn_1", "sesn_2"), headers=row.headers, key=endpoint.secret)


async def test_every_secret_of_an_endpoint_signs(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    first = (await simulator.add_webhook("http://127.0.0.1:9/", events=[])).secret
    second = (await simulator.add_webhook("http://127.0.0.1:9/", events=[])).secret
    endpoint = await simulator.add_webhook(receiver.url, secrets=[first, second])
    await simulator.deliver(object_id="sesn_1", endpoint_id=endpoint.id)
    (row,) = await received(receiver, 1)
    for secret in (first, second):
        api.admin.beta.webhooks.unwrap(row.body, headers=row.headers, key=secret)


async def test_stale_timestamp_is_refused_by_the_sdk(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    endpoint = await simulator.add_webhook(receiver.url)
    await simulator.deliver(object_id="sesn_1", timestamp_offset_seconds=-400)
    (row,) = await received(receiver, 1)
    with pytest.raises(WebhookVerificationError, match="too old"):
        api.admin.beta.webhooks.unwrap(row.body, headers=row.headers, key=endpoint.secret)


async def test_delivery_is_tried_three_times_under_the_same_id(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.change_settings(webhooks={"time_scale": 0.001})
    receiver.statuses = [500, 503, 500, 500]
    await simulator.add_webhook(receiver.url)
    event = await simulator.deliver(object_id="sesn_1")
    rows = await deliveries(simulator, 3)
    assert [(row["attempt"], row["status"]) for row in rows] == [(1, 500), (2, 503), (3, 500)]
    assert {row.headers["webhook-id"] for row in receiver.received} == {event["id"]}
    assert len(receiver.received) == 3


async def test_delivery_ends_with_the_first_success(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.change_settings(webhooks={"time_scale": 0.001})
    receiver.statuses = [503]
    await simulator.add_webhook(receiver.url)
    await simulator.deliver(object_id="sesn_1")
    rows = await deliveries(simulator, 2)
    assert [row["status"] for row in rows] == [503, 204]


async def test_slow_receiver_exceeds_the_response_timeout(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.change_settings(
        webhooks={"time_scale": 0.001, "attempts": 2, "response_timeout_seconds": 0.1}
    )
    receiver.answering.clear()
    await simulator.add_webhook(receiver.url)
    await simulator.deliver(object_id="sesn_1")
    assert all(row["outcome"].endswith("Timeout") for row in await deliveries(simulator, 2))


async def test_redirect_disables_the_endpoint_until_someone_enables_it(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    receiver.statuses = [302]
    endpoint = await simulator.add_webhook(receiver.url)
    await simulator.deliver(object_id="sesn_1")
    await deliveries(simulator, 1)
    assert (await simulator.webhooks())[0].disabled == "answered 302"
    await simulator.deliver(object_id="sesn_2")
    assert (await deliveries(simulator, 2))[-1]["outcome"] == "endpoint_disabled"
    await simulator.change_webhook(endpoint.id, enabled=True)
    await simulator.deliver(object_id="sesn_3")
    assert (await deliveries(simulator, 3))[-1]["status"] == 204
    assert len(receiver.received) == 2


async def test_endpoint_gets_only_the_types_it_has_subscribed_to(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.add_webhook(receiver.url, events=["session.deleted", "session.status_terminated"])
    session = await api.create("Good morning")
    await api.answer(session.id)
    await api.admin.beta.sessions.archive(session.id)
    await api.admin.beta.sessions.delete(session.id)
    assert sorted(types(await received(receiver, 2))) == ["session.deleted", "session.status_terminated"]


async def test_setting_sends_undocumented_types(
    api: Api, simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.change_settings(webhooks={"undocumented_events": True})
    await simulator.add_webhook(receiver.url, events=["*"])
    await api.create("Run: echo x")
    wanted = {"session.created", "session.running", "session.requires_action"}

    async def all_there() -> bool:
        return wanted <= set(types(receiver.received))

    await until(all_there)


async def test_held_deliveries_are_released_in_reverse_order(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.add_webhook(receiver.url)
    await simulator.hold_webhooks()
    for number in range(3):
        await simulator.deliver(object_id=f"sesn_{number}")
    assert receiver.received == []
    assert await simulator.release_webhooks("lifo") == 3
    rows = sorted(await deliveries(simulator, 3), key=lambda row: row["at"])
    assert [row["object_id"] for row in rows] == ["sesn_2", "sesn_1", "sesn_0"]


async def test_any_event_can_be_delivered_in_several_copies(
    simulator: AnthropicSimulator, receiver: Receiver
) -> None:
    await simulator.add_webhook(receiver.url, events=[])
    event = {
        "type": "event",
        "id": "event_01",
        "created_at": "2026-01-01T00:00:00Z",
        "data": {"type": "new.kind"},
    }
    await simulator.deliver(event=event, copies=2)
    rows = await received(receiver, 2)
    assert [json.loads(row.body) for row in rows] == [event, event]


async def test_faults_drop_and_repeat_deliveries(simulator: AnthropicSimulator, receiver: Receiver) -> None:
    await simulator.add_webhook(receiver.url)
    await simulator.add_fault("webhook.deliver", {"action": "drop"}, match={"object_id": "sesn_lost"})
    await simulator.add_fault("webhook.deliver", {"action": "duplicate"}, match={"object_id": "sesn_twice"})
    await simulator.deliver(object_id="sesn_lost")
    event = await simulator.deliver(object_id="sesn_twice")
    rows = await received(receiver, 2)
    assert [row.headers["webhook-id"] for row in rows] == [event["id"], event["id"]]
    outcomes = [row["outcome"] for row in await deliveries(simulator, 3)]
    assert sorted(outcomes) == ["answered", "answered", "dropped_by_fault"]


async def test_removed_endpoint_gets_nothing(simulator: AnthropicSimulator, receiver: Receiver) -> None:
    endpoint = await simulator.add_webhook(receiver.url)
    await simulator.remove_webhook(endpoint.id)
    await simulator.deliver(object_id="sesn_1")
    assert await simulator.webhooks() == []
    assert (await simulator.ledger()).deliveries == []
