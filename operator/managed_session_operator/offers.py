"""Work offered by the queue and not yet written into a resource."""

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
    """One answer of the queue's poll that carried a session's work.

    Attributes:
        work_id: the item's ID (in practice the session's).
        session_id: whose work it is.
        environment_id: the environment whose queue offered it.
        offered_at: when this process asked for it.
        secret: the item's own session token, re-wrapped; None where the environment issues none.
    """

    work_id: str
    session_id: str
    environment_id: str
    offered_at: datetime
    secret: SecretStr | None = field(repr=False, default=None)


def rewrap_session_token(secret: str | None) -> SecretStr | None:
    """Keep only the session token of a work item's `secret`.

    The secret is base64url JSON (padding optional) that may bundle further tokens which a worker does not
    use; a sandbox gets no more than it needs. Source: `anthropic.lib.environments`, which reads
    `sessions_token` from it.

    Returns:
        base64url of `{"sessions_token": …}`, or None when there is no usable token.
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
    """The newest offer of each session; a newer one replaces an older one. Lives on one event loop."""

    def __init__(self) -> None:
        self._by_session: dict[str, Offer] = {}
        self._by_resource: dict[str, Offer] = {}
        self._parked: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_session)

    def put(self, offer: Offer) -> None:
        """Keep `offer` as its session's newest."""
        self._parked.discard(offer.session_id)
        self._by_session[offer.session_id] = offer
        self._by_resource[resource_name(offer.session_id)] = offer

    def get(self, session_id: str) -> Offer | None:
        """The session's waiting offer."""
        return self._by_session.get(session_id)

    def park(self, session_id: str) -> None:
        """The session's offer waits for a message: it asks for no place until then."""
        self._parked.add(session_id)

    def resource_names(self) -> list[str]:
        """The names of the resources that offers want to be served in now."""
        return [name for name, offer in self._by_resource.items() if offer.session_id not in self._parked]

    def for_resource(self, name: str) -> Offer | None:
        """The waiting offer of the session that the resource called `name` would serve."""
        return self._by_resource.get(name)

    def remove(self, offer: Offer) -> None:
        """Forget `offer`, unless a newer one has replaced it."""
        if self._by_session.get(offer.session_id) is offer:
            del self._by_session[offer.session_id]
            del self._by_resource[resource_name(offer.session_id)]
            self._parked.discard(offer.session_id)

    def clear(self) -> None:
        """Forget all: they were never acknowledged, so the queue offers them again."""
        self._by_session.clear()
        self._by_resource.clear()
        self._parked.clear()
