"""What counts as an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from managed_session_api import events
from managed_session_webhook.events import InvalidEventError, parse_event

RUN = {
    "type": "event",
    "id": "whe_9d5c1f7e",
    "created_at": "2026-03-18T14:05:22Z",
    "data": {
        "type": "session.status_run_started",
        "id": "sesn_01XYZ",
        "organization_id": "8a3d2f1e",
        "workspace_id": "c7b0e4d9",
    },
}


def with_data(**changes: Any) -> dict[str, Any]:
    return RUN | {"data": {"type": "session.status_run_started", "id": "sesn_01XYZ"} | changes}


def test_a_run_has_session_event_and_time() -> None:
    event = parse_event(json.dumps(RUN).encode())
    assert event is not None
    assert event.session_id == "sesn_01XYZ"
    assert event.starts_run
    assert (event.event.id, event.event.type) == ("whe_9d5c1f7e", "session.status_run_started")
    assert event.event.created_at == datetime(2026, 3, 18, 14, 5, 22, tzinfo=UTC)


@pytest.mark.parametrize("type_", sorted(events.END_TYPES))
def test_an_end_is_noted_and_starts_no_run(type_: str) -> None:
    event = parse_event(json.dumps(with_data(type=type_)).encode())
    assert event is not None
    assert not event.starts_run


@pytest.mark.parametrize(
    "data", [{"type": "session.updated"}, {"type": "vault.created"}, {"type": "new.kind", "id": 7}]
)
def test_other_and_unknown_types_are_no_concern(data: dict[str, Any]) -> None:
    assert parse_event(json.dumps(RUN | {"data": data}).encode()) is None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (json.dumps(RUN | {"type": "ping"}).encode(), "type"),
        (json.dumps(RUN | {"id": ""}).encode(), "id"),
        (json.dumps(RUN | {"created_at": "yesterday"}).encode(), "created_at"),
        (json.dumps(RUN | {"data": "x"}).encode(), "data"),
        (json.dumps(with_data(id=None)).encode(), "data.id"),
        (json.dumps(with_data(id="")).encode(), "data.id"),
        (json.dumps(with_data(id="../../etc")).encode(), "data.id"),
        (json.dumps(with_data(id="s" * 121)).encode(), "data.id"),
        (json.dumps(with_data(id=["sesn_1"])).encode(), "data.id"),
        (b"[" * 100_000, "body"),
    ],
)
def test_what_is_no_event_is_refused_naming_the_field_without_its_value(body: bytes, named: str) -> None:
    with pytest.raises(InvalidEventError) as raised:
        parse_event(body)
    assert named in str(raised.value)
    assert "etc" not in str(raised.value)
