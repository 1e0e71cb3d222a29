"""Waiting for CRDs that were applied a moment ago."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from managed_session_devkit.control_plane import KubectlError, established

NAME = "things.example.com"


def answers(*outputs: Any) -> Iterator[str]:
    """Return the outputs of kubectl in this order. The last one repeats."""
    for each in outputs:
        if isinstance(each, Exception):
            raise each
        yield json.dumps({"items": each})
    while True:
        yield json.dumps({"items": outputs[-1]})


def crd(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": NAME}, **status}


DONE = crd(status={"conditions": [{"type": "Established", "status": "True"}]})


@pytest.mark.parametrize(
    "early",
    [
        [],
        [crd()],
        [crd(status={})],
        [crd(status={"conditions": None})],
        [crd(status={"conditions": [{"type": "NamesAccepted", "status": "True"}]})],
        [crd(status={"conditions": [{"type": "Established", "status": "False"}]})],
    ],
)
async def test_missing_crd_is_waited_for(early: list[dict[str, Any]]) -> None:
    outputs = answers(early, [DONE])

    async def kubectl(*_: str) -> str:
        return next(outputs)

    await established(kubectl, NAME)


async def test_a_temporary_refusal_is_waited_out() -> None:
    calls = 0

    async def kubectl(*_: str) -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise KubectlError("the server doesn't have a resource type")
        return json.dumps({"items": [DONE]})

    await established(kubectl, NAME)
    assert calls == 3


async def test_crd_that_never_appears_is_named() -> None:
    async def kubectl(*_: str) -> str:
        return json.dumps({"items": [crd(status={"conditions": None})]})

    with pytest.raises(KubectlError, match=NAME):
        await established(kubectl, timeout_seconds=0)
