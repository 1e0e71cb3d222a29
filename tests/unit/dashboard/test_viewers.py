"""How sign-ins end, and how failed ones are limited."""

from __future__ import annotations

import base64
import json

import pytest
from managed_session_dashboard.access import AccessUnknownError, Identity, expiry_of
from managed_session_dashboard.viewers import FailedSignIns, Viewers
from pydantic import SecretStr

NOW = 1_000_000.0


class Answers:
    """What the API server says of every right."""

    def __init__(self) -> None:
        self.allowed: bool | None = True
        self.asked = 0

    async def still_allowed(self, _: Identity) -> bool:
        self.asked += 1
        if self.allowed is None:
            raise AccessUnknownError("down")
        return self.allowed


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Viewers, Answers, Clock]:
    answers, clock = Answers(), Clock()
    return Viewers(answers, seconds=100, recheck_seconds=10, clock=clock), answers, clock


async def test_sign_in_ends_after_its_time() -> None:
    viewers, _, clock = make()
    cookie, seconds = viewers.add(Identity())
    assert seconds == 100
    clock.now += 99
    assert await viewers.find(cookie)
    clock.now += 1
    assert await viewers.find(cookie) is None
    clock.now -= 50
    assert await viewers.find(cookie) is None, "it does not come back"


async def test_sign_in_ends_with_its_token() -> None:
    viewers, _, clock = make()
    cookie, seconds = viewers.add(Identity(expires_at=NOW + 20))
    assert seconds == 20
    clock.now += 20
    assert await viewers.find(cookie) is None


async def test_right_is_asked_again_from_time_to_time_and_its_loss_is_final() -> None:
    viewers, answers, clock = make()
    cookie, _ = viewers.add(Identity())
    clock.now += 9
    assert await viewers.find(cookie)
    assert answers.asked == 0
    clock.now += 1
    assert await viewers.find(cookie)
    assert await viewers.find(cookie)
    assert answers.asked == 1
    answers.allowed = False
    clock.now += 10
    assert await viewers.find(cookie) is None
    answers.allowed = True
    clock.now += 10
    assert await viewers.find(cookie) is None


async def test_silent_api_server_does_not_end_a_sign_in() -> None:
    viewers, answers, clock = make()
    cookie, _ = viewers.add(Identity())
    answers.allowed = None
    clock.now += 10
    assert await viewers.find(cookie)


async def test_cookies_are_different_and_others_are_nobodys() -> None:
    viewers, _, _ = make()
    first, second = (viewers.add(Identity())[0] for _ in range(2))
    assert first != second
    viewers.remove(first)
    assert await viewers.find(first) is None
    assert await viewers.find(second)
    assert await viewers.find("") is None


async def test_failed_sign_ins_of_one_address_do_not_hinder_another() -> None:
    failed = FailedSignIns(2)
    for _ in range(3):
        await failed.note("10.0.0.1")
    assert not failed.may_try("10.0.0.1")
    assert failed.may_try("10.0.0.2")


def web_token(claims: object) -> SecretStr:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return SecretStr(f"e30.{payload}.signature")


@pytest.mark.parametrize(
    ("token", "expiry"),
    [
        (web_token({"exp": 1234}), 1234.0),
        (web_token({}), None),
        (web_token([]), None),
        (SecretStr("a.!!!.c"), None),
        (SecretStr("opaque"), None),
    ],
)
def test_expiry_of_a_token(token: SecretStr, expiry: float | None) -> None:
    assert expiry_of(token) == expiry
