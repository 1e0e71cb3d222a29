"""The webhook's answers, also when the API server fails."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from managed_session_api import names
from managed_session_webhook.metrics import Outcome
from managed_session_webhook.rejections import RejectionLog
from standardwebhooks import Webhook

if TYPE_CHECKING:
    from .conftest import Answer, Harness

KEY = "whsec_" + base64.b64encode(b"webhook-signing-key-of-32-bytes!").decode()
SESSION = "sesn_01AbCdEf"
NAME = names.resource_name(SESSION)


def run_event(**changes: Any) -> dict[str, Any]:
    data = {"type": "session.status_run_started", "id": SESSION} | changes
    return {"type": "event", "id": "whe_1", "created_at": "2026-03-18T14:05:22Z", "data": data}


@pytest.fixture(autouse=True)
def signing_key(webhook: Harness) -> None:
    (webhook.credentials / "anthropic-webhook-signing-key").write_text(KEY)


async def send(webhook: Harness, body: object, path: str = "/webhook") -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    now = datetime.now(tz=UTC)
    headers = {
        "webhook-id": "whe_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(KEY).sign("whe_1", now, content),
    }
    return await webhook.client.post(path, content=content, headers=headers)


def status_of(code: int, message: str = "", **details: str) -> Answer:
    return code, {"kind": "Status", "code": code, "message": message, "details": details}


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_an_unavailable_api_server_delays_the_delivery(webhook: Harness, code: int) -> None:
    async def refuse(_: str, __: str) -> Answer:
        return code, b"<html>not JSON</html>"

    webhook.api_server.answer = refuse
    answer = await send(webhook, run_event())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_a_hanging_api_server_delays_the_delivery(webhook: Harness) -> None:
    answer = await send(webhook, run_event())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        (status_of(401, "Unauthorized"), "token is not valid"),
        (status_of(403, "forbidden"), "Role and RoleBinding of managed-session-webhook"),
        ((404, b"404 page not found"), "CustomResourceDefinition"),
        (
            status_of(404, 'namespaces "x" not found', name="x", kind="namespaces"),
            "MANAGED_SESSIONS_NAMESPACE",
        ),
        (status_of(422, "spec.sessionID: Invalid"), "does not fit"),
    ],
)
async def test_a_misconfiguration_delays_the_delivery_and_is_named_only_in_the_log(
    webhook: Harness, caplog: pytest.LogCaptureFixture, refusal: Answer, advice: str
) -> None:
    async def refuse(_: str, __: str) -> Answer:
        return refusal

    webhook.api_server.answer = refuse
    answer = await send(webhook, run_event())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert advice in caplog.text
    assert advice not in answer.text


async def test_a_constantly_changing_resource_is_given_up_after_a_few_writes(
    webhook: Harness,
) -> None:
    resource = {"metadata": {"name": NAME, "resourceVersion": "1"}, "spec": {"sessionID": SESSION}}

    async def overtake(method: str, _: str) -> Answer:
        return {"POST": (201, resource), "GET": (200, resource)}.get(method, status_of(409, "conflict"))

    webhook.api_server.answer = overtake
    assert (await send(webhook, run_event())).status_code == 503
    assert [method for method, _ in webhook.api_server.requests].count("PATCH") <= 10


@pytest.mark.parametrize(
    "type_", ["session.updated", "session.status_idled", "agent.created", "never.seen.before"]
)
async def test_other_event_types_are_accepted_without_a_call(webhook: Harness, type_: str) -> None:
    answer = await send(webhook, run_event(type=type_))
    assert (answer.status_code, answer.content) == (204, b"")
    assert webhook.api_server.requests == []


@pytest.mark.parametrize("body", ["", "text", '{"type": "event"'])
async def test_a_signed_body_that_is_not_json_is_explained(webhook: Harness, body: str) -> None:
    answer = await send(webhook, body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("not an event: ")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], "body"),
        ({}, "type"),
        ({"type": "webhook.test", "id": "whe_1"}, "type"),
        (run_event(id="not/an/id"), "data.id"),
        (run_event() | {"created_at": "0001-01-01T00:00:00+23:00"}, "created_at"),
    ],
)
async def test_a_signed_delivery_of_unknown_shape_is_accepted_counted_and_logged(
    webhook: Harness, caplog: pytest.LogCaptureFixture, body: object, problem: str
) -> None:
    before = webhook.counted(Outcome.UNRECOGNIZED)
    answer = await send(webhook, body)
    assert (answer.status_code, answer.content) == (204, b"")
    assert webhook.counted(Outcome.UNRECOGNIZED) == before + 1
    assert webhook.api_server.requests == []
    [line] = [each for each in caplog.records if "unrecognized" in each.message]
    assert (line.levelname, problem in line.message) == ("WARNING", True)


async def test_an_unsigned_request_learns_nothing(webhook: Harness) -> None:
    answer = await webhook.client.post("/webhook", json=run_event())
    assert (answer.status_code, answer.json()) == (401, {"error": "the signature is missing or invalid"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_answered_with_the_allowed_one(webhook: Harness, method: str) -> None:
    answer = await webhook.client.request(method, "/webhook")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/health"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_health_checks_of_load_balancers_get_200_without_a_call(
    webhook: Harness, method: str, path: str
) -> None:
    answer = await webhook.client.request(method, path)
    assert answer.status_code == 200
    assert webhook.api_server.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_the_root_is_only_for_health_checks(webhook: Harness, method: str) -> None:
    assert (await webhook.client.request(method, "/")).status_code == 405


async def test_a_trailing_slash_is_accepted(webhook: Harness) -> None:
    answer = await send(webhook, run_event(type="session.updated"), path="/webhook/")
    assert answer.status_code == 204
    assert (await webhook.client.post("/webhook/", json=run_event())).status_code == 401


@pytest.mark.parametrize("path", ["/webhook//", "/webhook/x", "/health/", "/metrics", "/docs"])
async def test_other_paths_are_not_found_and_never_redirected(webhook: Harness, path: str) -> None:
    assert (await webhook.client.post(path, content="{}")).status_code == 404


async def test_without_a_signing_key_deliveries_wait_and_health_says_so(webhook: Harness) -> None:
    (webhook.credentials / "anthropic-webhook-signing-key").unlink()
    answer = await send(webhook, run_event())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    health = await webhook.client.get("/health")
    assert (health.status_code, health.json()["ok"], health.json()["signingKey"]) == (200, True, False)


async def test_an_unreadable_signing_key_is_named_only_in_the_log(
    webhook: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    (webhook.credentials / "anthropic-webhook-signing-key").write_bytes(b"\xff\xfe")
    answer = await send(webhook, run_event())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert str(webhook.credentials) in caplog.text
    assert str(webhook.credentials) not in answer.text


def test_many_refusals_are_counted_instead_of_logged(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = RejectionLog(lines=3, period_seconds=10, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            log.log(Outcome.BAD_SIGNATURE, "missing header", {})
        assert len(caplog.records) == 3
        now[0] = 11.0
        log.log(Outcome.BAD_SIGNATURE, "missing header", {})
    assert "47 more requests refused as bad_signature" in caplog.text
