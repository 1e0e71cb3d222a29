from collections.abc import Iterator

import pytest

from .worker_sandbox import Nursery, Sandbox
from .worker_wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Anthropic, as far as one session needs it."""
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts supervisors quickly."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def stopped_sandbox(wire: Wire, nursery: Nursery) -> Iterator[Sandbox]:
    """A sandbox without a supervisor yet."""
    sandbox = Sandbox(wire.url, nursery)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(stopped_sandbox: Sandbox) -> Sandbox:
    """A sandbox whose supervisor is up."""
    stopped_sandbox.start_supervisor()
    return stopped_sandbox
