"""One call by each client of operator and command line to the two clouds, as a process of its own.

Both SDKs read proxy variables and authorities from the environment, some of it once per process. Prints the
name of each call that was answered, whatever the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import e2b
from managed_session_cli.anthropic_environment import AnthropicEnvironment
from managed_session_cli.clouds import E2BTeam
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.clients.rotating_key import RotatingKey
from pydantic import SecretStr


def _key(value: str) -> RotatingKey:
    return RotatingKey("a key", lambda: [SecretStr(value)])


async def _work_list() -> None:
    queue = WorkQueue(lambda: "env_1", _key("sk-ant-oat01-x"), worker_id="x", fence=lambda: None, timeout=10)
    await queue.items()


async def _sandbox_list() -> None:
    sandboxes = Sandboxes(_key("e2b_" + "0" * 40), fence=lambda: None, request_timeout=10, create_timeout=10)
    await sandboxes.list({})


async def _connected() -> e2b.AsyncSandbox:
    return await e2b.E2B(api_key="e2b_" + "0" * 40).AsyncSandbox.connect("isandbox")


async def _file() -> None:
    await (await _connected()).files.read("/file", request_timeout=10)


async def _command() -> None:
    await (await _connected()).commands.run("true", request_timeout=10)


async def _command_line_queue() -> None:
    await asyncio.to_thread(AnthropicEnvironment("env_1", "sk-ant-oat01-x").check)


async def _command_line_sandboxes() -> None:
    await E2BTeam("e2b_" + "0" * 40).sandboxes({})


CALLS: dict[str, Callable[[], Awaitable[None]]] = {
    "anthropic": _work_list,
    "e2b": _sandbox_list,
    "file": _file,
    "command": _command,
    "command line: anthropic": _command_line_queue,
    "command line: e2b": _command_line_sandboxes,
}


async def main() -> None:
    """Make the calls one after another."""
    for name, call in CALLS.items():
        try:
            await call()
            print(f"{name}: answered", flush=True)
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            print(f"{name}: {type(error).__name__} {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
