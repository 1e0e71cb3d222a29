"""The plan of a sandbox's preparation, and how it gets into a sandbox of E2B's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import e2b
import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.clients.e2b.sandbox_preparation import SandboxPreparations
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.preparation import Report, StepFailure, reason_of

from ..worker.simulated_e2b import simulated_e2b
from .examples import key


@pytest.fixture
async def sandbox(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[e2b.AsyncSandbox]:
    """A sandbox of a template without our worker, which has no folder of ours yet."""
    monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")
    with simulated_e2b(tmp_path_factory.mktemp("e2b")) as client:
        yield await client.AsyncSandbox.create("base")


@pytest.fixture
def preparations() -> SandboxPreparations:
    """The operator's client."""
    sandboxes = Sandboxes(key("key"), fence=lambda: None, request_timeout=30, create_timeout=30)
    return SandboxPreparations(sandboxes, patience=60)


async def test_a_plan_runs_in_the_sandbox_and_leaves_nothing_behind(
    sandbox: e2b.AsyncSandbox, preparations: SandboxPreparations
) -> None:
    empty = {"seconds": 10, "sections": []}
    assert await preparations.prepare(sandbox, empty) == Report()
    newer = {"seconds": 10, "sections": [["newer", {"secret": "s3cret"}]]}
    failure = StepFailure("newer", "newer", "this section is unknown")
    assert await preparations.prepare(sandbox, newer) == Report(failure)
    found = await sandbox.commands.run("grep -rs s3cret /opt/anthropic-managed-agents || true", user="root")
    assert found.stdout == ""


async def test_a_program_that_cannot_report_is_tried_again(
    sandbox: e2b.AsyncSandbox, preparations: SandboxPreparations
) -> None:
    with pytest.raises(OperationError) as raised:
        await preparations.prepare(sandbox, {"seconds": 1, "environment": [1], "sections": []})
    assert raised.value.reason is Reason.SANDBOX_UNREACHABLE


def test_a_failure_is_one_line_with_the_end_of_its_output() -> None:
    failure = StepFailure("setup", "setup.script", "it ended with status 1", "line one\nline two")
    assert failure.message() == "setup.script: it ended with status 1. Output: line one | line two"
    assert reason_of("newer") is Reason.PREPARATION_FAILED
