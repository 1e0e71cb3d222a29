"""docs/benchmarks.md is made of the committed results, and has every benchmark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.catalog import BENCHMARKS, Benchmark, Growth
from benchmarks.figures import Figure, Result, committed, from_json, to_json

ROOT = Path(__file__).parents[3]
RESULTS = committed()
GROWTH = Growth(("any",), "sessions", "Any", "Because.", ("any",))


def series(*values: float) -> list[Figure]:
    return [
        Figure(key="any", name="any", value=value, unit="s", scale=scale)
        for scale, value in zip((10, 30, 100), values, strict=True)
    ]


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert page.PAGE.read_text() == page.text(RESULTS), "Run: python -m benchmarks --render"


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_each_benchmark_has_a_section_with_its_figures(benchmark: Benchmark) -> None:
    section = page.PAGE.read_text().partition(f"\n## {benchmark.title}\n")[2].partition("\n## ")[0]
    assert f"(`{benchmark.name}`)" in section
    result = RESULTS.get(benchmark.name)
    if result is None or result.skipped or result.error:
        assert "Not measured in this run" in section or "Failed" in section
    else:
        assert [each.name for each in result.figures if f"| {each.name}" not in section] == []
        for growth in benchmark.growth:
            assert f"images/benchmarks/{page.image(growth)}" in section
            assert growth.why in section


def test_each_plot_is_committed_and_on_the_page() -> None:
    named = set(re.findall(r"images/benchmarks/([\w.-]+)", page.PAGE.read_text()))
    assert {each.name for each in page.IMAGES.glob("*")} == named


def test_each_plot_can_be_read_on_a_dark_page() -> None:
    for path in page.IMAGES.glob("*.svg"):
        assert "prefers-color-scheme: dark" in path.read_text()
        assert path.stat().st_size < 40_000


def test_the_list_of_the_command_has_every_benchmark() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [each.name for each in BENCHMARKS]


def test_each_growth_names_a_line_for_each_figure() -> None:
    for benchmark in BENCHMARKS:
        for growth in benchmark.growth:
            assert len(growth.keys) == len(growth.names)


def test_the_committed_results_name_no_machine_and_no_path() -> None:
    assert set(RESULTS) <= {each.name for each in BENCHMARKS}
    assert not re.search(r'"[^"]*(/home/|/root/|/work/|/tmp/)', to_json(RESULTS))


def test_results_survive_the_file() -> None:
    result = Result(at="2026-11-23", seconds=3.0, machine={"cores": "2"}, figures=tuple(series(1, 2, 3)))
    assert from_json(to_json({"any": result})) == {"any": result}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1, 1.1, 1), "hardly changes from 10 to 100 sessions"),
        ((1, 3.1, 10), "grows in proportion up to 100 sessions"),
        (
            (1, 3, 5),
            "It grows in proportion up to 30: from 10 to 30 (3 ",
        ),
        ((1, 9, 30), "It is not in proportion: from 10 to 30 (3 "),
    ],
)
def test_the_page_says_where_the_straight_line_ends(values: tuple[float, ...], said: str) -> None:
    assert said in page.straight_line(GROWTH, series(*values))


@pytest.mark.parametrize(
    ("figure", "reached"),
    [
        (Figure(key="a", name="a", value=9, unit="ms", goal=8), False),
        (Figure(key="a", name="a", value=9, unit="s", limit=6, goal=1.5), True),
        (Figure(key="a", name="a", value=80, unit="/s", limit=100, goal=0.9, more_is_better=True), False),
        (Figure(key="a", name="a", value=9, unit="ms"), None),
    ],
)
def test_a_goal_is_for_the_ratio_or_else_for_the_value(figure: Figure, reached: bool | None) -> None:
    assert figure.reached is reached


def test_a_benchmark_that_failed_says_so_on_the_page_and_the_others_keep_theirs() -> None:
    failed = Result(at="2026-11-23", seconds=1.0, machine={}, error="RuntimeError: no")
    text = page.text({**RESULTS, "turns": failed})
    assert "**Failed:** RuntimeError: no" in text
    assert text.count("\n## ") == page.text(RESULTS).count("\n## ")
