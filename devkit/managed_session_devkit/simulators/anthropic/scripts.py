"""The scripts that the simulated agent follows.

A script is a list of steps, each a JSON object with one of these keys:

- ``{"tool": "bash", "input": {"command": "…"}, "expect": "…", "permission": "allow|ask|deny",
  "custom": false}``: request a tool call and wait for its result. ``expect`` is a substring or regular
  expression of the result's text; ``expect_error`` (true or false) is what ``is_error`` must be. A mismatch
  goes to the ledger.
- ``{"tools": [{…}, {…}]}``: several such calls at once. Their results may come in any order.
- ``{"say": "text"}``: send a message. ``{result}`` is replaced with the text of the newest tool result.
- ``{"sleep_ms": 250}``: think.
- ``{"reschedule_ms": 250}``: be ``rescheduling`` for that long.
- ``{"thread": [step, …]}``: have a sub-agent play steps in its own thread; ``{"threads": [[…], […]]}``:
  several at once. ``{"terminate": true}`` there ends only that thread.
- ``{"pause_ms": 250}``: go idle as in a workflow's pause, and run again after that time without a message.
- ``{"event": {"type": "…", …}}``: add any event to the session's log.
- ``{"stop": "refusal"}``: end the turn with another stop reason than ``end_turn``, even an unknown one.
- ``{"terminate": true}``: end the session with an error.

A regular expression over the whole message chooses a registered script. Texts of its steps can use the
expression's named groups as ``{name}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

StopReason = Annotated[str, Field(min_length=1)]
"""`end_turn`, `retries_exhausted`, `refusal`, `budget_reached`, or one that no SDK knows."""


class ToolRequest(BaseModel):
    """A tool call that the agent requests."""

    model_config = ConfigDict(extra="forbid")

    tool: str
    input: dict[str, Any] = {}
    expect: str | None = None
    expect_error: bool | None = None
    permission: Literal["allow", "ask", "deny"] = "allow"
    custom: bool = False

    def mismatch(self, text: str, *, is_error: bool) -> str | None:
        """Return why a result is not the expected one, or None if it is."""
        if self.expect_error is not None and self.expect_error != is_error:
            return f"is_error is {is_error}, expected {self.expect_error}"
        if self.expect is None or self.expect in text:
            return None
        try:
            found = re.search(self.expect, text)
        except re.error:
            found = None
        return None if found else f"the result lacks {self.expect!r}"


class Step(BaseModel):
    """One step, with exactly one of its fields set."""

    model_config = ConfigDict(extra="forbid")

    tools: list[ToolRequest] | None = Field(default=None, min_length=1)
    threads: list[list[Step]] | None = Field(default=None, min_length=1)
    say: str | None = None
    sleep_ms: float | None = Field(default=None, ge=0)
    reschedule_ms: float | None = Field(default=None, ge=0)
    pause_ms: float | None = Field(default=None, ge=0)
    event: dict[str, Any] | None = None
    stop: StopReason | None = None
    terminate: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _single_tool(cls, value: Any) -> Any:
        if isinstance(value, dict) and "tool" in value:
            return {"tools": [value]}
        if isinstance(value, dict) and "thread" in value:
            return {
                **{name: each for name, each in value.items() if name != "thread"},
                "threads": [value["thread"]],
            }
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise ValueError(
                "a step needs exactly one of: tool, tools, thread, threads, say, sleep_ms, reschedule_ms, "
                "pause_ms, event, stop, terminate"
            )
        return self


class Script(BaseModel):
    """A named script, and the messages that select it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    match: str
    steps: list[Step]

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Script:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is not a regular expression: {error}") from error
        return self

    def select(self, message: str) -> list[Step] | None:
        """Return the steps for a message, with its groups filled in, or None if it selects another script."""
        found = re.fullmatch(self.match, message.strip(), re.DOTALL)
        if found is None:
            return None
        groups = {name: value or "" for name, value in found.groupdict().items()}
        return [
            Step.model_validate(_fill(step.model_dump(exclude_unset=True), groups)) for step in self.steps
        ]


def _fill(value: Any, groups: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return fill(value, groups)
    if isinstance(value, dict):
        return {key: _fill(item, groups) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, groups) for item in value]
    return value


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` with its value, in one pass. Unknown names and other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def default_scripts() -> list[Script]:
    """Return the built-in scripts."""
    echo = Script(
        name="echo",
        match=r"Use bash to echo (?P<text>.+?)\. Answer only with that text\.?",
        steps=[
            Step(tools=[ToolRequest(tool="bash", input={"command": "echo {text}"}, expect_error=False)]),
            Step(say="{result}"),
        ],
    )
    run = Script(
        name="run",
        match=r"Run: (?P<command>.+)",
        steps=[
            Step(tools=[ToolRequest(tool="bash", input={"command": "{command}"})]),
            Step(say="{result}"),
        ],
    )
    return [echo, run]


class ScriptBook:
    """All scripts. The newest registered one that matches is used."""

    def __init__(self) -> None:
        self._scripts = default_scripts()

    def add(self, script: Script) -> None:
        """Register a script. It replaces an older one of the same name."""
        self._scripts = [script, *(known for known in self._scripts if known.name != script.name)]

    def names(self) -> list[str]:
        """Return the names in the order in which the scripts are tried."""
        return [script.name for script in self._scripts]

    def steps_for(self, message: str) -> tuple[str, list[Step]]:
        """Return the name and the steps of the script for a message.

        A message that is JSON with a ``script`` list is its own script. A message that no script matches gets
        a plain answer without a tool call.
        """
        if message.lstrip().startswith("{"):
            try:
                value = json.loads(message)
                if isinstance(value, dict) and isinstance(value.get("script"), list):
                    return "inline", [Step.model_validate(step) for step in value["script"]]
            except ValidationError as error:
                return "invalid", [Step(say=f"This script is not valid: {error}")]
            except ValueError:
                pass
        for script in self._scripts:
            steps = script.select(message)
            if steps is not None:
                return script.name, steps
        return "plain", [Step(say=f"You said: {message}")]
