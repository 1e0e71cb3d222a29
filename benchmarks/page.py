"""Makes docs/benchmarks.md from results, and its plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks import cookbook
from benchmarks.catalog import BENCHMARKS, Benchmark, Growth
from benchmarks.figures import Figure, Result

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images" / "benchmarks"
STRAIGHT = 0.25
"""How far from proportional a figure may be, to be called so."""

_HEAD = """# Benchmarks

<!-- Written by `python -m benchmarks` from benchmarks/results.json. Do not edit. -->

One command measures everything on this page, and writes it: `make bench`
([development](development.md#make-targets)). All processes run on one machine: a real API server and etcd,
webhook, operator, and the simulators of both clouds, which have the latencies below. So absolute figures say
more about that machine than about yours. Compare ratios: both sides of each ratio were measured in the same
run, or follow from the same model.
"""


def write(results: Mapping[str, Result]) -> None:
    """Write the page and the plots. Plots that no benchmark has any more are removed."""
    from benchmarks import plots  # noqa: PLC0415 - matplotlib is only there for `make bench`

    PAGE.write_text(text(results))
    IMAGES.mkdir(parents=True, exist_ok=True)
    drawn = set[Path]()
    for benchmark, growth in _drawn(results):
        path = IMAGES / image(growth)
        path.write_text(plots.draw(growth, results[benchmark.name].figures))
        drawn.add(path)
    for path in set(IMAGES.glob("*.svg")) - drawn:
        path.unlink()


def image(growth: Growth) -> str:
    """Return the file name of a plot."""
    return f"{growth.keys[0]}.svg"


def _drawn(results: Mapping[str, Result]) -> Iterator[tuple[Benchmark, Growth]]:
    """Return what can be drawn: figures of at least two scales."""
    for benchmark in BENCHMARKS:
        for growth in benchmark.growth:
            figures = results[benchmark.name].figures if benchmark.name in results else ()
            if len([each for each in figures if each.key == growth.keys[0]]) > 1:
                yield benchmark, growth


def text(results: Mapping[str, Result]) -> str:
    """Return the page."""
    parts = [_HEAD, _machines(results), _model(), _goals(results)]
    parts += [_section(each, results) for each in BENCHMARKS]
    return "\n".join(parts)


def _machines(results: Mapping[str, Result]) -> str:
    rows = ["## Machine", "", "| | |", "|---|---|"]
    machines: list[Mapping[str, str]] = []
    for result in results.values():
        if result.machine not in machines:
            machines.append(result.machine)
    names = list(dict.fromkeys(name for machine in machines for name in machine))
    for name in names:
        values = dict.fromkeys(machine.get(name, "") for machine in machines)
        rows.append(f"| {name} | {' · '.join(values)} |")
    days = sorted({result.at for result in results.values()})
    rows.append(f"| measured | {', '.join(days)} |")
    return "\n".join([*rows, ""])


def _model() -> str:
    from benchmarks.latency_model import ANTHROPIC_MODEL, E2B_MODEL  # noqa: PLC0415 - it starts systems

    calls = ", ".join(
        f"{name.replace('_', ' ')} {mean} ± {jitter}" for name, (mean, jitter) in E2B_MODEL.items()
    )
    return (
        f"**Modelled latencies**, in milliseconds. E2B: {calls}. Anthropic: {ANTHROPIC_MODEL[0]} ± "
        f"{ANTHROPIC_MODEL[1]} for each call. They are in effect in the sections about turns.\n"
    )


def _goals(results: Mapping[str, Result]) -> str:
    """Return the table of all figures that have a goal, each at its largest scale."""
    rows = ["## Goals", "", "| Figure | Value | Ratio | Goal | |", "|---|---|---|---|---|"]
    for benchmark in BENCHMARKS:
        figures = results[benchmark.name].figures if benchmark.name in results else ()
        largest = {each.key: each for each in figures if each.goal is not None}
        for figure in largest.values():
            what = f"[{benchmark.title}](#{anchor(benchmark.title)}): {_name(figure, benchmark)}"
            rows.append(
                f"| {what} | {_value(figure.value, figure.unit)} | {_ratio(figure)} | {_goal(figure)} | "
                f"{'reached' if figure.reached else '**missed**'} |"
            )
    return "\n".join([*rows, ""])


def anchor(title: str) -> str:
    """Return the anchor of a heading."""
    return "".join(each for each in title.lower().replace(" ", "-") if each.isalnum() or each == "-")


def _name(figure: Figure, benchmark: Benchmark) -> str:
    of = benchmark.growth[0].of if benchmark.growth else ""
    return figure.name if figure.scale is None else f"{figure.name}, {figure.scale:,} {of}".strip()


def _section(benchmark: Benchmark, results: Mapping[str, Result]) -> str:
    lines = [f"## {benchmark.title}", "", f"{benchmark.what} (`{benchmark.name}`)", ""]
    result = results.get(benchmark.name)
    if result is None or result.skipped is not None:
        reason = f": {result.skipped}" if result is not None else ""
        lines += [f"**Not measured in this run**{reason}.", ""]
    elif result.error is not None:
        lines += [f"**Failed:** {result.error}", ""]
    elif benchmark.name != "cookbook":
        lines += [*_table(benchmark, result.figures), "", *_limits(result.figures)]
    if benchmark.name == "cookbook":
        lines += _peers(results)
    for drawn, growth in _drawn(results):
        if drawn is benchmark:
            assert result is not None
            lines += [
                f"![{growth.title}, by {growth.of}](images/benchmarks/{image(growth)})",
                "",
                f"{straight_line(growth, result.figures)} {growth.why}",
                "",
            ]
    return "\n".join(lines)


def _table(benchmark: Benchmark, figures: Sequence[Figure]) -> list[str]:
    """Return a table with a row for each name, and a column for each scale."""
    scales = list(dict.fromkeys(each.scale for each in figures))
    of = benchmark.growth[0].of if benchmark.growth else ""
    heads = ["value" if scale is None else f"{scale:,}" for scale in scales]
    corner = f"Figure, by {of}" if of else "Figure"
    rows = [f"| {corner} | {' | '.join(heads)} | Goal |", f"|---|{'---|' * len(heads)}---|"]
    for key in dict.fromkeys(each.key for each in figures):
        same = {each.scale: each for each in figures if each.key == key}
        first = next(iter(same.values()))
        cells = [_cell(same[scale]) if scale in same else "" for scale in scales]
        goals = [_goal(each) for each in same.values() if each.goal is not None]
        rows.append(f"| {first.name} | {' | '.join(cells)} | {goals[-1] if goals else ''} |")
    return rows


def _limits(figures: Sequence[Figure]) -> list[str]:
    """Return what the ratios of the table compare with."""
    names: dict[str, dict[str, None]] = {}
    for figure in figures:
        if figure.limit_is:
            names.setdefault(figure.limit_is, {})[figure.name] = None
    lines = [f"- {limit_is} ({'; '.join(named)})" for limit_is, named in names.items()]
    return ["The ratios (×) are against:", "", *lines, ""] if lines else []


def _cell(figure: Figure) -> str:
    value = _value(figure.value, figure.unit)
    return value if figure.ratio is None else f"{value} ({figure.ratio:.2f} ×)"


def _peers(results: Mapping[str, Result]) -> list[str]:
    """Return the comparison with the cookbook, of this run and of an earlier one."""
    ours = {
        (each.key, each.scale): each
        for name in ("turns", "at-once")
        for each in (results[name].figures if name in results else ())
    }
    rows = [
        "| Until the first heartbeat | Cookbook | This project | Cookbook ÷ this project |",
        "|---|---|---|---|",
    ]
    for figure in results["cookbook"].figures if "cookbook" in results else ():
        scale = "" if figure.scale is None else f", {figure.scale} at once"
        rows.append(
            _peer(f"{figure.name}{scale}", _cell(figure), figure.value, ours.get((figure.key, figure.scale)))
        )
    for place, (name, seconds) in cookbook.EARLIER_AT_ONCE.items():
        rows.append(_peer(name, f"{seconds} s, in an earlier run", seconds, ours.get(place)))
    earlier = (
        f"**An earlier run** of the cookbook, on another machine with two cores: {cookbook.EARLIER}. "
        "It serves one session after the other."
    )
    return [*rows, "", earlier, ""]


def _peer(name: str, theirs: str, seconds: float, ours: Figure | None) -> str:
    measured = ("not measured", "") if ours is None else (_cell(ours), f"{seconds / ours.value:.1f}")
    return f"| {name} | {theirs} | {' | '.join(measured)} |"


def straight_line(growth: Growth, figures: Sequence[Figure]) -> str:
    """Return how the first figure of a plot grows, and where it stops to do so in proportion."""
    series = sorted((each.scale or 0, each.value) for each in figures if each.key == growth.keys[0])
    steps = [
        (small, large, large / small, high / low if low else 0.0)
        for (small, low), (large, high) in pairwise(series)
    ]
    first, last = series[0][0], series[-1][0]
    if all(abs(grown - 1) <= STRAIGHT for *_, grown in steps):
        return f"It hardly changes from {first:,} to {last:,} {growth.of}."
    bent = [small for small, _, wider, grown in steps if abs(grown / wider - 1) > STRAIGHT]
    if not bent:
        return f"It grows in proportion up to {last:,} {growth.of}."
    said = ", and ".join(
        f"from {small:,} to {large:,} ({wider:.3g} × as many) it becomes {grown:.2g} × as much"
        for small, large, wider, grown in steps
    )
    start = "It is not in proportion" if bent[0] == first else f"It grows in proportion up to {bent[0]:,}"
    return f"{start}: {said}."


def _value(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip() if unit not in ("%", "/s") else f"{digits} {unit}"


def _ratio(figure: Figure) -> str:
    return "" if figure.ratio is None else f"{figure.ratio:.2f}"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = "≥" if figure.more_is_better else "≤"
    return (
        f"{sign} {figure.goal:g} ×"
        if figure.ratio is not None
        else f"{sign} {_value(figure.goal, figure.unit)}"
    )
