"""Plays a turn on the simulators, with latencies like the clouds', and draws its trace for docs/traces.md.

python devkit/draw_turn.py docs/images/turn-trace.svg
"""

# ruff: noqa: INP001 - a script, not a part of the package
import asyncio
import json
import os
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.trace_receiver import ReceivedSpan, TraceReceiver, trace_receiver

LATENCIES = {
    "create": 600,
    "connect": 700,
    "pause": 900,
    "files_write": 30,
    "process_start": 30,
    "get": 40,
}
"""Of E2B's calls, milliseconds."""
CLASS = {
    "apiVersion": "managedagents.dev/v1alpha1",
    "kind": "ManagedSessionClass",
    "metadata": {"name": "drawn"},
    "spec": {"session": {"sandbox": {"setup": {"script": "sleep 0.4"}}}},
}
SCRIPT: list[dict[str, object]] = [
    {"tool": "bash", "input": {"command": "sleep 0.7"}},
    {"sleep_ms": 300},
    {"tool": "bash", "input": {"command": "sleep 0.9; false"}},
    {"sleep_ms": 300},
    {"tool": "bash", "input": {"command": "sleep 0.4"}},
    {"say": "Done."},
]
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 980, 230, 90, 74, 27, 15
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STYLE = """
    .page { fill: #ffffff } .grid { stroke: #dfe4ec } .axis { fill: #4a5670; font-size: 12px }
    .heading { fill: #1d2433; font-size: 16px; font-weight: 600 }
    .name { fill: #1d2433; font-size: 13.5px } .time { fill: #4a5670; font-size: 12px }
    .root { fill: #8b98ad } .stage { fill: #3f63c8 } .worker { fill: #2c8a6b } .call { fill: #7cc2a8 }
    .remote { fill: #a9b9ea }     .failed { fill: #d0552f }
    @media (prefers-color-scheme: dark) {
      .page { fill: #12161f } .grid { stroke: #364052 } .axis, .time { fill: #b9c4d6 }
      .heading, .name { fill: #eef2f9 } .root { fill: #67758c } .stage { fill: #7d9bf0 }
      .worker { fill: #46b18c } .call { fill: #2f7d62 }
      .remote { fill: #4d63a3 } .failed { fill: #e2764f }
    }
"""


async def played(receiver: TraceReceiver) -> list[ReceivedSpan]:
    """Play a session's first turn and return its trace."""
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    settings = {"latencies": {name: {"mean_ms": ms} for name, ms in LATENCIES.items()}}
    system = LocalSystem(operator_settings={"max_idle_seconds": "1"}, e2b_settings=settings, environ=environ)
    async with system:
        await system.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(CLASS))
        await system.anthropic_admin.change_settings(latencies={"*": {"mean_ms": 60}})
        begun = Conversation.begin(
            system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
        )
        async with begun as conversation:
            await conversation.say(json.dumps({"script": SCRIPT}), timeout_seconds=180)
            while not receiver.bodies:  # noqa: ASYNC110 - filled by a thread
                await asyncio.sleep(0.1)
    (trace,) = receiver.traces().values()
    return trace


def rows(trace: list[ReceivedSpan]) -> list[tuple[int, ReceivedSpan]]:
    """Return the spans with their depth, each parent before its children, by time."""

    def below(parent: str, depth: int) -> list[tuple[int, ReceivedSpan]]:
        found = sorted((span for span in trace if span.parent_id == parent), key=lambda span: span.start)
        return [row for span in found for row in ((depth, span), *below(span.span_id, depth + 1))]

    return below("", 0)


def drawn(trace: list[ReceivedSpan]) -> str:
    """Return the trace as SVG."""
    ordered = rows(trace)
    root = ordered[0][1]
    total, height = root.end - root.start, TOP + ROW * len(ordered) + 20

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time / total

    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img" aria-labelledby="title description" font-family="{FONT}">'
        ),
        '  <title id="title">The trace of one turn</title>',
        f'  <desc id="description">{escape(described(ordered))}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" width="{WIDTH}" height="{height}" rx="12"/>',
        '  <text class="heading" x="24" y="34">One turn, from the webhook to the pause</text>',
    ]
    for second in range(int(total / 1e9) + 1):
        at = x(second * 1e9)
        lines += [
            f'  <line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{height - 16}"/>',
            f'  <text class="axis" x="{at:.1f}" y="{TOP - 14}" text-anchor="middle">{second} s</text>',
        ]
    for number, (depth, span) in enumerate(ordered):
        middle = TOP + ROW * number + ROW / 2
        begin, end = x(span.start - root.start), x(span.end - root.start)
        width = max(end - begin, 2.0)
        lines += [
            f'  <text class="name" x="{24 + 16 * depth}" y="{middle + 5:.1f}">{escape(span.name)}</text>',
            (
                f'  <rect class="{kind(depth, span)}" x="{begin:.1f}" y="{middle - BAR / 2:.1f}" '
                f'width="{width:.1f}" height="{BAR}" rx="3"/>'
            ),
            f'  <text class="time" x="{begin + width + 6:.1f}" y="{middle + 4:.1f}">{duration(span)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def kind(depth: int, span: ReceivedSpan) -> str:
    """Return the class of the span's bar."""
    if span.failed:
        return "failed"
    if span.client:
        return "remote"
    return "root" if depth == 0 else "call" if depth > 1 else "worker" if span.name == "worker" else "stage"


def duration(span: ReceivedSpan) -> str:
    """Return how long the span lasted, for people."""
    milliseconds = (span.end - span.start) / 1e6
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"


def described(ordered: list[tuple[int, ReceivedSpan]]) -> str:
    """Return the same in words."""
    return "; ".join(
        f"{span.name} {duration(span)}{' (failed)' if span.failed else ''}" for _, span in ordered
    )


def main() -> None:
    """Play and draw."""
    with trace_receiver() as receiver:
        trace = asyncio.run(played(receiver))
    Path(sys.argv[1]).write_text(drawn(trace))


if __name__ == "__main__":
    main()
