"""Divides a suite into parts, for a machine that has not the time for all of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest


def keep_part(
    config: pytest.Config,
    items: list[pytest.Item],
    part: str,
    unit_of: Callable[[pytest.Item], Hashable | None],
) -> None:
    """Leave out the tests of the other parts.

    Args:
        config: pytest's.
        items: the collected tests.
        part: such as `2/3`: of all units the second, the fifth and so on.
        unit_of: returns what a test is divided with; None for a test that belongs to every part.

    Raises:
        UsageError: there is no such part.
    """
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise pytest.UsageError(f"{part} is not a part such as 2/3")
    units = dict.fromkeys(unit_of(each) for each in items)
    units.pop(None, None)
    kept = {None, *[*units][int(number) - 1 :: int(count)]}
    others = [each for each in items if unit_of(each) not in kept]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [each for each in items if unit_of(each) in kept]
