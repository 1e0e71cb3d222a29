"""Webhook events that stop to arrive are noticed, without false alarms."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.events import RUN_STARTED
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire
from managed_session_operator.domain.webhook_silence import Hearing, WebhookSilence, new_turn

from .examples import NOW, ago, session

TURNS, SECONDS = 3, 100
LIMITS: dict[str, Any] = {"turns": TURNS, "seconds": SECONDS}
HEARD = Hearing(heard_at=ago(5000))


class Reports:
    """What the metrics are told."""

    def __init__(self) -> None:
        self.silent, self.heard_at, self.counted = False, 0.0, [0, 0]

    def report(self, *, silent: bool, heard_at: float) -> None:
        self.silent, self.heard_at = silent, heard_at

    def count(self, *, announced: bool) -> None:
        self.counted[announced] += 1


def polled(hearing: Hearing, *times: datetime) -> Hearing:
    """What is known after turns that were found by polling at these times."""
    for at in times:
        hearing = hearing.found_by_polling(at, **LIMITS)
    return hearing


def test_enough_turns_over_enough_time_mean_silence_since_the_first_of_them() -> None:
    found = polled(HEARD, ago(150), ago(100), ago(40))
    assert (found.polled, found.silent_since) == (3, ago(150))
    assert polled(found, NOW).silent_since == ago(150), "it goes on"


@pytest.mark.parametrize(
    "times", [(ago(150), ago(40)), (ago(90), ago(50), ago(1)), (ago(3), ago(2), ago(1), NOW)]
)
def test_few_turns_or_many_within_a_short_time_mean_nothing(times: tuple[datetime, ...]) -> None:
    assert polled(HEARD, *times).silent_since is None


def test_one_announced_turn_ends_it_and_begins_anew() -> None:
    silent = polled(HEARD, ago(150), ago(100), ago(40))
    assert silent.announced(ago(30)) == Hearing(heard_at=ago(30))
    assert polled(silent.announced(ago(30)), ago(20), ago(10)).silent_since is None


def test_an_installation_that_never_had_an_event_is_not_silent() -> None:
    assert polled(Hearing(), *(ago(1000 - 10 * number) for number in range(50))).silent_since is None


def test_the_setting_zero_turns_it_off() -> None:
    found = HEARD.found_by_polling(ago(500), turns=0, seconds=0)
    assert found.found_by_polling(NOW, turns=0, seconds=0).silent_since is None


@given(
    st.builds(
        Hearing,
        *(
            st.none() | st.just(ago(9.5)),
            st.integers(0, 99),
            st.none() | st.just(ago(8)),
            st.none() | st.just(ago(7)),
        ),
    )
)
def test_the_lease_keeps_all_of_it(hearing: Hearing) -> None:
    kept = {name: value for name, value in hearing.to_annotations().items() if value is not None}
    assert Hearing.from_annotations(kept) == hearing


def test_annotations_that_somebody_has_broken_count_as_absent() -> None:
    broken = dict.fromkeys(Hearing().to_annotations(), "x")
    assert Hearing.from_annotations(broken) == Hearing()


def resource(event_at: datetime | None = None, **work: Any) -> ManagedSession:
    event = {"id": "whe_1", "type": RUN_STARTED, "createdAt": to_wire(event_at)} if event_at else None
    return session({"work": work, **({"lastEvent": event} if event else {})})


ENDED: dict[str, Any] = {
    "claim": "20261123T165500.000000Z",
    "acknowledgedAt": to_wire(ago(300)),
    "finishedAt": to_wire(ago(200)),
    "exitReason": "Idle",
}


def test_a_claim_of_a_turn_that_goes_on_says_nothing() -> None:
    assert new_turn(resource(**ENDED), "next", NOW) is not None
    assert new_turn(resource(), "next", NOW) is not None, "the first one"
    assert new_turn(resource(claim="c"), "next", NOW) is None, "beside a claim"
    assert new_turn(resource(**{**ENDED, "exitReason": "LeaseLost"}), "next", NOW) is None
    doubtful = session({"work": ENDED, "recovery": {"suspectedAt": to_wire(ago(100))}})
    assert new_turn(doubtful, "next", NOW) is None


def play(silence: WebhookSilence, before: ManagedSession, after: datetime | None) -> None:
    """A turn that is claimed now, and whose resource has an event of this time at its end."""
    silence.claimed(before, "next", NOW)
    silence.ended(resource(after, **{**ENDED, "claim": "next"}))


@pytest.mark.parametrize(
    ("before", "after", "announced"),
    [
        (ago(10), ago(10), True),
        (ago(350), ago(350), False),
        (ago(350), ago(5), True),
        (None, None, False),
        (None, ago(5), True),
    ],
)
def test_a_turn_is_announced_by_an_event_that_is_newer_than_the_turn_before(
    before: datetime | None, after: datetime | None, announced: bool
) -> None:
    reports = Reports()
    silence = WebhookSilence(**LIMITS, reporter=reports)
    play(silence, resource(before, **ENDED), after)
    assert reports.counted == [int(not announced), int(announced)]


def test_people_are_warned_once_when_silence_begins() -> None:
    warnings: list[str] = []
    reports = Reports()
    silence = WebhookSilence(turns=2, seconds=0, reporter=reports, warn=warnings.append)
    for _ in range(4):
        play(silence, resource(ago(350), **ENDED), ago(350))
    assert reports.silent
    assert len(warnings) == 1
    assert "newest 2 turns" in warnings[0]
    assert silence.hearing.in_words().startswith("missing since")
    play(silence, resource(ago(10), **ENDED), ago(10))
    assert not reports.silent
    assert silence.hearing.in_words().startswith("heard at")


def test_the_next_leader_goes_on_and_warns_nobody_again() -> None:
    warnings: list[str] = []
    silence = WebhookSilence(**LIMITS, warn=warnings.append)
    silence.take_over(
        {
            name: value
            for name, value in polled(HEARD, ago(300), ago(9), NOW).to_annotations().items()
            if value
        }
    )
    assert silence.hearing.silent_since == ago(300)
    play(silence, resource(ago(350), **ENDED), ago(350))
    assert warnings == []
    silence.clear()
    assert silence.hearing == Hearing()
    assert silence.hearing.in_words() == "none heard yet"


def test_a_turn_of_which_the_process_has_not_seen_the_claim_says_nothing() -> None:
    reports = Reports()
    silence = WebhookSilence(**LIMITS, reporter=reports)
    silence.ended(resource(**ENDED))
    silence.claimed(resource(**ENDED), "next", NOW)
    silence.ended(resource(**{**ENDED, "claim": "another"}))
    assert reports.counted == [0, 0]


def test_an_event_of_an_earlier_turn_shows_that_there_is_a_webhook() -> None:
    silence = WebhookSilence(**LIMITS)
    play(silence, resource(None, **ENDED), None)
    assert silence.hearing.heard_at is None
    play(silence, resource(ago(350), **ENDED), ago(350))
    assert silence.hearing.heard_at == ago(350)
    assert silence.hearing.polled == 2
