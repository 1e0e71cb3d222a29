"""Whether an operator acts for an installation, from its Deployment and its Lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from managed_session_cli.cluster import Object

_SKEW = timedelta(seconds=30)
"""How far this machine's clock may be from the leader's."""


@dataclass(frozen=True)
class Presence:
    """Whether an operator acts.

    Attributes:
        acts: one leads, or is about to.
        explanation: in words.
    """

    acts: bool
    explanation: str


def presence(deployment: Object | None, lease: Object | None, now: datetime) -> Presence:
    """Whether an operator acts: one holds a fresh Lease, or has pods that are ready to take it."""
    spec = (lease or {}).get("spec", {})
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if holder and renewed:
        age = now - datetime.fromisoformat(renewed).astimezone(UTC)
        if age <= timedelta(seconds=spec.get("leaseDurationSeconds", 15)) + _SKEW:
            return Presence(True, f"{holder} leads")
        lapsed = f"the Lease of {holder} was renewed {age.total_seconds():.0f} s ago for the last time"
    else:
        lapsed = "nobody holds the Lease"
    if deployment is None:
        return Presence(False, f"its Deployment is absent and {lapsed}")
    ready = deployment.get("status", {}).get("readyReplicas", 0)
    if not ready:
        wanted = deployment["spec"].get("replicas", 1)
        return Presence(False, f"none of its {wanted} pods is ready and {lapsed}")
    return Presence(True, f"{ready} pods are ready and {lapsed}")
