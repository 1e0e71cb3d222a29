from collections.abc import Iterator

import pytest

from .worker_sandbox import Sandbox
from .worker_wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Anthropic, as far as one session needs it."""
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def stopped_sandbox(wire: Wire) -> Iterator[Sandbox]:
    """A sandbox without a supervisor yet."""
    sandbox = Sandbox(wire.url)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(stopped_sandbox: Sandbox) -> Sandbox:
    """A sandbox whose supervisor is up."""
    stopped_sandbox.start_supervisor()
    return stopped_sandbox
