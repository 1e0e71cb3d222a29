"""Keeps work that the queue has offered and that no resource records yet."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import datetime

from managed_session_api.names import resource_name
from pydantic import SecretStr


@dataclass(frozen=True)
class Offer:
    """A session's work item as one poll returned it.

    Attributes:
        work_id: the item's ID. In practice it equals the session's ID.
        session_id: the session to serve.
        environment_id: the environment whose queue offered it.
        offered_at: when this process sent the poll.
        secret: the item's session token, re-wrapped; None if the environment issues none.
    """

    work_id: str
    session_id: str
    environment_id: str
    offered_at: datetime
    secret: SecretStr | None = field(repr=False, default=None)


def rewrap_session_token(secret: str | None) -> SecretStr | None:
    """Keep only the session token of a work item's `secret`.

    The secret is base64url JSON (padding optional) that may contain further tokens. A worker does not use
    them, so the sandbox does not get them. Source: `anthropic.lib.environments`, which reads
    `sessions_token`.

    Returns:
        base64url of `{"sessions_token": …}`, or None if there is no usable token.
    """
    if not secret:
        return None
    try:
        bundle = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
        token = bundle["sessions_token"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    if not isinstance(token, str) or not token:
        return None
    wrapped = json.dumps({"sessions_token": token}, separators=(",", ":")).encode()
    return SecretStr(base64.urlsafe_b64encode(wrapped).decode().rstrip("="))


class OfferInbox:
    """The newest offer of each session. Belongs to one event loop."""

    def __init__(self) -> None:
        self._by_session: dict[str, Offer] = {}
        self._by_resource: dict[str, Offer] = {}
        self._parked: set[str] = set()
        self._since: dict[str, datetime] = {}
        self._left: dict[str, datetime] = {}

    def __len__(self) -> int:
        return len(self._by_session)

    def put(self, offer: Offer) -> None:
        """Keep `offer` in place of an older one of its session."""
        self._parked.discard(offer.session_id)
        self._since.setdefault(offer.session_id, offer.offered_at)
        self._by_session[offer.session_id] = offer
        self._by_resource[resource_name(offer.session_id)] = offer

    def get(self, session_id: str) -> Offer | None:
        """Return the session's offer."""
        return self._by_session.get(session_id)

    def waiting_since(self, session_id: str) -> datetime | None:
        """Return when the session's waiting work was first offered."""
        return self._since.get(session_id)

    def leave(self, offer: Offer, since: datetime) -> None:
        """Leave `offer` to the queue, which makes it again after the reclaim window.

        Args:
            offer: an unacknowledged offer.
            since: since when its work has been waiting. It keeps this time when it is offered again.
        """
        self.remove(offer)
        self._left[resource_name(offer.session_id)] = since

    def left_since(self, session_id: str) -> datetime | None:
        """Return since when the work of an offer has been waiting that was left to the queue before."""
        return self._left.get(resource_name(session_id))

    def forget(self, name: str) -> None:
        """Forget since when the work of the resource called `name` has been waiting. An offer is kept."""
        self._left.pop(name, None)

    def park(self, session_id: str) -> None:
        """Note that the session's offer waits for a message, so that it needs no slot yet."""
        self._parked.add(session_id)

    def resource_names(self) -> list[str]:
        """Return the names of the resources whose offers need a slot now."""
        return [name for name, offer in self._by_resource.items() if offer.session_id not in self._parked]

    def for_resource(self, name: str) -> Offer | None:
        """Return the offer of the session that the resource called `name` would serve."""
        return self._by_resource.get(name)

    def remove(self, offer: Offer) -> None:
        """Forget `offer`, unless a newer one has replaced it."""
        if self._by_session.get(offer.session_id) is offer:
            del self._by_session[offer.session_id]
            del self._by_resource[resource_name(offer.session_id)]
            self._parked.discard(offer.session_id)
            self._since.pop(offer.session_id, None)
            self._left.pop(resource_name(offer.session_id), None)

    def clear(self) -> None:
        """Forget all offers. They were not acknowledged, so the queue offers them again."""
        self._by_session.clear()
        self._by_resource.clear()
        self._parked.clear()
        self._since.clear()
        self._left.clear()
