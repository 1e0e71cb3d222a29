"""The plan of a soak: the same seed gives the same plan, and its tasks can be checked."""

from __future__ import annotations

import json
from itertools import islice

from ...soak.chaos import FAULTS, WEIGHTS
from ...soak.plan import (
    Kind,
    Message,
    PlannedFault,
    ends_itself,
    has_api_key,
    is_prepared,
    planned_faults,
    turns,
)
from ...soak.run import Options, too_few_left


def _first(seed: int, loop: int, count: int) -> list[PlannedFault]:
    return list(islice(planned_faults(seed, loop, WEIGHTS, wait=1, hold=1), count))


def test_same_seed_gives_the_same_sessions_and_another_seed_gives_others() -> None:
    assert turns(7, 3, 10) == turns(7, 3, 10)
    assert turns(7, 3, 10) != turns(8, 3, 10)
    assert turns(7, 3, 10) != turns(7, 4, 10)
    assert turns(7, 3, 5) == turns(7, 3, 10)[:5]


def test_same_seed_gives_the_same_faults_with_the_same_choices() -> None:
    first, second = _first(7, 1, 50), _first(7, 1, 50)
    assert first == second
    assert [each.random.random() for each in first] == [each.random.random() for each in second]
    assert first != _first(7, 2, 50)


def test_every_kind_of_fault_is_drawn() -> None:
    assert {planned.kind for planned in _first(1, 1, 2000)} == set(FAULTS)


def test_tokens_are_unique_even_for_repeated_tasks() -> None:
    tokens = [
        message.token for session in range(20) for turn in turns(1, session, 10) for message in turn.messages
    ]
    assert len(set(tokens)) == len(tokens)
    again = Message("s1t2m1", "true").again(1)
    assert again.token not in tokens
    assert again.again(2).token == "s1t2m1r2"


def test_task_leaves_a_file_shows_all_files_and_ends_with_its_token() -> None:
    text = Message("s1t2m1", "sleep 1").text
    assert text.startswith("Run: sleep 1;")
    assert "echo kept-s1t2m1 > /mnt/session/kept-s1t2m1" in text
    assert text.endswith("echo done-s1t2m1")


def test_tasks_are_of_every_kind_and_only_a_single_message_waits_for_a_person() -> None:
    planned = [turn for session in range(20) for turn in turns(1, session, 10)]
    assert {message.kind for turn in planned for message in turn.messages} == set(Kind)
    for turn in planned:
        asks = [each for each in turn.messages if each.kind in (Kind.CONFIRM, Kind.CUSTOM)]
        assert not asks or len(turn.messages) == 1


def test_task_in_threads_ends_only_with_what_all_of_them_have_made() -> None:
    first, last, _ = json.loads(Message("s1t2m1", "true", Kind.THREADS).text)["script"]
    files = [call["input"]["command"].split()[-1] for (call,) in first["threads"]]
    assert len(files) == len(set(files)) == 3
    assert last["input"]["command"].endswith(f"cat {' '.join(files)} >/dev/null && echo done-s1t2m1")


def test_half_of_the_sessions_are_prepared_and_show_it_without_the_secret() -> None:
    prepared = [is_prepared(1, session) for session in range(100)]
    assert 30 < sum(prepared) < 70
    shown, *_ = turns(1, prepared.index(True), 10)[0].messages
    assert "sha256sum" in shown.text
    assert "sha256sum" not in turns(1, prepared.index(False), 10)[0].messages[0].text


def test_some_users_delete_their_session_and_some_do_not() -> None:
    assert {ends_itself(1, session) for session in range(20)} == {True, False}


def test_some_soaks_have_an_api_key_and_some_do_not() -> None:
    assert {has_api_key(seed) for seed in range(20)} == {True, False}


def test_chaos_ends_when_less_than_a_quarter_of_the_concurrent_sessions_is_left() -> None:
    options = Options(sessions=300, turns=10, at_once=20, fault_loops=3, seed=1, minutes=None)
    assert too_few_left(options, begun=300, playing=4)
    assert not too_few_left(options, begun=300, playing=5)
    assert not too_few_left(options, begun=299, playing=1)
    small = Options(sessions=2, turns=10, at_once=20, fault_loops=3, seed=1, minutes=None)
    assert not too_few_left(small, begun=2, playing=2)
