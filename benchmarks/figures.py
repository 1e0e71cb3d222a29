"""What a benchmark returns: plain figures, which the page and the plots are made from."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
"""The newest results of each benchmark, so that the page can be made anew without measuring."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value.

    Attributes:
        key: its short name. Figures with the same key and different scales make a series.
        name: what it is, for the page.
        value: the value, in `unit`.
        unit: "s", "ms", "MB", "/s", or "" for a count or a ratio.
        scale: the size at which it was measured, such as the number of sessions.
        limit: what it is compared with, in the same unit: what cannot be avoided, or another way.
        limit_is: what that limit is.
        goal: what the ratio to the limit has to reach, or the value itself if there is no limit.
        more_is_better: whether a larger value is better.
    """

    key: str
    name: str
    value: float
    unit: str
    scale: int | None = None
    limit: float | None = None
    limit_is: str = ""
    goal: float | None = None
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """The value against its limit."""
        return self.value / self.limit if self.limit else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        judged = self.value if self.ratio is None else self.ratio
        return judged >= self.goal if self.more_is_better else judged <= self.goal


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run of one benchmark left.

    Attributes:
        at: date of the run, in UTC.
        seconds: how long it took.
        machine: the machine, by what the page says of it.
        figures: the figures; empty if it failed.
        error: why it failed, or None.
        skipped: why it was not run, or None.
    """

    at: str
    seconds: float
    machine: Mapping[str, str]
    figures: Sequence[Figure] = ()
    error: str | None = None
    skipped: str | None = None


class NotMeasuredError(Exception):
    """Something that the benchmark needs is not there. The text says what."""


def to_json(results: Mapping[str, Result]) -> str:
    """Return the text of a file of results."""
    document = {}
    for name, result in results.items():
        figures = [
            {
                field.name: _rounded(value)
                for field in dataclasses.fields(figure)
                if (value := getattr(figure, field.name)) != field.default
            }
            for figure in result.figures
        ]
        document[name] = {
            "at": result.at,
            "seconds": round(result.seconds),
            "machine": dict(result.machine),
            "figures": figures,
            **({"error": result.error} if result.error else {}),
            **({"skipped": result.skipped} if result.skipped else {}),
        }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> dict[str, Result]:
    """Read a file of results."""
    document: dict[str, dict[str, Any]] = json.loads(text)
    return {
        name: Result(**{**entry, "figures": tuple(Figure(**figure) for figure in entry["figures"])})
        for name, entry in document.items()
    }


def committed() -> dict[str, Result]:
    """Return the committed results; empty if there are none yet."""
    return from_json(RESULTS.read_text()) if RESULTS.exists() else {}


def middle_and_longest(
    key: str,
    name: str,
    milliseconds: Sequence[float],
    *,
    limits: tuple[float, float],
    limit_is: str,
    scale: int | None = None,
    goal: float | None = None,
) -> list[Figure]:
    """Return the median and the maximum as figures in seconds. `limits` are in milliseconds.

    The goal is for the median.
    """
    return [
        Figure(
            key=f"{key}-{short}",
            name=f"{name}, {what}",
            value=value / 1000,
            unit="s",
            scale=scale,
            limit=limit / 1000,
            limit_is=limit_is,
            goal=goal if short == "p50" else None,
        )
        for short, what, value, limit in (
            ("p50", "median", statistics.median(milliseconds), limits[0]),
            ("max", "longest", max(milliseconds), limits[1]),
        )
    ]


def _rounded(value: object) -> object:
    """Keep four significant digits: more would say what no run can repeat."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
