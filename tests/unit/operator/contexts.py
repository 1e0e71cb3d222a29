"""Contexts for steps, in which a test sets only the ports that it needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from managed_session_operator.clients.clock import SystemClock
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.webhook_silence import WebhookSilence
from managed_session_operator.metrics import Metrics
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.session_records import SessionRecords
from managed_session_operator.steps.sharing import Sharing

from .examples import settings
from .in_memory_managed_sandboxes import InMemoryManagedSandboxes


def context(store: object = None, **ports: Any) -> Context:
    """Return a context with these ports. `store` has the resources."""
    clock = ports.pop("clock", SystemClock())
    events = ports.pop("events", SimpleNamespace(record=lambda *_, **__: None))
    known: dict[str, Any] = {
        "settings": settings(),
        "installation_id": "ours",
        "clock": clock,
        "records": SessionRecords(cast("Any", store), ResourceCache(), events, clock),
        "sharing": Sharing(InMemoryManagedSandboxes(), clock),
        "events": events,
        "inbox": OfferInbox(),
        "metrics": Metrics(),
        "silence": WebhookSilence(turns=0, seconds=0),
        "epoch": lambda: 1,
    }
    missing = dict.fromkeys(
        [
            "queue",
            "sessions",
            "api_key",
            "sandboxes",
            "snapshots",
            "cleaning",
            "runs",
            "skills",
            "preparations",
            "values",
            "tokens",
            "capacity",
            "creation",
        ]
    )
    return Context(**{**missing, **known, **ports})
