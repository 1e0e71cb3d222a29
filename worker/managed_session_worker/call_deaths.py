"""Counts tool calls that ended their worker, and finally answers them instead of running them again.

When a worker ends without giving its lease back, the next one runs its call again. Without a limit, a call
that ends its worker each time would run for ever.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anthropic.lib.tools import ToolError

from managed_session_worker.protocol import MAX_CAUSE, MOST_CALLS, CallDeaths
from managed_session_worker.worker_log import logger


def counted(deaths: CallDeaths, call: Mapping[str, Any], cause: str) -> CallDeaths:
    """Return `deaths` with one more death of `call` ({"id", "tool"})."""
    before = deaths.get(call["id"], {}).get("deaths", 0)
    entry = {"tool": call["tool"], "deaths": before + 1, "cause": cause[:MAX_CAUSE]}
    return _bounded({**deaths, call["id"]: entry})


def merged(ours: CallDeaths, theirs: CallDeaths) -> CallDeaths:
    """Merge two counts of the same deaths, either of which may be incomplete."""
    result = dict(ours)
    for identifier, entry in theirs.items():
        if entry["deaths"] > result.get(identifier, {}).get("deaths", 0):
            result[identifier] = entry
    return _bounded(result)


def _bounded(deaths: CallDeaths) -> CallDeaths:
    kept = sorted(deaths, key=lambda identifier: -int(deaths[identifier]["deaths"]))[:MOST_CALLS]
    return {identifier: deaths[identifier] for identifier in deaths if identifier in kept}


class _RefusingTool:
    """Wraps a tool of the SDK and refuses some of its calls."""

    def __init__(self, tool: Any, refusal: Callable[[], str | None]) -> None:
        self._tool = tool
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)

    async def call(self, arguments: object) -> Any:
        """Run the tool, or answer why this call is not run."""
        refusal = self._refusal()
        if refusal is not None:
            raise ToolError(refusal)
        return await self._tool.call(arguments)


def is_last_attempt(call: str, deaths: CallDeaths, attempts: int) -> bool:
    """Return whether a call that has ended workers, or ran beside one that did, may run only once more.

    It then runs alone. If the worker ends again, this call was the cause, and the calls that only ran beside
    it are not refused for it.
    """
    number: int = deaths.get(call, {}).get("deaths", 0)
    return 0 < number == attempts - 1


def refuse_fatal_calls(
    tools: Sequence[Any], deaths: CallDeaths, attempts: int, running: Callable[[], str | None]
) -> list[Any]:
    """Wrap `tools` so that a call that has ended `attempts` workers is answered with an error.

    Args:
        tools: The tools for the SDK's runner.
        deaths: The deaths of this session's calls so far.
        attempts: How many times a call may run.
        running: Returns the tool use ID of the call that this task serves.
    """
    refusals = {
        identifier: _refusal(entry) for identifier, entry in deaths.items() if entry["deaths"] >= attempts
    }
    if not refusals:
        return list(tools)

    def refusal() -> str | None:
        identifier = running()
        text = refusals.get(identifier or "")
        if text is not None:
            logger.warning("not running tool_use_id=%s again: %s", identifier, text)
        return text

    return [_RefusingTool(tool, refusal) for tool in tools]


def _refusal(entry: Mapping[str, Any]) -> str:
    times = f"{entry['deaths']} times" if entry["deaths"] != 1 else "once"
    return f"This call ended the worker {times}: {entry['cause']}. It was not run again."


def killed_by(status: int | None, memory_kills_before: int | None) -> str:
    """Return what killed a worker, for people.

    Args:
        status: Its wait status, or None if that is unknown.
        memory_kills_before: `memory_kills` when its newest call began; None if there was no call.
    """
    after = memory_kills()
    if memory_kills_before is not None and after is not None and after > memory_kills_before:
        return "out of memory (killed)"
    if status is not None and os.WIFSIGNALED(status):
        return f"killed (signal {os.WTERMSIG(status)})"
    return "killed with its supervisor"


def memory_kills(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many processes the kernel has killed for lack of memory: in this control group, or in all.

    cgroup v2 `memory.events`, cgroup v1 `memory.oom_control` and the machine's /proc/vmstat (since Linux
    4.13) each have a line `oom_kill N`. None if none of them can be read.
    """
    found = [_oom_kills(path) for path in _group_files(proc, groups)]
    return next((number for number in [*found, _oom_kills(proc / "vmstat")] if number is not None), None)


def _group_files(proc: Path, groups: Path) -> list[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            files.append(groups / "memory" / group.lstrip("/") / "memory.oom_control")
        elif not controllers:
            files.append(groups / group.lstrip("/") / "memory.events")
    return files


def _oom_kills(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines)
    return next((int(words[1]) for words in found if len(words) == 2 and words[0] == "oom_kill"), None)
