"""Draws the dashboard's panels from a real Prometheus, into docs/images: `python -m tests.dashboard_picture`.

For some minutes a system with two operators serves sessions of two classes; E2B refuses some sandboxes, and
the leader is killed. Needs matplotlib: `.venv/bin/pip install --require-hashes -r requirements-bench.lock`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from matplotlib.axes import Axes

from .support.classes import apply_class, class_known
from .support.leaders import leader
from .support.prometheus import Prometheus
from .support.sessions import QUICK, begin
from .support.systems import FORK_SERVER, local_system

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
STEP_SECONDS = 2
RATE_INTERVAL = "20s"
UNITS = {"s": "s", "percentunit": "%", "bytes": "MiB", "ops": "/s", "reqps": "/s"}
SCALES = {"percentunit": 100.0, "bytes": 1 / 2**20}
SETTINGS = {
    **{name: value for name, value in QUICK.items() if not name.startswith("lease_")},
    "max_active_sandboxes": "4",
    "resync_interval_seconds": "5",
}
ASKS = {"tool": "bash", "input": {"command": "echo confirmed"}, "permission": "ask"}
WAITS = json.dumps({"script": [ASKS, {"say": "{result}"}]})


async def play(system: LocalSystem, agent: str, number: int, until: asyncio.Event) -> None:
    """Somebody who sends one message after the other, each of which works for some seconds."""
    async with begin(system, agent) as conversation:
        while not until.is_set():
            await conversation.say(f"Run: sleep {2 + number % 4}; echo done", timeout_seconds=300)
            await asyncio.sleep(number % 5)


async def wait_for_user(system: LocalSystem, agent: str, until: asyncio.Event) -> None:
    """Somebody who never answers what the agent asks."""
    async with begin(system, agent) as conversation:
        await conversation.send(WAITS)
        await until.wait()


async def disturb(system: LocalSystem, seconds: float) -> None:
    """Let E2B refuse the first sandboxes, and kill the leader later."""
    for _ in range(4):
        await system.e2b_admin.add_fault("create", {"status": 500})
    await asyncio.sleep(seconds * 0.55)
    killed = await leader(system)
    await killed.kill()
    await asyncio.sleep(seconds * 0.1)
    await killed.start()


async def measure(seconds: float, folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Run a system under load. Return the dashboard, and each query's series by the query."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]
    config = yaml.safe_load((MONITORING / "dashboard.yaml").read_text())
    dashboard: dict[str, Any] = json.loads(config["data"]["managed-sessions.json"])
    async with (
        ControlPlane() as plane,
        local_system(plane, operators=2, operator_settings=SETTINGS) as system,
    ):
        agents = {}
        for name, limits in {"interactive": {"weight": 3}, "batch": {"weight": 1}}.items():
            agents[name] = await system.anthropic_admin.add_agent()
            await apply_class(system, name, {"selector": {"agentIDs": [agents[name]]}, "limits": limits})
            await class_known(system, name)
        pods = {
            "webhook-6c4d9": system.webhook,
            "operator-7d9c5": system.operators[0],
            "operator-x2x8q": system.operators[1],
        }
        addresses = {name: pod.probe_url.removeprefix("http://") for name, pod in pods.items()}
        async with Prometheus(folder, addresses, system.system_namespace, rules) as prometheus:
            began, until = await prometheus.now(), asyncio.Event()
            users = [
                asyncio.create_task(
                    play(system, agents["batch" if number % 2 else "interactive"], number, until)
                )
                for number in range(5)
            ]
            users.append(asyncio.create_task(wait_for_user(system, agents["batch"], until)))
            await asyncio.gather(disturb(system, seconds), asyncio.sleep(seconds))
            until.set()
            ended = await prometheus.now()
            await asyncio.gather(*users, return_exceptions=True)
            found = {}
            for query in {t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])}:
                text = query.replace("$namespace", system.system_namespace)
                answer = await prometheus.get(
                    "/query_range",
                    query=text.replace("$__rate_interval", RATE_INTERVAL),
                    start=str(began),
                    end=str(ended),
                    step=str(STEP_SECONDS),
                )
                found[query] = answer["result"]
    await FORK_SERVER.close()
    return dashboard, found


def draw(dashboard: dict[str, Any], found: dict[str, list[Any]], target: Path) -> None:
    """Draw every panel in its place."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(16, rows * 0.36), facecolor="#f4f5f5", dpi=90)
    for panel in panels:
        place = panel["gridPos"]
        top = 1 - place["y"] / rows
        if panel["type"] == "row":
            figure.text(0.012, top - 0.6 / rows, panel["title"], fontsize=12, weight="bold", va="center")
            continue
        left, width = place["x"] / 24, place["w"] / 24
        axes = figure.add_axes(
            (left + 0.032, top - (place["h"] - 1.9) / rows, width - 0.045, (place["h"] - 3.2) / rows)
        )
        draw_panel(axes, panel, found)
    figure.savefig(target)


def draw_panel(axes: Axes, panel: dict[str, Any], found: dict[str, list[Any]]) -> None:
    """Draw one panel's series."""
    defaults = panel["fieldConfig"]["defaults"]
    scale, unit = SCALES.get(defaults["unit"], 1.0), UNITS.get(defaults["unit"], "")
    lines = {}
    for target in panel["targets"]:
        for series in found[target["expr"]]:
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            values = {float(at): scale * float(value) for at, value in series["values"]}
            lines[legend or "(none)"] = {at: value for at, value in values.items() if not math.isnan(value)}
    start = min((at for query in found.values() for each in query for at, _ in each["values"]), default=0)
    if "stacking" in defaults["custom"]:
        times = sorted({at for line in lines.values() for at in line})
        heights = [[line.get(at, 0.0) for at in times] for line in lines.values()]
        axes.stackplot([(at - start) / 60 for at in times], heights, labels=list(lines), alpha=0.6)
    else:
        for legend, line in lines.items():
            axes.plot([(at - start) / 60 for at in line], list(line.values()), label=legend, linewidth=1.4)
    finish(axes, panel["title"], unit, defaults)


def finish(axes: Axes, title: str, unit: str, defaults: dict[str, Any]) -> None:
    """Write what is around the lines."""
    steps = defaults.get("thresholds", {}).get("steps", [])
    limit = steps[-1]["value"] * SCALES.get(defaults["unit"], 1.0) if steps else None
    if limit is not None and axes.get_ylim()[1] > limit / 3:
        axes.axhline(limit, color="#e02f44", linestyle="--", linewidth=1)
    axes.set_title(title, fontsize=10, loc="left", weight="semibold")
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1 if unit != "/s" else 0.1))
    axes.set_facecolor("white")
    axes.grid(color="#e3e4e5", linewidth=0.6)
    axes.tick_params(labelsize=7, length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {unit}".strip())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
    for spine in axes.spines.values():
        spine.set_visible(False)
    columns = 3 if len(axes.get_legend_handles_labels()[1]) > 3 else 4
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.01, -0.12), ncols=columns, fontsize=7, frameon=False,
        handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--target", type=Path, default=ROOT / "docs" / "images" / "dashboard.png")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        dashboard, found = asyncio.run(measure(options.seconds, Path(folder)))
    draw(dashboard, found, options.target)
    print(options.target)


if __name__ == "__main__":
    main(sys.argv[1:])
