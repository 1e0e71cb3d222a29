"""Which deliveries are events."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api import events
from managed_session_api.resource import EventStatus
from managed_session_webhook.events import (
    InvalidEventError,
    SessionEvent,
    UnrecognizedEventError,
    parse_event,
)

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
def test_an_end_is_recorded_and_starts_no_run(type_: str) -> None:
    event = parse_event(json.dumps(with_data(type=type_)).encode())
    assert event is not None
    assert not event.starts_run


@pytest.mark.parametrize(
    "data", [{"type": "session.updated"}, {"type": "vault.created"}, {"type": "new.kind", "id": 7}]
)
def test_other_and_unknown_types_are_ignored(data: dict[str, Any]) -> None:
    assert parse_event(json.dumps(RUN | {"data": data}).encode()) is None


@pytest.mark.parametrize("body", [b"", b"not json", b"{", b'{"type": "event"', b"\xff\xfe{}", b"[" * 100_000])
def test_a_body_that_is_not_json_is_not_a_delivery(body: bytes) -> None:
    with pytest.raises(InvalidEventError):
        parse_event(body)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "body"),
        (None, "body"),
        ("event", "body"),
        ({}, "type"),
        ({"type": "webhook.test", "id": "whe_1"}, "type"),
        (RUN | {"type": "ping"}, "type"),
        (RUN | {"id": ""}, "id"),
        (RUN | {"created_at": "yesterday"}, "created_at"),
        (RUN | {"created_at": "0001-01-01T00:00:00+23:00"}, "created_at"),
        (RUN | {"created_at": "9999-12-31T23:59:59-23:00"}, "created_at"),
        (RUN | {"created_at": "0900-01-01T00:00:00Z"}, "created_at"),
        (RUN | {"data": "x"}, "data"),
        (with_data(type=7), "data.type"),
        (with_data(id=None), "data.id"),
        (with_data(id=""), "data.id"),
        (with_data(id="../../etc"), "data.id"),
        (with_data(id="s" * 121), "data.id"),
        (with_data(id=["sesn_1"]), "data.id"),
        ([RUN, RUN], "body"),
    ],
)
def test_json_of_unknown_shape_is_reported_with_the_field_and_without_its_value(
    value: object, named: str
) -> None:
    with pytest.raises(UnrecognizedEventError) as raised:
        parse_event(json.dumps(value).encode())
    assert named in str(raised.value)
    assert "etc" not in str(raised.value)


@pytest.mark.parametrize("changes", [{"id": None}, {"id": "i" * 300}, {"created_at": None}])
def test_an_ignored_type_may_have_any_shape(changes: dict[str, Any]) -> None:
    assert parse_event(json.dumps(RUN | {"data": {"type": "vault.created"}} | changes).encode()) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_TIMES = st.datetimes().map(str) | st.sampled_from(
    [RUN["created_at"], 0, -1, 1e300, float("nan"), "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
_DATA = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["session.status_run_started", "session.deleted", "session.new"]) | _JSON,
        "id": st.just("sesn_1") | _JSON,
        "status": _JSON,
    },
)
_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("event") | _JSON,
        "id": st.just("whe_1") | _JSON,
        "created_at": _TIMES | _JSON,
        "data": _DATA | _JSON,
        "version": _JSON,
    },
)


@given(_EVENTS | _JSON)
def test_any_json_is_an_event_ignored_or_unrecognized(value: object) -> None:
    try:
        event = parse_event(json.dumps(value).encode())
    except UnrecognizedEventError:
        return
    if event is not None:
        assert SessionEvent(event.session_id, EventStatus.model_validate(event.event.to_json())) == event
        assert 1970 <= event.event.created_at.year < 9000


@given(st.binary(max_size=64))
def test_any_bytes_are_handled(body: bytes) -> None:
    with contextlib.suppress(InvalidEventError, UnrecognizedEventError):
        assert parse_event(body) is None
