"""One attempt of a hostile agent, and the shell functions with which it tries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PRELUDE = r"""
H=/opt/anthropic-managed-agents; W=$(pgrep -x session-worker | head -n 1)
S=$(ps -o ppid= -p "$W" | tr -d ' ')
try() { local e; if e=$({ "$@" >/dev/null; } 2>&1); then echo "SUCCEEDED: $*"; else case $e in
  *denied*|*permitted*|*PermissionError*|*only\ file*) echo refused;;
  *) echo "OTHER: $*: $e";; esac; fi; }
"""
"""`$H` is our directory, `$W` the worker, `$S` the supervisor, `$PPID` the shell host. `try` tells a refusal
for lack of rights from a success and from anything else, such as a program that does not exist."""
REFUSED = r"(refused\n?)+"


@dataclass(frozen=True)
class Attempt:
    """What the agent does in one tool call.

    Attributes:
        name: what it tries, for the table of docs/security.md.
        outcome: what happens, for the same table.
        runs: the commands; `PRELUDE` precedes them. `{api}`, `{e2b}`, `{other}`, `{store}` and `{token}` are
            addresses, another session, its memory store, and this session's token, which the test gives away.
        sees: a regular expression that the whole answer has to match.
        later: commands of the next turn, which has its own worker, after a pause.
        holds: what the whole answer to these has to match.
        tool: the tool that is called with `arguments`, instead of bash with `runs`.
        milliseconds: the command's time-out.
    """

    name: str
    outcome: str
    runs: str = ""
    sees: str = REFUSED
    later: str = ""
    holds: str = ""
    tool: str = "bash"
    arguments: dict[str, Any] = field(default_factory=dict)
    milliseconds: int = 30_000

    def call(self, values: dict[str, str], *, later: bool = False) -> dict[str, Any]:
        """Return the step of a script that plays it, or what is looked at in the next turn."""
        if self.tool != "bash" and not later:
            return {"tool": self.tool, "input": self.arguments}
        text = self.later if later else self.runs
        for name, value in values.items():
            text = text.replace("{" + name + "}", value)
        return {"tool": "bash", "input": {"command": f"{PRELUDE}{text}", "timeout_ms": self.milliseconds}}


@dataclass(frozen=True)
class Group:
    """Attempts that are played in one session.

    Attributes:
        name: heading of the table.
        attempts: in this order, in one turn.
        costs_the_turn: whether each attempt ends or stops its worker. It is then played in its own turn,
            which the next worker ends.
    """

    name: str
    attempts: tuple[Attempt, ...]
    costs_the_turn: bool = False
