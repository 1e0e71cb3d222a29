"""Tells from the operator's Lease whether webhook events arrive. Pure."""

from __future__ import annotations

from managed_session_api import names
from managed_session_api.conditions import Reason

from managed_session_cli.cluster import Object
from managed_session_cli.diagnosis import Check, CheckResult
from managed_session_cli.sessions import remedy

_NAME = "webhook events"


def webhook_events(lease: Object | None, *, webhook_wanted: bool = True) -> list[Check]:
    """Check that webhook events have not stopped to arrive; no check without an operator's Lease.

    Args:
        lease: the operator's Lease, on which the leader notes what it has heard.
        webhook_wanted: whether the webhook is supposed to run.
    """
    if lease is None or not webhook_wanted:
        return []
    noted = (lease.get("metadata") or {}).get("annotations") or {}
    heard, silent = noted.get(names.ANNOTATION_WEBHOOK_HEARD), noted.get(names.ANNOTATION_WEBHOOK_SILENT)
    polled = noted.get(names.ANNOTATION_POLLED_TURNS, "0")
    if silent is not None:
        last = f"; the last event that announced a turn came at {heard}" if heard is not None else ""
        text = f"missing since {silent}: polling has found the newest {polled} turns{last}"
        return [Check(_NAME, CheckResult.FAILED, text, remedy(Reason.WEBHOOK_SILENT))]
    if heard is None:
        text = "none seen yet: turns are found by polling"
        return [Check(_NAME, CheckResult.OK, text)]
    return [Check(_NAME, CheckResult.OK, f"the last one that announced a turn came at {heard}")]
