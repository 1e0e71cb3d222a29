import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from worker_sandbox import Sandbox
from worker_wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Anthropic, as far as one session needs it."""
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def sandbox(wire: Wire) -> Iterator[Sandbox]:
    """A sandbox whose supervisor is up."""
    sandbox = Sandbox(wire.url)
    sandbox.start_supervisor()
    yield sandbox
    sandbox.close()
