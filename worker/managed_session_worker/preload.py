"""Imports everything a worker will need, so that a fork starts with it.

This is for speed, and for interpreters below a directory that the worker's account may not read.
"""

import contextlib
import importlib

REQUIRED = ("anthropic.lib.environments", "anthropic.lib.tools.agent_toolset")
#: What those and their dependencies otherwise import at first use. A release may do without one of them.
AT_FIRST_USE = (
    "anyio._backends._asyncio",
    "anyio._core._subprocesses",
    "concurrent.futures.thread",
    "encodings.idna",
    "httpcore2",
    "httpcore2._async.http2",
    "httpcore2._backends.anyio",
    "pydantic.validate_call_decorator",
    "pydantic._internal._validate_call",
    "truststore",
    "truststore._openssl",
)


def load() -> None:
    """Import all of it."""
    for name in REQUIRED:
        importlib.import_module(name)
    for name in AT_FIRST_USE:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
