"""Imports everything that a worker needs before it is forked.

This saves time, and lets a worker run whose account may not read the interpreter's directory.
"""

import contextlib
import importlib

REQUIRED = ("anthropic.lib.environments", "anthropic.lib.tools.agent_toolset")
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
"""Modules that the SDK and its dependencies would import at first use. A release may lack one of them."""


def load() -> None:
    """Import all modules."""
    for name in REQUIRED:
        importlib.import_module(name)
    for name in AT_FIRST_USE:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
