"""Nothing secret leaves in a support archive: neither in an object, nor in a log, nor in a message."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from managed_session_cli.bundle_objects import harmless, suspicious
from managed_session_cli.redaction import REDACTED, Scrubber, masked

CANARY = "canary-9f8a7b6c"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-abcdefghijklmnop",
        "e2b_0123456789abcdef0123",
        "whsec_c2lnbmluZy1rZXk",
        "ghp_abcdefghijklmnopqrstuvwx",
        "github_pat_11ABCDEFG0abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1234",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_credential_is_removed(secret: str) -> None:
    shown = Scrubber([]).text(f"before {secret} after")
    assert secret not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        f"password={CANARY}",
        f"PASSWORD: {CANARY}",
        f'{{"api_key": "{CANARY}"}}',
        f"Authorization: Bearer {CANARY}",
        f"x-api-key: {CANARY}",
        f"https://user:{CANARY}@proxy.example.com:3128",
        f"MY_SECRET_TOKEN='{CANARY}'",
    ],
)
def test_what_a_name_calls_secret_is_removed(text: str) -> None:
    assert CANARY not in Scrubber([]).text(text)


@pytest.mark.parametrize(
    "text",
    [
        "Claimed work sesn_01Y8LHK5pNQe8Qgb5OiwdXjM from the queue.",
        "The call `create` to E2B failed: 404: template not found",
        "sesn-01qokzg2yaim04mzwidzbmwy-4a9444cc0e Ready=True since 2026-12-01T10:42:04.123456Z",
        f"registry.example.com/team/managed-sessions@sha256:{'0123456789abcdef' * 4}",
        'managed_sessions_sandbox_slots_used{class="gold"} 3.0',
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert Scrubber([]).text(text) == text


def test_known_values_are_removed_however_they_are_written() -> None:
    scrubber = Scrubber([f'{CANARY}"quoted', "two-lines-1\ntwo-lines-2", "short"])
    encoded = base64.b64encode(b"two-lines-1").decode()
    written = f'{CANARY}"quoted {json.dumps(CANARY + chr(34) + "quoted")} two-lines-2 {encoded} short'
    shown = scrubber.text(written)
    for each in (CANARY, "two-lines", encoded):
        assert each not in shown
    assert shown.endswith(" short"), "a value that short would garble words"


def test_records_of_a_log_keep_known_fields_only() -> None:
    known = {"level": "INFO", "message": "step failed", "reason": "X"}
    record = {**known, "extra": CANARY, "nested": {"a": CANARY}}
    shown = Scrubber([]).log(json.dumps(record) + f"\nplain line token={CANARY}")
    first, second = shown.splitlines()
    assert json.loads(first) == {**known, "extra": REDACTED, "nested": REDACTED}
    assert CANARY not in second


def test_only_named_fields_keep_their_text() -> None:
    value = {"a": {"b": "kept", "c": CANARY}, "list": [{"name": "kept", "value": CANARY}], "n": 3, "t": True}
    assert masked(value, [("a", "b"), ("list", "name")]) == {
        "a": {"b": "kept", "c": REDACTED},
        "list": [{"name": "kept", "value": REDACTED}],
        "n": 3,
        "t": True,
    }


METADATA = {
    "name": "n",
    "annotations": {"note": CANARY},
    "labels": {"team": CANARY},
    "managedFields": [CANARY],
}
OBJECTS: list[tuple[str, dict[str, Any]]] = [
    ("Secret", {"type": "Opaque", "data": {"password": base64.b64encode(CANARY.encode()).decode()}}),
    ("ConfigMap", {"data": {"other": CANARY, "MANAGED_SESSIONS_E2B_PLAN": "pro"}}),
    (
        "ManagedSession",
        {
            "spec": {
                "sessionID": "sesn_1",
                "unknown": CANARY,
                "sandbox": {
                    "env": {"A": CANARY},
                    "metadata": {"a": CANARY},
                    "setup": {"script": CANARY, "files": [{"url": CANARY}]},
                    "hooks": {"onCreate": {"command": CANARY}},
                    "trust": {"certificateAuthorities": [{"pem": CANARY}]},
                    "proxy": {"httpProxy": CANARY},
                    "template": "kept:1",
                },
            },
            "status": {
                "effective": {"env": {"A": CANARY}, "template": "kept:1"},
                "work": {"awaitedAnswers": [CANARY], "exitReason": "Idle"},
                "turns": 3,
            },
        },
    ),
    ("ManagedSessionClass", {"spec": {"selector": {"x": CANARY}, "sandbox": {"env": {"A": CANARY}}}}),
    (
        "Deployment",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {
                                "name": "c",
                                "image": "kept",
                                "args": [CANARY],
                                "env": [
                                    {"name": "TOKEN", "value": CANARY},
                                    {"name": "MANAGED_SESSIONS_E2B_PLAN", "value": "pro"},
                                ],
                            }
                        ]
                    }
                }
            }
        },
    ),
    ("Pod", {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": CANARY}]}]}}),
    ("Whatever", {"data": CANARY, "spec": {"x": [CANARY]}}),
]


@pytest.mark.parametrize(("kind", "content"), OBJECTS, ids=[kind for kind, _ in OBJECTS])
def test_no_object_shows_a_canary(kind: str, content: dict[str, Any]) -> None:
    shown = harmless({"metadata": METADATA, **content}, kind)
    assert CANARY not in json.dumps(shown)
    assert base64.b64encode(CANARY.encode()).decode() not in json.dumps(shown)
    assert shown["metadata"]["name"] == "n"


def test_what_is_needed_for_support_stays() -> None:
    objects = dict(OBJECTS)
    session = harmless({"metadata": METADATA, **objects["ManagedSession"]}, "ManagedSession")
    assert session["spec"]["sandbox"]["template"] == "kept:1"
    assert session["status"]["turns"] == 3
    assert session["status"]["work"]["exitReason"] == "Idle"
    secret = harmless({"metadata": METADATA, **objects["Secret"]}, "Secret")
    assert secret["keys"] == ["password"]
    deployment = json.dumps(harmless({"metadata": METADATA, **objects["Deployment"]}, "Deployment"))
    assert '"value": "pro"' in deployment
    assert '"image": "kept"' in deployment


def test_suspicious_values_are_known_to_the_scrubber() -> None:
    for kind, content in OBJECTS:
        if kind in ("ManagedSession", "Deployment", "Pod", "ConfigMap", "ManagedSessionClass"):
            assert CANARY in suspicious({"metadata": METADATA, **content}, kind), kind
