"""Observed behaviour of E2B's own daemon, envd 0.6.13 built from its source."""

import asyncio
import gzip
import json
import struct

import httpx
import pytest
from e2b import E2B, AuthenticationException, CommandExitException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_devkit.simulators.e2b.sandbox import access_token


def _client(control: E2BSimulatorClient, sandbox_id: str, token: str | None = None) -> httpx.AsyncClient:
    headers = {
        "E2b-Sandbox-Id": sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": token or access_token(sandbox_id),
    }
    return httpx.AsyncClient(base_url=control.url, headers=headers)


async def _started(client: httpx.AsyncClient, command: str, *arguments: str) -> list[dict[str, object]]:
    """Return the messages of a Start until its stream ends."""
    body = json.dumps({"process": {"cmd": command, "args": list(arguments)}}).encode()
    framed = struct.pack(">BI", 0, len(body)) + body
    headers = {"Content-Type": "application/connect+json"}
    answer = (await client.post("/process.Process/Start", content=framed, headers=headers)).content
    messages = []
    while answer:
        length = struct.unpack(">I", answer[1:5])[0]
        messages.append(json.loads(answer[5 : 5 + length]))
        answer = answer[5 + length :]
    return messages


async def test_end_of_a_killed_process_is_reported_at_once_even_if_children_hold_its_output(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    up = asyncio.Event()
    command = await sandbox.commands.run(
        "sleep 1000 & echo up; sleep 1000", background=True, timeout=0, on_stdout=lambda _: up.set()
    )
    await asyncio.wait_for(up.wait(), 30)
    await command.kill()
    with pytest.raises(CommandExitException):
        await asyncio.wait_for(command.wait(), 30)


async def test_an_end_event_omits_false_and_zero(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    async with _client(control, sandbox.sandbox_id) as client:
        ended = (await _started(client, "/bin/true"))[1]
        killed = (await _started(client, "/bin/sh", "-c", "kill -9 $$"))[1]
    assert ended == {"event": {"end": {"exited": True, "status": "exit status 0"}}}
    assert killed["event"] == {"end": {"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}}


async def test_a_missing_program_starts_and_ends_with_127(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    async with _client(control, sandbox.sandbox_id) as client:
        start, end, _ = await _started(client, "/no/such/program")
    assert "start" in str(start)
    assert end["event"]["end"]["exitCode"] == 127  # type: ignore[index]


async def test_an_unknown_user_is_refused_by_every_call(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    with pytest.raises(AuthenticationException):
        await sandbox.commands.run("true", user="nobody-of-that-name")
    async with _client(control, sandbox.sandbox_id) as client:
        listed = await client.post("/process.Process/List", json={}, auth=("nobody-of-that-name", ""))
    assert listed.status_code == 401


async def test_a_wrong_token_is_answered_in_plain_json_by_rpcs_too(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    async with _client(control, sandbox.sandbox_id, "wrong") as client:
        for answer in (
            await client.post("/process.Process/List", json={}),
            await client.post("/filesystem.Filesystem/Stat", json={"path": "/"}),
            await client.get("/files", params={"path": "/etc/hosts"}),
        ):
            assert answer.status_code == 401
            assert answer.json()["code"] == 401


@pytest.mark.parametrize("path", ["init", "freeze", "unfreeze", "upgrade", "collapse", "fsfreeze", "fsthaw"])
async def test_paths_for_its_own_machine_are_not_found_from_outside(
    e2b: E2B, control: E2BSimulatorClient, path: str
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    async with _client(control, sandbox.sandbox_id) as client:
        answer = await client.post(f"/{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, 404)
        assert (await client.get("/metrics")).json()["mem_total"] > 0
        assert (await client.get("/envs")).json()["E2B_SANDBOX"] == "true"


async def test_a_part_of_a_file_can_be_read(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/tmp/log", "0123456789")
    async with _client(control, sandbox.sandbox_id) as client:
        part = await client.get("/files", params={"path": "/tmp/log"}, headers={"Range": "bytes=4-6"})
        rest = await client.get("/files", params={"path": "/tmp/log"}, headers={"Range": "bytes=7-"})
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "456", "bytes 4-6/10")
    assert (rest.status_code, rest.text) == (206, "789")


async def test_overwriting_a_file_gives_it_to_the_writer(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/tmp/a", "1", user="user")
    await sandbox.files.write("/tmp/a", "2", user="root")
    assert (await sandbox.commands.run("stat -c %U /tmp/a")).stdout == "root\n"


async def test_invalid_uploads_are_refused(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    octets = {"Content-Type": "application/octet-stream"}
    twice = [("file", ("/tmp/x", b"first")), ("file", ("/tmp/x", b"second"))]
    async with _client(control, sandbox.sandbox_id) as client:
        assert (await client.post("/files", files=twice)).status_code == 400
        assert await sandbox.files.read("/tmp/x") == "first", "what came before the error stays"
        for path in ("/tmp/x/below-a-file", "/proc/no-such"):
            answer = await client.post("/files", params={"path": path}, content=b"1", headers=octets)
            assert answer.status_code == 500, path
        for encoding, content in (("gzip", b"broken"), ("gzip", gzip.compress(b"cut")[:-4]), ("br", b"1")):
            answer = await client.post(
                "/files",
                params={"path": "/tmp/y"},
                content=content,
                headers={**octets, "Content-Encoding": encoding},
            )
            assert answer.status_code == 400, encoding
        answer = await client.post("/files", params={"path": "/tmp/y"}, json={})
        assert answer.status_code == 400


async def test_names_of_an_upload_are_not_percent_decoded(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    async with _client(control, sandbox.sandbox_id) as client:
        await client.post("/files", files=[("file", ('/tmp/a"b', b"1"))])
    assert await sandbox.files.exists("/tmp/a%22b")


async def test_sandbox_that_is_resumed_between_two_pages_is_on_neither(e2b: E2B) -> None:
    first = await e2b.AsyncSandbox.create("base")
    await first.pause()
    second = await e2b.AsyncSandbox.create("base")
    pages = e2b.AsyncSandbox.list(limit=1)
    seen = [info.sandbox_id for info in await pages.next_items()]
    await e2b.AsyncSandbox.connect(first.sandbox_id, timeout=60)
    while pages.has_next:
        seen += [info.sandbox_id for info in await pages.next_items()]
    assert seen == [second.sandbox_id]


async def test_private_ingress_needs_a_secure_sandbox_in_the_first_version(
    control: E2BSimulatorClient,
) -> None:
    body = {"templateID": "base", "network": {"allowPublicTraffic": False}}
    async with httpx.AsyncClient(base_url=control.url, headers={"X-API-Key": "k"}) as client:
        assert (await client.post("/sandboxes", json=body)).status_code == 400
        assert (await client.post("/sandboxes", json={**body, "secure": True})).status_code == 201
        assert (await client.post("/v2/sandboxes", json=body)).status_code == 201
