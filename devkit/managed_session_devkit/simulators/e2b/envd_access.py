"""Finds the running sandbox of a data-plane request: the proxy's routing and envd's authentication."""

import base64
import binascii
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from managed_session_devkit.simulators.e2b.errors import ConnectError, FileError, ProxyError
from managed_session_devkit.simulators.e2b.gateway import Call
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle
from managed_session_devkit.simulators.e2b.network import ENVD_PORT
from managed_session_devkit.simulators.e2b.runtime_pool import (
    Runtime,
    base_environment,
    home_directory,
    user_id,
)
from managed_session_devkit.simulators.e2b.sandbox import Sandbox, access_token

EVENTS_ADDRESS: Final = "http://192.0.2.1"


@dataclass(frozen=True)
class EnvdUser:
    """A user of a sandbox."""

    name: str
    number: int
    home: str


def envd_user(sandbox: Sandbox, name: str | None) -> EnvdUser:
    """Return the named user, or the template's default user. Raises ConnectError."""
    chosen = name or sandbox.build.user
    try:
        users = (runtime_of(sandbox).files / "etc/passwd").read_text()
    except OSError:
        users = ""
    for line in users.splitlines():
        entry = line.split(":")
        if entry[0] == chosen and len(entry) > 5 and chosen not in ("user", "root"):
            return EnvdUser(chosen, int(entry[2]), entry[5])
    return EnvdUser(chosen, user_id(chosen), home_directory(chosen))


def basic_user(call: Call) -> str | None:
    """Return the user name in a Basic authorization header, or None. Raises ConnectError."""
    header = call.header("authorization")
    if not header or not header.lower().startswith("basic "):
        return None
    try:
        return base64.b64decode(header[6:]).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ConnectError("unauthenticated", "invalid Authorization header") from error


def port_of(call: Call) -> int:
    """Return the sandbox port that a request is for."""
    value = call.header("e2b-sandbox-port") or str(ENVD_PORT)
    return int(value) if value.isdigit() else 0


async def running_sandbox(lifecycle: Lifecycle, call: Call) -> Sandbox:
    """Return the sandbox in the routing headers, resumed if its policy says so. Raises ProxyError."""
    sandbox_id = call.header("e2b-sandbox-id") or ""
    return await lifecycle.for_traffic(
        sandbox_id, call.header("x-access-token"), call.header("e2b-traffic-access-token"), port_of(call)
    )


def check_token(call: Call, sandbox: Sandbox) -> None:
    """Check the access token, as envd does before anything else. Raises FileError 401."""
    given = call.header("x-access-token") or ""
    if not hmac.compare_digest(given.encode(), access_token(sandbox.id).encode()):
        raise FileError(401, "unauthorized access, please provide a valid access token or method signing")


def runtime_of(sandbox: Sandbox) -> Runtime:
    """Return the sandbox's processes and files. Raises ProxyError if they are gone."""
    if sandbox.runtime is None:
        raise ProxyError(502, sandbox.id, "The sandbox was not found")
    return sandbox.runtime


@contextmanager
def tracked(call: Call, sandbox: Sandbox) -> Iterator[None]:
    """Cut the client's connection if the sandbox is paused or killed meanwhile. Raises ProxyError."""
    transport = call.transport
    if transport is not None:
        sandbox.connections.add(transport)
    try:
        yield
    except SandboxHostError as error:
        raise ProxyError(502, sandbox.id, "The sandbox was not found") from error
    finally:
        if transport is not None:
            sandbox.connections.discard(transport)


def resolve_path(path: str, user: EnvdUser, default_directory: str) -> str:
    """Apply envd's rules: empty means the default directory, `~` and relative paths start at the home."""
    if not path:
        return default_directory
    if path == "~" or path.startswith("~/"):
        return user.home + path[1:]
    return path if path.startswith("/") else f"{user.home}/{path}"


def process_environment(sandbox: Sandbox, user: EnvdUser, requested: dict[str, str]) -> dict[str, str]:
    """Return a command's variables: the base, those of the create, E2B's own, those of the command."""
    return {
        **base_environment(user.name),
        "HOME": user.home,
        **sandbox.environment,
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": sandbox.id,
        "E2B_TEMPLATE_ID": sandbox.build.template_id,
        "E2B_EVENTS_ADDRESS": EVENTS_ADDRESS,
        **requested,
    }
