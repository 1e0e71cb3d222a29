"""From a data-plane request to the running sandbox it is for: proxy routing and envd's authentication."""

import base64
import binascii
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from managed_session_local.simulators.e2b.errors import ConnectError, ProxyError
from managed_session_local.simulators.e2b.gateway import Call
from managed_session_local.simulators.e2b.host import SandboxHostError
from managed_session_local.simulators.e2b.lifecycle import Lifecycle
from managed_session_local.simulators.e2b.network import ENVD_PORT
from managed_session_local.simulators.e2b.sandbox import Sandbox, access_token
from managed_session_local.simulators.e2b.slots import Slot, base_environment, home_directory, user_id


@dataclass(frozen=True)
class EnvdUser:
    """A user of a sandbox."""

    name: str
    number: int

    @property
    def home(self) -> str:
        """The home directory."""
        return home_directory(self.name)


def envd_user(sandbox: Sandbox, name: str | None) -> EnvdUser:
    """The named user, or the template's default one. Raises ConnectError."""
    chosen = name or sandbox.build.user
    return EnvdUser(chosen, user_id(chosen))


def basic_user(call: Call) -> str | None:
    """The user name of a Basic authorization header, None without one. Raises ConnectError."""
    header = call.header("authorization")
    if not header or not header.lower().startswith("basic "):
        return None
    try:
        return base64.b64decode(header[6:]).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ConnectError("unauthenticated", "invalid Authorization header") from error


def port_of(call: Call) -> int:
    """The sandbox port that a request is for."""
    value = call.header("e2b-sandbox-port") or str(ENVD_PORT)
    return int(value) if value.isdigit() else 0


async def running_sandbox(lifecycle: Lifecycle, call: Call) -> Sandbox:
    """The sandbox named by the routing headers, resumed where its policy says so. Raises ProxyError."""
    sandbox_id = call.header("e2b-sandbox-id") or ""
    return await lifecycle.for_traffic(
        sandbox_id, call.header("x-access-token"), call.header("e2b-traffic-access-token"), port_of(call)
    )


def check_token(call: Call, sandbox: Sandbox) -> None:
    """Envd's own check. Raises ConnectError unauthenticated (401)."""
    given = call.header("x-access-token") or ""
    if not hmac.compare_digest(given.encode(), access_token(sandbox.id).encode()):
        raise ConnectError(
            "unauthenticated", "unauthorized access, please provide a valid access token or method signing"
        )


def slot_of(sandbox: Sandbox) -> Slot:
    """The sandbox's processes and files. Raises ProxyError when they are just gone."""
    if sandbox.slot is None:
        raise ProxyError(502, sandbox.id, "The sandbox was not found")
    return sandbox.slot


@contextmanager
def tracked(call: Call, sandbox: Sandbox) -> Iterator[None]:
    """The client's connection is cut when the sandbox is paused or killed meanwhile. Raises ProxyError."""
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
    """Envd's path rules: empty is the default directory, `~` and relative paths start at the user's home."""
    if not path:
        return default_directory
    if path == "~" or path.startswith("~/"):
        return user.home + path[1:]
    return path if path.startswith("/") else f"{user.home}/{path}"


def process_environment(sandbox: Sandbox, user: EnvdUser, requested: dict[str, str]) -> dict[str, str]:
    """What envd gives a command: base, the sandbox's own variables, the command's."""
    return {
        **base_environment(user.name),
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": sandbox.id,
        "E2B_TEMPLATE_ID": sandbox.build.template_id,
        **sandbox.environment,
        **requested,
    }
