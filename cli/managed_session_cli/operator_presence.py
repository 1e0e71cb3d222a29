"""Tells from Deployment and Lease whether an installation has a working operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from managed_session_cli.cluster import Object
from managed_session_cli.wording import counted

_SKEW = timedelta(seconds=30)
"""How far this machine's clock may be from the leader's."""


@dataclass(frozen=True)
class Presence:
    """Whether there is a working operator.

    Attributes:
        leads: one holds a fresh Lease.
        acts: one leads, or has pods that are ready to take the Lease.
        explanation: in words.
    """

    leads: bool
    acts: bool
    explanation: str


def presence(deployment: Object | None, lease: Object | None, now: datetime) -> Presence:
    """Return whether there is a working operator."""
    spec = (lease or {}).get("spec", {})
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if holder and renewed:
        age = now - datetime.fromisoformat(renewed).astimezone(UTC)
        if age <= timedelta(seconds=spec.get("leaseDurationSeconds", 15)) + _SKEW:
            return Presence(True, True, f"{holder} leads")
        lapsed = f"the Lease of {holder} was last renewed {age.total_seconds():.0f} s ago"
    else:
        lapsed = "no operator holds the Lease"
    if deployment is None:
        return Presence(False, False, f"the Deployment does not exist, and {lapsed}")
    ready = deployment.get("status", {}).get("readyReplicas", 0)
    if not ready:
        wanted = deployment["spec"].get("replicas", 1)
        return Presence(False, False, f"0 of {counted(wanted, 'pod')} ready, and {lapsed}")
    return Presence(False, True, f"{counted(ready, 'pod')} ready, but {lapsed}")
