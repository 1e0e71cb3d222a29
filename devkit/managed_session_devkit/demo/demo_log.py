"""Prints the demo: its steps, a timeline and checks."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

_COLOURS = {
    "user": "bold",
    "webhook": "magenta",
    "resource": "blue",
    "operator": "cyan",
    "sandbox": "yellow",
    "worker": "green",
    "agent": "bold green",
}
_LAST_LINES = 15


class CheckFailedError(Exception):
    """A check failed; the text says which and what was seen."""


class DemoLog:
    """Prints to a terminal, or as plain lines to a file or pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._passed = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def heading(self, text: str) -> None:
        """Print the title of the next part."""
        self.console.print(f"\n[bold]{escape(text)}[/]", soft_wrap=True)

    def line(self, text: str) -> None:
        """Print one line of progress."""
        self.console.print(f"  {escape(text)}", style="dim", soft_wrap=True)

    def happened(self, part: str, text: str) -> None:
        """Print one line of the timeline: which part of the system did what."""
        colour = _COLOURS.get(part, "default")
        self.console.print(
            f"  [dim]{self.seconds:7.2f} s[/]  [{colour}]{part:<9}[/] {escape(text)}", soft_wrap=True
        )

    def output(self, command: str, text: str) -> None:
        """Print a command and its output."""
        self.console.print(f"  [bold]$ {escape(command)}[/]", soft_wrap=True)
        for line in text.rstrip().splitlines():
            self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def check(self, what: str, passed: bool, seen: str = "") -> None:
        """Print whether a check passed.

        Raises:
            CheckFailedError: it did not pass.
        """
        detail = f" [dim]{escape(seen)}[/]" if seen else ""
        mark = "[green]✓[/]" if passed else "[red]✗[/]"
        self.console.print(f"  {mark} {escape(what)}{detail}", soft_wrap=True)
        if not passed:
            raise CheckFailedError(f"{what}" + (f" (seen: {seen})" if seen else ""))
        self._passed += 1

    def failed(self, problem: str, logs: dict[str, Path]) -> None:
        """Print which check failed, and the end of each log."""
        self.console.print(f"\n[bold red]The demo failed:[/] {escape(problem)}", soft_wrap=True)
        for name, path in logs.items():
            lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
            self.console.print(f"\n  [bold]{name}[/], last lines of its log:")
            for line in lines[-_LAST_LINES:]:
                self.console.print(f"    {line}", style="dim", markup=False, soft_wrap=True)

    def succeeded(self) -> None:
        """Print that all checks passed."""
        self.console.print(
            f"\n[bold green]All {self._passed} checks passed[/] in {self.seconds:.1f} s.", soft_wrap=True
        )
