"""Runs a coroutine in the foreground until it ends or a signal stops it."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Result = TypeVar("Result")


class StoppedBySignal(Exception):  # noqa: N818 - not an error
    """Ctrl-C, SIGTERM or SIGHUP stopped the program, which has cleaned up."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


def run_in_foreground(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end. A signal cancels it, so it cleans up; another signal cuts the cleanup short.

    Raises:
        StoppedBySignal: a signal stopped it.
    """
    received: list[signal.Signals] = []

    async def run() -> Result:
        task = asyncio.ensure_future(main)

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if received:
            raise StoppedBySignal(received[0]) from None
        raise
