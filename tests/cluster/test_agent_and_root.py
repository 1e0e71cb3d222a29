"""An agent that tries to have root run its code at the next turn, through real turns."""

from __future__ import annotations

from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import begin, paused
from ..support.waiting import eventually

APPEND = (
    "for f in {/usr/local,/opt/anthropic-managed-agents/python}/lib/python3.*/struct.py;"
    " do { echo 'import os, glob'; echo 'if os.getuid() == 0 and os.access(\"/root\", os.W_OK):';"
    " echo '    for found in glob.glob(\"/opt/anthropic-managed-agents/inbox/*\"):';"
    ' echo \'        open("/tmp/stolen", "w").write(open(found).read())\'; } >> $f; done 2>/dev/null; '
    "echo tried"
)
"""Four lines at the end of a module that every Python imports: run by root, they copy the start request."""


async def test_lines_that_an_agent_appends_to_python_are_not_run_by_root_at_the_next_turn(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        assert await conversation.say(f"Run: {APPEND}") == "tried"
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert await conversation.say("Run: cat /tmp/stolen 2>/dev/null || echo nothing") == "nothing"
        assert await conversation.say("Run: id -un") == "agent"
