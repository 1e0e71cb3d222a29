from collections.abc import AsyncIterator, Iterator

import pytest
from e2b import E2B
from managed_session_worker.template import worker_template

from .simulated_e2b import simulated_e2b
from .worker_sandbox import Sandbox, SupervisorForker
from .worker_wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Anthropic's side of one session."""
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def forker() -> Iterator[SupervisorForker]:
    """Starts supervisors fast."""
    forker = SupervisorForker()
    yield forker
    forker.close()


@pytest.fixture
def stopped_sandbox(wire: Wire, forker: SupervisorForker) -> Iterator[Sandbox]:
    """A sandbox whose supervisor does not run yet."""
    sandbox = Sandbox(wire.url, forker)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(stopped_sandbox: Sandbox) -> Sandbox:
    """A sandbox with a running supervisor."""
    stopped_sandbox.start_supervisor()
    return stopped_sandbox


@pytest.fixture(scope="session")
async def e2b(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[E2B]:
    """E2B's SDK with its own simulator."""
    with simulated_e2b(tmp_path_factory.mktemp("e2b")) as client:
        yield client


@pytest.fixture(scope="session")
async def worker_build(e2b: E2B) -> str:
    """The name of the built worker template."""
    await e2b.AsyncTemplate.build(worker_template(), "worker:1")
    return "worker:1"
