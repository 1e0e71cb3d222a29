import asyncio
from uuid import uuid4

import httpx
import pytest
from e2b import E2B, SandboxQuery
from e2b.exceptions import SandboxException, SandboxNotFoundException, ServiceBusyException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient


def new_key() -> str:
    return uuid4().hex


async def created(control: E2BSimulatorClient) -> int:
    return (await control.ledger()).events.get("created", 0)


async def test_same_key_and_body_give_the_same_sandbox(e2b: E2B, control: E2BSimulatorClient) -> None:
    key = new_key()
    first = await e2b.AsyncSandbox.create("base", metadata={"n": "1"}, idempotency_key=key)
    second = await e2b.AsyncSandbox.create("base", metadata={"n": "1"}, idempotency_key=key)
    assert second.sandbox_id == first.sandbox_id
    assert await created(control) == 1


async def test_replay_still_names_a_killed_sandbox(e2b: E2B) -> None:
    key = new_key()
    first = await e2b.AsyncSandbox.create("base", idempotency_key=key)
    await first.kill()
    second = await e2b.AsyncSandbox.create("base", idempotency_key=key)
    assert second.sandbox_id == first.sandbox_id
    with pytest.raises(SandboxNotFoundException):
        await second.get_info()


async def test_errors_are_replayed(e2b: E2B, control: E2BSimulatorClient) -> None:
    key = new_key()
    await control.change_settings(max_concurrent_sandboxes=1)
    blocking = await e2b.AsyncSandbox.create("base")
    for _ in range(2):
        with pytest.raises(SandboxException, match="maximum number"):
            await e2b.AsyncSandbox.create("base", idempotency_key=key, retries=0)
        await blocking.kill()


async def test_other_body_under_the_same_key_is_a_mismatch(e2b: E2B, control: E2BSimulatorClient) -> None:
    key = new_key()
    await e2b.AsyncSandbox.create("base", metadata={"n": "1"}, idempotency_key=key)
    with pytest.raises(SandboxException) as caught:
        await e2b.AsyncSandbox.create("base", metadata={"n": "2"}, idempotency_key=key)
    assert caught.value.status_code == 409
    async with httpx.AsyncClient(base_url=control.url) as client:
        headers = {"X-API-Key": "k", "Idempotency-Key": key}
        answer = await client.post("/v2/sandboxes", json={"templateID": "base"}, headers=headers)
    assert answer.json()["error_code"] == "idempotency_request_mismatch"


async def test_repetition_while_in_flight_is_refused(control: E2BSimulatorClient) -> None:
    headers = {"X-API-Key": "k", "Idempotency-Key": new_key()}
    await control.change_settings(latencies={"create": {"mean_ms": 2000}})
    async with httpx.AsyncClient(base_url=control.url, headers=headers) as client:
        answers = await asyncio.gather(
            *(client.post("/v2/sandboxes", json={"templateID": "base"}) for _ in range(4))
        )
        later = await client.post("/v2/sandboxes", json={"templateID": "base"})
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error_code"] == "idempotency_in_progress"
    assert later.status_code == 201
    assert await created(control) == 1


async def test_unknown_outcome_is_reported(e2b: E2B, control: E2BSimulatorClient) -> None:
    key = new_key()
    await control.add_fault("create", "idempotency_outcome_unknown", match={"idempotencyKey": key})
    statuses = []
    for _ in range(2):
        with pytest.raises(SandboxException) as caught:
            await e2b.AsyncSandbox.create("base", metadata={"of": key}, idempotency_key=key, retries=0)
        statuses.append(caught.value.status_code)
    assert statuses == [504, 422]
    page = await e2b.AsyncSandbox.list(query=SandboxQuery(metadata={"of": key})).next_items()
    assert len(page) == 1


async def test_keys_with_other_characters_are_refused(e2b: E2B) -> None:
    with pytest.raises(SandboxException) as caught:
        await e2b.AsyncSandbox.create("base", idempotency_key="with-hyphen")
    assert caught.value.status_code == 400


async def test_header_is_ignored_if_the_feature_is_off(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(idempotency_enabled=False)
    key = new_key()
    sandboxes = [await e2b.AsyncSandbox.create("base", idempotency_key=key) for _ in range(2)]
    assert len({sandbox.sandbox_id for sandbox in sandboxes}) == 2


async def test_sdk_retry_after_an_ambiguous_504_makes_a_second_sandbox_without_a_key(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    await control.add_fault("create", {"status": 504, "after_commit": True})
    await e2b.AsyncSandbox.create("base")
    assert await created(control) == 2
    await control.add_fault("create", {"status": 504, "after_commit": True})
    await e2b.AsyncSandbox.create("base", idempotency_key=new_key())
    assert await created(control) == 3


async def test_create_that_lost_its_client_is_in_progress_and_then_replayed(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    key = new_key()
    await control.add_fault("create", {"action": "drop_while_in_progress", "seconds": 3})
    with pytest.raises(httpx.HTTPError):
        await e2b.AsyncSandbox.create("base", idempotency_key=key, retries=0)
    with pytest.raises(SandboxException) as caught:
        await e2b.AsyncSandbox.create("base", idempotency_key=key, retries=0)
    assert caught.value.status_code == 409
    assert "in progress" in str(caught.value)
    async with asyncio.timeout(60):
        while True:
            try:
                sandbox = await e2b.AsyncSandbox.create("base", idempotency_key=key, retries=0)
            except SandboxException:
                continue
            break
    assert (await sandbox.get_info()).state == "running"
    assert await created(control) == 1


async def test_injected_error_can_be_recorded_for_its_key(e2b: E2B, control: E2BSimulatorClient) -> None:
    key = new_key()
    await control.add_fault("create", {"status": 503, "recorded": True, "headers": {"Retry-After": "1"}})
    for _ in range(2):
        with pytest.raises(ServiceBusyException):
            await e2b.AsyncSandbox.create("base", idempotency_key=key, retries=0)
    assert await created(control) == 0
    await e2b.AsyncSandbox.create("base", idempotency_key=new_key(), retries=0)
