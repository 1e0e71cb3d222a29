"""Faults, latencies, settings, the ledger, and the process itself."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import anthropic
import httpx
import pytest
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator, ControlError

from .conftest import Api, until


async def test_status_fault_answers_without_effect_the_given_number_of_times(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await api.create()
    await simulator.add_fault("work.poll", {"status": 503, "headers": {"retry-after": "7"}}, times=2)
    for _ in range(2):
        with pytest.raises(anthropic.APIStatusError) as caught:
            await api.poll()
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
    assert await api.poll() is not None


async def test_status_after_commit_leaves_the_effect(api: Api, simulator: AnthropicSimulator) -> None:
    await api.create()
    work = await api.poll()
    assert work is not None
    await simulator.add_fault("work.ack", {"status": 504, "after_commit": True})
    with pytest.raises(anthropic.InternalServerError):
        await api.worker.beta.environments.work.ack(work.id, environment_id=api.environment_id)
    assert await api.state(work.id) == "starting"


@pytest.mark.parametrize(("action", "state"), [("drop_before", "queued"), ("drop_after_commit", "starting")])
async def test_dropped_connection_before_or_after_the_effect(
    api: Api, simulator: AnthropicSimulator, action: str, state: str
) -> None:
    await api.create()
    work = await api.poll()
    assert work is not None
    await simulator.add_fault("work.ack", {"action": action})
    with pytest.raises(anthropic.APIConnectionError):
        await api.worker.beta.environments.work.ack(work.id, environment_id=api.environment_id)
    assert await api.state(work.id) == state
    assert (await simulator.ledger()).operations["work.ack"] == {"dropped": 1}


async def test_hang_lasts_longer_than_the_clients_timeout(api: Api, simulator: AnthropicSimulator) -> None:
    session = await api.create()
    await simulator.add_fault("sessions.get", {"action": "hang", "seconds": 2})
    with pytest.raises(anthropic.APITimeoutError):
        await api.admin.with_options(timeout=0.2).beta.sessions.retrieve(session.id)
    assert (await api.admin.beta.sessions.retrieve(session.id)).id == session.id


async def test_fault_applies_to_matching_calls_only(api: Api, simulator: AnthropicSimulator) -> None:
    first, second = await api.create(), await api.create()
    await simulator.add_fault("sessions.*", {"status": 429}, match={"session_id": second.id}, times=None)
    await api.admin.beta.sessions.retrieve(first.id)
    with pytest.raises(anthropic.RateLimitError):
        await api.admin.beta.sessions.retrieve(second.id)
    assert [fault["applied"] for fault in await simulator.faults()] == [1]
    await simulator.clear_faults()
    await api.admin.beta.sessions.retrieve(second.id)


async def test_fault_for_an_unknown_operation_is_refused(simulator: AnthropicSimulator) -> None:
    with pytest.raises(ControlError, match=r"work\.poll"):
        await simulator.add_fault("work.pol", {"status": 503})


async def test_latency_model_delays_an_operation(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.change_settings(latencies={"sessions.get": {"mean_ms": 150, "jitter_ms": 10}})
    session = await api.create()
    started = time.monotonic()
    await api.admin.beta.sessions.retrieve(session.id)
    assert time.monotonic() - started >= 0.14


async def test_latency_of_an_unknown_operation_is_refused(simulator: AnthropicSimulator) -> None:
    with pytest.raises(ControlError, match=r"session\.get"):
        await simulator.change_settings(latencies={"session.get": {"mean_ms": 1}})


async def test_invalid_setting_is_refused_by_name(simulator: AnthropicSimulator) -> None:
    with pytest.raises(ControlError, match="lease_seconds"):
        await simulator.change_settings(work={"lease_seconds": 3})
    assert (await simulator.settings())["work"]["lease_ttl_seconds"] == 300


async def test_ledger_names_operation_credential_and_ids_but_no_secret(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create()
    await simulator.clear_ledger()
    work = await api.poll(anthropic_worker_id="worker-1")
    assert work is not None
    ledger = await simulator.ledger()
    (call,) = ledger.calls
    assert (call["operation"], call["status"], call["credential"]) == ("work.poll", 200, "environment_key")
    assert (call["session_id"], call["worker_id"]) == (session.id, "worker-1")
    text = ledger.model_dump_json()
    assert str(work.secret) not in text
    assert "sk-ant" not in text
    assert (await simulator.ledger(calls=False)).calls == []


async def test_unknown_path_is_a_404_of_the_api(api: Api) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{api.url}/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_process_writes_its_ready_file_and_ends_on_sigterm_with_polls_and_streams_open(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready.json"
    command = [
        sys.executable,
        "-m",
        "managed_session_devkit.simulators.anthropic",
        "--ready-file",
        str(ready),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

    async def is_ready() -> bool:
        return ready.exists()

    await until(is_ready)
    listening = json.loads(ready.read_text())
    assert listening["pid"] == process.pid
    api = Api(listening["url"])
    session = await api.create()
    await api.claim()
    async with await api.admin.beta.sessions.events.stream(session.id):
        polling = asyncio.create_task(api.poll(block_ms=999))
        os.kill(process.pid, signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await asyncio.gather(polling, return_exceptions=True)
    await api.close()
    assert list(tmp_path.iterdir()) == []


async def test_invalid_setting_in_a_file_is_refused_by_name(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"enviroment_id": "env_1"}')
    command = [
        sys.executable,
        "-m",
        "managed_session_devkit.simulators.anthropic",
        "--settings",
        str(settings),
    ]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"enviroment_id" in errors
