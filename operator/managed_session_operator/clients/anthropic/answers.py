"""Converts Anthropic's JSON to values. What is missing or odd in one of them hides nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.times import as_utc

from managed_session_operator.clients.anthropic.requests import field
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.session import SessionView, SkillReference
from managed_session_operator.domain.usage import read_usage
from managed_session_operator.domain.work_item import WorkItem

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = frozenset({"processed_at", "created_at"})


def _time(text: Any) -> datetime | None:
    """Parse a time; None if that fails."""
    try:
        return as_utc(datetime.fromisoformat(text.upper())) if text else None
    except (ValueError, AttributeError, OverflowError):
        return None


def work_item(item: Any) -> WorkItem:
    """Convert an item of the work list. Missing fields count as not yet happened."""
    data = field(item, "data")
    session_id = field(data, "id") if field(data, "type") == "session" else None
    return WorkItem(
        work_id=str(field(item, "id") or ""),
        session_id=session_id if isinstance(session_id, str) else None,
        state=str(field(item, "state") or ""),
        created_at=_time(field(item, "created_at")) or _LONG_AGO,
        acknowledged_at=_time(field(item, "acknowledged_at")),
        latest_heartbeat_at=_time(field(item, "latest_heartbeat_at")),
    )


def session_view(session: Any) -> SessionView:
    """Convert a session.

    Raises:
        OperationError: the answer is no session.
    """
    session_id, environment_id = field(session, "id"), field(session, "environment_id")
    if not isinstance(session_id, str) or not isinstance(environment_id, str):
        raise OperationError(
            ErrorKind.TRANSIENT,
            Reason.ENVIRONMENT_UNREACHABLE,
            "Anthropic answered session with something else than a session",
        )
    agent = field(session, "agent")
    skills, metadata = field(agent, "skills"), field(session, "metadata")
    agent_id = field(agent, "id")
    return SessionView(
        session_id=session_id,
        environment_id=environment_id,
        agent_id=agent_id if isinstance(agent_id, str) else None,
        status=str(field(session, "status") or ""),
        archived=field(session, "archived_at") is not None,
        skills=tuple(
            SkillReference(str(field(each, "skill_id")), str(field(each, "version")))
            for each in (skills if isinstance(skills, list) else ())
            if field(each, "skill_id") and field(each, "version")
        ),
        agent_name=str(field(agent, "name") or ""),
        metadata={
            name: value
            for name, value in (metadata.items() if isinstance(metadata, dict) else ())
            if isinstance(value, str)
        },
        usage=read_usage(event_of(session)),
    )


def event_of(value: Any, name: str = "") -> Any:
    """Convert an event: its objects have their fields as attributes, and its times are times."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: event_of(each, key) for key, each in value.items()})
    if isinstance(value, list):
        return [event_of(each) for each in value]
    return _time(value) if name in _TIMES and isinstance(value, str) else value
