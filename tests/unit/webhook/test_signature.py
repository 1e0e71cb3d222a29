"""Signatures of the Standard Webhooks library, which Anthropic uses."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from anthropic import Anthropic
from managed_session_runtime.credentials import CredentialDirectory
from managed_session_webhook.signature import BadSignatureError, NoSigningKeyError, SignatureVerifier
from standardwebhooks import Webhook

BODY = b'{"type": "event", "text": "\xc3\xbc"}'
RAW_KEY = bytes(range(0xE0, 0x100))  # its base64 uses both alphabets
KEY = "whsec_" + base64.b64encode(RAW_KEY).decode()
URL_SAFE_KEY = "whsec_" + base64.urlsafe_b64encode(RAW_KEY).decode()
OTHER_KEY = "whsec_" + base64.b64encode(b"another-signing-key-of-32-bytes!").decode()


def verifier(folder: Path, *keys: str) -> SignatureVerifier:
    (folder / "anthropic-webhook-signing-key").write_text("\n".join(keys))
    return SignatureVerifier(CredentialDirectory(folder, {}))


def signed(body: bytes = BODY, key: str = KEY, at: datetime | None = None) -> dict[str, str]:
    moment = at or datetime.now(tz=UTC)
    return {
        "webhook-id": "whe_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign("whe_1", moment, body.decode()),
    }


def test_the_keys_differ_only_in_spelling() -> None:
    assert URL_SAFE_KEY != KEY


@pytest.mark.parametrize("key", [KEY, URL_SAFE_KEY, KEY.removeprefix("whsec_"), URL_SAFE_KEY.rstrip("=")])
def test_a_key_is_accepted_in_either_alphabet_with_or_without_prefix_and_padding(
    tmp_path: Path, key: str
) -> None:
    verifier(tmp_path, key).verify(BODY, signed())


def test_a_signature_that_the_vendors_sdk_accepts_is_accepted(tmp_path: Path) -> None:
    headers = signed()
    Anthropic(api_key="unused").beta.webhooks.unwrap(BODY.decode(), headers=headers, key=KEY)
    verifier(tmp_path, KEY).verify(BODY, headers)


def test_each_of_several_keys_is_tried(tmp_path: Path) -> None:
    both = verifier(tmp_path, OTHER_KEY, KEY)
    both.verify(BODY, signed())
    both.verify(BODY, signed(key=OTHER_KEY))


def test_one_valid_signature_of_several_is_enough(tmp_path: Path) -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1,{base64.b64encode(bytes(32)).decode()} {headers['webhook-signature']}"
    verifier(tmp_path, KEY).verify(BODY, headers)


@pytest.mark.parametrize("body", [b"", BODY + b" ", BODY.replace(b"event", b"evenT"), b"\xff\xfe"])
def test_another_body_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(BadSignatureError):
        verifier(tmp_path, KEY).verify(body, signed())


def test_another_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSignatureError):
        verifier(tmp_path, KEY).verify(BODY, signed(key=OTHER_KEY))


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_signature_more_than_five_minutes_off_is_refused(tmp_path: Path, minutes: int) -> None:
    with pytest.raises(BadSignatureError, match="five minutes"):
        verifier(tmp_path, KEY).verify(BODY, signed(at=datetime.now(tz=UTC) + timedelta(minutes=minutes)))


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_refused_by_name(tmp_path: Path, header: str) -> None:
    headers = signed()
    del headers[header]
    with pytest.raises(BadSignatureError, match=header):
        verifier(tmp_path, KEY).verify(BODY, headers)


@pytest.mark.parametrize(
    "signature", ["v1", "v1,", ",", "v1,a", "v1,!!!", "v1,ü", "a,b,c", "v2,AAAA", "  ", "v1,AAAA v1,A"]
)
def test_a_malformed_signature_is_refused(tmp_path: Path, signature: str) -> None:
    with pytest.raises(BadSignatureError):
        verifier(tmp_path, KEY).verify(BODY, signed() | {"webhook-signature": signature})


@pytest.mark.parametrize("timestamp", ["now", "nan", "inf", "-1", "1e400", "1795643926\x00"])
def test_a_malformed_timestamp_is_refused(tmp_path: Path, timestamp: str) -> None:
    with pytest.raises(BadSignatureError):
        verifier(tmp_path, KEY).verify(BODY, signed() | {"webhook-timestamp": timestamp})


def test_a_missing_key_differs_from_a_bad_signature(tmp_path: Path) -> None:
    with pytest.raises(NoSigningKeyError):
        SignatureVerifier(CredentialDirectory(tmp_path, {})).verify(BODY, signed())


def test_an_unusable_key_is_named_by_its_line_and_the_others_still_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verifier(tmp_path, "whsec_", KEY).verify(BODY, signed())
    assert "line 1 of credential anthropic-webhook-signing-key" in caplog.text
    with pytest.raises(NoSigningKeyError):
        verifier(tmp_path, "whsec_").keys()
