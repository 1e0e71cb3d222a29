"""The tools for files stay in the session's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_functions import aclose_runnable_tool
from anthropic.lib.tools.agent_toolset import AgentToolContext
from managed_session_worker.bash_tool import agent_toolset

from .local_shells import local_shells

CALLS: dict[str, dict[str, Any]] = {
    "read": {"file_path": "{}/secret"},
    "write": {"file_path": "{}/new", "content": "x"},
    "edit": {"file_path": "{}/secret", "old_string": "hidden", "new_string": "x"},
    "glob": {"pattern": "*", "path": "{}"},
    "grep": {"pattern": "hidden", "path": "{}"},
}
"""A call of each tool, with the directory to put in."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", ["{}/outside", "../outside", "link"])
async def test_file_tools_reach_nothing_outside_the_sessions_directory(
    tmp_path: Path, name: str, place: str
) -> None:
    workdir, outside = tmp_path / "session", tmp_path / "outside"
    for folder in (workdir / "inside", outside):
        folder.mkdir(parents=True)
        (folder / "secret").write_text("hidden")
    (workdir / "link").symlink_to(outside)
    async with local_shells() as shells:
        (tool,) = [
            each for each in agent_toolset(AgentToolContext(workdir=workdir), shells) if each.name == name
        ]
        with pytest.raises(ToolError, match="outside"):
            await tool.call(in_directory(CALLS[name], place.format(tmp_path)))
        assert [(each.name, each.read_text()) for each in outside.iterdir()] == [("secret", "hidden")]
        # The same call inside works, so it is the place that is refused.
        await tool.call(in_directory(CALLS[name], "inside"))
        await aclose_runnable_tool(tool)


def in_directory(call: dict[str, Any], folder: str) -> dict[str, Any]:
    return {key: value.format(folder) for key, value in call.items()}
