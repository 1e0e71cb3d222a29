"""`managed-sessions outputs` and `cp`: files of a session's sandbox, on the user's machine."""

from __future__ import annotations

from pathlib import Path

from managed_session_api.names import METADATA_SESSION
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import begin, resource
from ..support.waiting import eventually
from .command_line import Site


async def rests(serving: LocalSystem, session_id: str) -> None:
    """Wait until the session's sandbox is paused."""

    async def paused() -> bool:
        status = (await resource(serving, session_id))["status"]
        return bool(status.get("sandbox", {}).get("state") == "Paused")

    await eventually("the sandbox is paused", paused)


async def test_outputs_are_downloaded_and_files_are_copied_without_waking_more_than_needed(
    site: Site, serving: LocalSystem, tmp_path: Path
) -> None:
    async with begin(serving) as conversation:
        session_id = conversation.session_id
        script = (
            "mkdir -p outputs/deep && echo result > outputs/deep/result.txt && ln -s /etc/shadow outputs/link"
            " && printf '#!/bin/sh' > outputs/run && chmod 755 outputs/run; echo done"
        )
        await conversation.say(f"Run: {script}")
        await rests(serving, session_id)

        asleep = await site.run("outputs", session_id, keys={})
        assert asleep.code == 1
        assert "Use --wake to resume it" in asleep.errors
        listed = await site.run("outputs", session_id, "--wake", keys={})
        assert listed.code == 0, listed.text
        assert "deep/result.txt" in listed.output
        assert "Left out, because they are links or special files: link" in listed.errors
        assert "paused again" in listed.errors

        here = tmp_path / "results"
        ended = await site.run("outputs", session_id, "--wake", "--download", str(here), keys={})
        assert ended.code == 0, ended.text
        assert (here / "deep" / "result.txt").read_text() == "result\n"
        assert (here / "run").stat().st_mode & 0o100
        assert not (here / "link").exists()

        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "one.txt").write_text("one")
        copied = await site.run("cp", str(tmp_path / "data"), f"{session_id}:data", "--wake", keys={})
        assert copied.code == 0, copied.text
        [sandbox] = [s for s in await site.e2b.sandboxes() if s.metadata.get(METADATA_SESSION) == session_id]
        assert (sandbox.state, sandbox.resumes) == ("paused", 3)

        # In the next turn the agent owns what was copied.
        owner = await conversation.say("Run: [ -O data/one.txt ] && cat data/one.txt")
        assert owner == "one"
        await rests(serving, session_id)
    back = await site.run("cp", f"{session_id}:data/one.txt", f"{tmp_path}/", "--wake", keys={})
    assert back.code == 0, back.text
    assert (tmp_path / "one.txt").read_text() == "one"


async def test_two_local_paths_are_refused(site: Site) -> None:
    ended = await site.run("cp", "./a", "./b", keys={})
    assert ended.code == 1
    assert "one of the two must be in a sandbox" in ended.errors
