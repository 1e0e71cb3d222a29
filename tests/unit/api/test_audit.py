"""The audit's chains: what a change of a record, or of its place, shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.audit import CHAIN_STARTED, Chain, hash_of, verify

NOW = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
Lines = list[str]


def chain(name: str, count: int = 6, *, after: str | None = None, torn: bool = False) -> Lines:
    """Write a chain; `after`: the line that it continues."""
    made, lines = Chain(name), []
    continues = None
    if after is not None:
        before = json.loads(after)
        continues = {"chain": before["chain"], "sequence": before["sequence"]}
        made.previous = before["hash"]
    first = {"continues": continues, "torn": torn or None}
    for number in range(count):
        event, fields = (CHAIN_STARTED, first) if number == 0 else ("Claimed", {"claim": f"claim-{number}"})
        line = made.seal(event, NOW, fields)
        made.wrote(line)
        lines.append(line + "\n")
    return lines


def two_chains() -> Lines:
    first = chain("a")
    return [*first, *chain("b", after=first[-1])]


def changed(line: str, **fields: object) -> str:
    """The line with other fields and a hash that fits, as somebody makes it who knows how."""
    record = {**json.loads(line), **fields}
    return json.dumps({**record, "hash": hash_of(record)}, sort_keys=True, separators=(",", ":")) + "\n"


def test_whole_chains_are_intact_and_their_ends_are_named() -> None:
    lines = two_chains()
    verdict = verify(lines)
    assert verdict.findings == []
    assert (verdict.records, verdict.intact) == (12, True)
    assert verdict.heads == {name: (5, json.loads(lines[n])["hash"]) for name, n in (("a", 5), ("b", 11))}


TAMPERED: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "removed": (lambda lines: lines[:3] + lines[4:], 4, "record 3 of chain a, missing"),
    "several removed": (lambda lines: lines[:2] + lines[5:], 3, "records 2 to 4 of chain a, missing"),
    "the first removed": (lambda lines: lines[1:], 1, "the beginning of chain a is missing"),
    "the last before a restart removed": (
        lambda lines: lines[:5] + lines[6:],
        6,
        "record 5 of chain a is missing",
    ),
    "a chain removed": (lambda lines: lines[:3] + lines[6:], 4, "record 5 of chain a is missing"),
    "changed": (
        lambda lines: [*lines[:2], lines[2].replace("claim-2", "claim-9"), *lines[3:]],
        3,
        "does not match its hash",
    ),
    "changed with a fitting hash": (
        lambda lines: [*lines[:2], changed(lines[2], claim="claim-9"), *lines[3:]],
        4,
        "does not follow the record before it",
    ),
    "the last before a restart changed with a fitting hash": (
        lambda lines: [*lines[:5], changed(lines[5], claim="claim-9"), *lines[6:]],
        7,
        "does not follow the record that it continues",
    ),
    "reordered": (
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        3,
        "record 2 of chain a, missing",
    ),
    "repeated": (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "is there twice"),
    "inserted": (
        lambda lines: [*lines[:3], changed(lines[2], sequence=3, claim="x"), *lines[3:]],
        4,
        "does not follow the record before it",
    ),
    "cut short": (lambda lines: [*lines[:2], lines[2][:40] + "\n", *lines[3:]], 3, "not whole"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_record_that_was(how: str) -> None:
    tamper, line, text = TAMPERED[how]
    verdict = verify(tamper(two_chains()))
    assert not verdict.intact
    first = next(finding for finding in verdict.findings if finding.broken)
    assert first.line == line
    assert text in first.text


@given(st.data())
def test_no_change_of_a_byte_stays_unseen(data: st.DataObject) -> None:
    text = "".join(two_chains())
    at = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.characters(codec="ascii").filter(lambda each: each != text[at]))
    verdict = verify((text[:at] + other + text[at + 1 :]).splitlines(keepends=True))
    assert not verdict.intact


def test_a_torn_line_is_explained_by_the_chain_that_found_it() -> None:
    first = chain("a")
    torn = [*first[:5], first[5][:60]]
    verdict = verify(torn)
    assert (verdict.intact, len(verdict.findings)) == (True, 1), "its writer may be writing it"
    followed = [*torn[:5], torn[5] + "\n", *chain("b", after=first[4], torn=True)]
    verdict = verify(followed)
    assert verdict.intact
    assert [finding.line for finding in verdict.findings] == [6]
    unexplained = [*torn[:5], torn[5] + "\n", *chain("b", after=first[4])]
    assert not verify(unexplained).intact


def test_lines_of_other_programs_are_passed_over() -> None:
    lines = chain("a")
    noise = ['{"level": "INFO", "message": "hello"}\n', "plain text\n", "\n"]
    verdict = verify([noise[0], *lines[:2], noise[1], *lines[2:], noise[2]])
    assert (verdict.intact, verdict.records) == (True, 6)


def test_chains_of_two_pods_may_be_mixed() -> None:
    mixed = [line for pair in zip(chain("a"), chain("b"), strict=True) for line in pair]
    assert verify(mixed).intact


def test_a_file_that_continues_another_says_so_and_is_no_less_intact() -> None:
    verdict = verify(chain("b", after=chain("a")[-1]))
    assert verdict.intact
    assert ["continues chain a" in finding.text for finding in verdict.findings] == [True]


def test_a_format_of_a_later_version_is_not_accepted() -> None:
    assert not verify([changed(chain("a")[0], audit=2)]).intact
