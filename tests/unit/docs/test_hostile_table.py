from __future__ import annotations

from ...hostile import table


def test_the_table_of_attempts_is_up_to_date() -> None:
    assert table.PAGE.read_text() == table.page(), "docs/security.md is out of date. Run: make docs"


def test_every_attempt_has_a_name_of_its_own() -> None:
    names = [attempt.name for group in table.GROUPS for attempt in group.attempts]
    assert len(names) == len(set(names))
