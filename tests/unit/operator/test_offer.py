"""What an offer keeps of a work item's secret, and which offer of a session counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.names import resource_name
from managed_session_operator.domain.offer import Offer, OfferInbox, rewrap_session_token
from pydantic import SecretStr

from .examples import ENVIRONMENT, NOW, SESSION


def _secret(bundle: Any, *, padded: bool = True) -> str:
    text = base64.urlsafe_b64encode(json.dumps(bundle).encode()).decode()
    return text if padded else text.rstrip("=")


def _unwrapped(secret: SecretStr | None) -> Any:
    assert secret is not None
    text = secret.get_secret_value()
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _offer(session_id: str = SESSION, token: str = "token") -> Offer:
    return Offer(session_id, session_id, ENVIRONMENT, NOW, SecretStr(token))


@given(st.text(min_size=1), st.booleans())
def test_the_session_token_survives_with_and_without_padding(token: str, padded: bool) -> None:
    wrapped = rewrap_session_token(_secret({"sessions_token": token}, padded=padded))
    assert _unwrapped(wrapped) == {"sessions_token": token}


def test_tokens_that_a_worker_does_not_use_are_dropped() -> None:
    bundle = {"sessions_token": "mine", "ingress_token": "not-mine", "source_tokens": {"git": "not-mine"}}
    assert _unwrapped(rewrap_session_token(_secret(bundle))) == {"sessions_token": "mine"}


@pytest.mark.parametrize(
    "secret",
    [
        None,
        "",
        "%%%",
        "a",
        "bm90IGpzb24",
        _secret([]),
        _secret("text"),
        _secret(None),
        _secret({}),
        _secret({"sessions_token": ""}),
        _secret({"sessions_token": None}),
        _secret({"sessions_token": 7}),
        _secret({"sessions_token": ["x"]}),
        base64.urlsafe_b64encode(b"\xff\xfe\x00").decode(),
    ],
)
def test_a_secret_without_a_token_counts_as_none(secret: str | None) -> None:
    assert rewrap_session_token(secret) is None


@given(st.text(max_size=80))
def test_any_secret_can_be_read(secret: str) -> None:
    rewrap_session_token(secret)


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read(data: bytes) -> None:
    rewrap_session_token(base64.urlsafe_b64encode(data).decode())


def test_an_offer_does_not_show_its_token() -> None:
    assert "sk-hidden" not in repr(_offer(token="sk-hidden"))
    assert "sk-hidden" not in f"{_offer(token='sk-hidden')}"


def test_the_newest_offer_of_a_session_replaces_the_older_one() -> None:
    inbox = OfferInbox()
    older, newer = _offer(), _offer()
    inbox.put(older)
    inbox.put(newer)
    assert len(inbox) == 1
    assert inbox.get(SESSION) is newer
    assert inbox.for_resource(resource_name(SESSION)) is newer


def test_removing_an_offer_that_was_replaced_meanwhile_keeps_the_newer_one() -> None:
    inbox = OfferInbox()
    older, newer = _offer(), _offer()
    inbox.put(older)
    inbox.put(newer)
    inbox.remove(older)
    assert inbox.get(SESSION) is newer
    inbox.remove(newer)
    assert inbox.get(SESSION) is None
    assert inbox.for_resource(resource_name(SESSION)) is None
    assert inbox.resource_names() == []


def test_an_offer_may_be_removed_twice() -> None:
    inbox, offer = OfferInbox(), _offer()
    inbox.put(offer)
    inbox.remove(offer)
    inbox.remove(offer)
    assert len(inbox) == 0


def test_sessions_have_separate_offers() -> None:
    inbox = OfferInbox()
    inbox.put(_offer("sesn_a"))
    inbox.put(_offer("sesn_A"))
    assert len(inbox) == 2
    assert sorted(inbox.resource_names()) == sorted([resource_name("sesn_a"), resource_name("sesn_A")])
    inbox.clear()
    assert len(inbox) == 0
    assert inbox.resource_names() == []


def test_an_offer_that_waits_for_a_message_needs_no_slot_and_is_kept() -> None:
    inbox = OfferInbox()
    inbox.put(_offer())
    inbox.park(SESSION)
    assert inbox.resource_names() == []
    assert inbox.get(SESSION) is not None
    inbox.put(_offer())
    assert inbox.resource_names() == [resource_name(SESSION)]


def test_parking_ends_with_the_offer() -> None:
    inbox, offer = OfferInbox(), _offer()
    inbox.put(offer)
    inbox.park(SESSION)
    inbox.remove(offer)
    inbox.put(offer)
    assert inbox.resource_names() == [resource_name(SESSION)]
