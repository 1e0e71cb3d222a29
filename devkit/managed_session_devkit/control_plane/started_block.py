"""What is started by an `async with` block and stopped at its end."""

from contextlib import AsyncExitStack
from typing import Self


class StartedBlock:
    """Runs `_start` on entry; what this puts on the exit stack ends with the block, or when it fails."""

    def __init__(self) -> None:
        self._exit_stack = AsyncExitStack()

    async def _start(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        """Start, and return when everything is ready."""
        try:
            await self._start()
        except BaseException:
            await self._exit_stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit_stack.aclose()
