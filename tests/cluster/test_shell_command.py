"""`managed-sessions shell`: a real terminal in a session's sandbox, which leaves an Event and no content."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from managed_session_api.names import resource_name
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import becomes, begin, resource
from ..support.waiting import eventually
from .command_line import COMMAND, Site

SECONDS = 60.0
GREEN = "\x1b[32m"


class Typist:
    """A person at a terminal of 30 rows and 100 columns, in which a command runs."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.seen = ""
        self._terminal = terminal
        self._looked_at = 0
        self._more = asyncio.Event()
        os.set_blocking(terminal, False)
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._terminal, 65_536)
        except OSError:
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._terminal)
        self.seen += chunk.decode(errors="replace")
        self._more.set()

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def sees(self, text: str) -> None:
        """Wait for a text after the last one that was waited for."""
        async with asyncio.timeout(SECONDS):
            while (found := self.seen.find(text, self._looked_at)) < 0:
                self._more.clear()
                await self._more.wait()
        self._looked_at = found + len(text)

    async def ends(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), SECONDS)
        asyncio.get_running_loop().remove_reader(self._terminal)
        return code


@asynccontextmanager
async def typing(site: Site, *arguments: str, **variables: str) -> AsyncIterator[Typist]:
    """Run a command in a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        f"--namespace={site.namespace}",
        f"--system-namespace={site.system_namespace}",
        env={
            **os.environ,
            **site.addresses(),
            "KUBECONFIG": str(site.control_plane.kubeconfig),
            "TERM": "xterm-256color",
            **variables,
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    typist = Typist(process, ours)
    try:
        yield typist
    except BaseException:
        print(typist.seen)
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


@pytest.fixture(scope="module")
async def resting(serving: LocalSystem) -> str:
    async with begin(serving) as conversation:
        assert await conversation.say("Run: echo hello > kept; echo done") == "done"
    await becomes(serving, conversation.session_id, "Idle", status="True")
    return conversation.session_id


async def accesses(site: Site, session_id: str) -> list[str]:
    """The messages of the Events that tell of people in the sandbox."""
    name = resource_name(session_id)
    selector = f"--field-selector=involvedObject.name={name},reason=SandboxAccessed"
    found = await site.kubectl("get", "events", f"--namespace={site.namespace}", selector, "--output=json")
    return [each["message"] for each in json.loads(found)["items"]]


async def test_shell_has_keys_size_rights_and_exit_status_and_leaves_an_event(
    site: Site, serving: LocalSystem, resting: str
) -> None:
    async with typing(site, "shell", resting, "--resume") as typist:
        await typist.sees("$ ")
        typist.type("until stty size | grep -qx '30 100'; do sleep 0.1; done\r")
        await typist.sees("$ ")
        typist.type("echo size $(stty size) in $PWD with $(cat kept)\r")
        await typist.sees("size 30 100 in /mnt/session with hello")
        await typist.sees("$ ")
        typist.resize(40, 120)
        typist.type("until stty size | grep -qx '40 120'; do sleep 0.1; done; echo now $((40 * 3))\r")
        await typist.sees("now 120")
        await typist.sees("$ ")
        typist.type("echo be''gins; sed -u s/question/answer/\r")
        await typist.sees("begins")
        typist.type("a question\r")
        await typist.sees("a answer")
        typist.type("\x03")  # reaches the program, and not this command
        await typist.sees("$ ")
        typist.type("exit 7\r")
        assert await typist.ends() == 7
    assert "setpriv" not in typist.seen
    assert any("opened a shell in the sandbox" in each for each in await accesses(site, resting))

    async def paused() -> bool:
        return (await resource(serving, resting))["status"]["sandbox"]["state"] == "Paused" and all(
            each.state == "paused" for each in await site.sandboxes_of(resting)
        )

    await eventually("the sandbox is paused again", paused)


async def test_command_runs_beside_the_worker_with_its_output_and_exit_status(
    site: Site, serving: LocalSystem
) -> None:
    async with begin(serving) as conversation:
        session_id = conversation.session_id
        await conversation.send(f"Run: {WAIT}; echo done")
        await becomes(serving, session_id, "Running", status="True")
        ended = await site.run(
            "shell", session_id, "--", "sh", "-c", "echo out; echo hidden-content >&2; exit 3", keys={}
        )
        assert (ended.code, ended.output, ended.errors) == (3, "out\n", "hidden-content\n")
        [message] = await accesses(site, session_id)
        assert "ran a command in the sandbox" in message
        assert "hidden-content" not in message
        [sandbox] = await site.sandboxes_of(session_id)
        let_go(sandbox)
        assert await conversation.answer() == "done"


async def test_shell_goes_on_after_the_end_of_a_turn(site: Site, serving: LocalSystem) -> None:
    """The operator pauses the sandbox then, and the command resumes it, with the shell as it was."""
    async with begin(serving) as conversation:
        session_id = conversation.session_id
        await conversation.send(f"Run: {WAIT}; echo done")
        await becomes(serving, session_id, "Running", status="True")
        async with typing(site, "shell", session_id, "--resume") as typist:
            await typist.sees("$ ")
            typist.type("kept=value\r")
            await typist.sees("$ ")
            [sandbox] = await site.sandboxes_of(session_id)
            let_go(sandbox)
            assert await conversation.answer() == "done"
            await becomes(serving, session_id, "Idle", status="True")

            async def resumed() -> bool:
                return (await site.sandboxes_of(session_id))[0].resumes > 0

            await eventually("the command has resumed the sandbox", resumed)
            typist.type("echo still the $kept\r")
            await typist.sees("still the value")
            typist.type("exit\r")
            assert await typist.ends() == 0

        async def paused() -> bool:
            return (await site.sandboxes_of(session_id))[0].state == "paused"

        await eventually("the sandbox is paused again", paused)


async def test_top_refreshes_on_a_terminal_and_has_colours_unless_they_are_unwanted(
    site: Site, serving: LocalSystem
) -> None:
    async with begin(serving) as conversation:
        await conversation.send(f"Run: {WAIT}; echo done")
        await becomes(serving, conversation.session_id, "Running", status="True")
        async with typing(site, "top", "--interval=0.5") as typist:
            for _ in range(2):
                await typist.sees(conversation.session_id)
            assert GREEN in typist.seen
            typist.type("\x03")
            assert await typist.ends() == 130
            assert "Traceback" not in typist.seen
        async with typing(site, "top", NO_COLOR="1") as typist:
            await typist.sees(conversation.session_id)
            typist.type("\x03")
            assert await typist.ends() == 130
            assert GREEN not in typist.seen
        let_go((await site.sandboxes_of(conversation.session_id))[0])
        assert await conversation.answer() == "done"


async def test_paused_sandbox_stays_paused_and_a_pipe_is_no_terminal(site: Site, resting: str) -> None:
    before = len(await accesses(site, resting))
    asleep = await site.run("shell", resting, "--", "true", keys={})
    assert (asleep.code, "Use --resume" in asleep.errors) == (1, True)
    assert len(await accesses(site, resting)) == before
    without = await site.run("shell", resting, keys={})
    assert (without.code, "a shell needs a terminal" in without.errors) == (1, True)


async def test_nobody_gets_in_without_leaving_an_event(site: Site, resting: str) -> None:
    """A user who may read sessions and has E2B's key, but may not create Events."""
    where = f"--namespace={site.namespace}"
    await site.kubectl("create", "serviceaccount", "reader", where)
    await site.kubectl(
        "create", "rolebinding", "reader", "--clusterrole=managed-sessions-view",
        f"--serviceaccount={site.namespace}:reader", where,
    )  # fmt: skip
    kubeconfig = await site.control_plane.service_account_kubeconfig(site.namespace, "reader")
    before = len(await accesses(site, resting))
    for command in (("shell", resting, "--resume", "--", "true"), ("outputs", resting, "--wake")):
        ended = await site.run(command[0], f"--kubeconfig={kubeconfig}", *command[1:])
        assert ended.code == 1
        assert "bind the ClusterRole managed-sessions-edit" in ended.errors
    assert len(await accesses(site, resting)) == before
