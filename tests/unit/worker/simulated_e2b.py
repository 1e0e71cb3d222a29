"""The worker's template in the E2B simulator, with sandboxes through E2B's own SDK."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2b import E2B

from ...support.simulator_process import simulator_process

_OPTIONS: dict[int, dict[str, Any]] = {}


def options_of(client: E2B) -> dict[str, Any]:
    """Return the options with which a call of the SDK reaches the same simulator."""
    return dict(_OPTIONS[id(client)])


@contextmanager
def simulated_e2b(folder: Path) -> Iterator[E2B]:
    """Run E2B's simulator as a process."""
    with simulator_process("e2b", folder, f"--state-dir={folder / 'state'}") as running:
        options: dict[str, Any] = {
            "api_key": "e2b_0123456789",
            "api_url": running.url,
            "sandbox_url": running.url,
        }
        client = E2B(**options)
        _OPTIONS[id(client)] = options
        yield client
