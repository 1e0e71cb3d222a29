"""Real fish and zsh: those on PATH, or Debian's packages in the cache."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path

from .debian_packages import unpacked

_LIBRARIES = f"usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
_PROMPT = "READY> "
_SECONDS = 60.0


def fish() -> tuple[str, dict[str, str]]:
    """The program, and the variables that it needs."""
    if found := shutil.which("fish"):
        return found, {}
    folder = unpacked("fish", "fish", "fish-common", "libpcre2-32-0")
    return str(folder / "usr/bin/fish"), {"LD_LIBRARY_PATH": str(folder / _LIBRARIES)}


def _zsh() -> tuple[str, str]:
    """The program, and what it has to execute first."""
    if found := shutil.which("zsh"):
        return found, ""
    folder = unpacked("zsh", "zsh", "zsh-common")
    (modules,) = (folder / _LIBRARIES / "zsh").iterdir()
    functions = folder / "usr/share/zsh/functions"
    path = " ".join(str(each) for each in (functions, *functions.rglob("*")) if each.is_dir())
    return str(folder / "bin/zsh"), f"module_path=({modules}); fpath=({path})"


class Zsh:
    """An interactive zsh on a terminal of its own.

    Args:
        environment: its variables.
        script: what it reads first, as from ~/.zshrc.
    """

    def __init__(self, environment: dict[str, str], script: str, folder: Path) -> None:
        self._environment = {**environment, "TERM": "dumb", "ZDOTDIR": str(folder)}
        self._program, prelude = _zsh()
        lines = [prelude, "autoload -Uz compinit", "compinit -u -D", script, f"PS1='{_PROMPT}'"]
        (folder / ".zshrc").write_text("\n".join(lines) + "\n")

    async def __aenter__(self) -> Zsh:
        self._terminal, other = pty.openpty()
        self._process = await asyncio.create_subprocess_exec(
            self._program, "--no-globalrcs", "-i",
            stdin=other, stdout=other, stderr=other, env=self._environment, start_new_session=True,
        )  # fmt: skip
        os.close(other)
        await self.until(_PROMPT)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        os.close(self._terminal)

    async def completed(self, typed: str, wanted: str) -> None:
        """Type this on a new line, press Tab, and wait for what the line has to be then."""
        os.write(self._terminal, f"\x15{typed}\t".encode())
        await self.until(wanted)

    async def until(self, wanted: str) -> None:
        """Wait until this is on the terminal. Raises TimeoutError with what is there instead."""
        loop, shown, came = asyncio.get_running_loop(), bytearray(), asyncio.Event()

        def read() -> None:
            with suppress(OSError):
                shown.extend(os.read(self._terminal, 65536))
            came.set()

        loop.add_reader(self._terminal, read)
        try:
            async with asyncio.timeout(_SECONDS):
                while wanted not in _plain(shown):
                    came.clear()
                    await came.wait()
        except TimeoutError:
            raise TimeoutError(f"{wanted!r} is not in {_plain(shown)!r}") from None
        finally:
            loop.remove_reader(self._terminal)


def _plain(shown: bytes | bytearray) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
