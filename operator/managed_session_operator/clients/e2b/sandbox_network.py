"""Changes the network rules of a running sandbox."""

from __future__ import annotations

from typing import Any

from managed_session_api.conditions import Reason

from managed_session_operator.clients.e2b.sandbox_pages import Call
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxNetwork


async def send_network(call: Call, sandbox_id: str, network: SandboxNetwork, timeout: float) -> None:
    """Replace the running sandbox's rules for egress. Repeating this changes nothing.

    Args:
        call: opens one call to E2B, given its name and its timeout in seconds.
        sandbox_id: ID of the sandbox.
        network: all rules. Those that it lacks are removed.
        timeout: timeout in seconds.

    Raises:
        OperationError: NOT_FOUND if it does not run; SandboxRequestRejected if E2B rejects a rule. The text
            never has a header's value, whatever E2B has answered.
    """
    rules: dict[str, Any] = {
        name: list(given)
        for name, given in (("allow_out", network.allow), ("deny_out", network.deny))
        if given
    }
    if network.headers:
        # One transform for each host: E2B takes no more.
        rules["rules"] = {
            host: [
                {"transform": {"headers": {name: each.get_secret_value() for name, each in added.items()}}}
            ]
            for host, added in network.headers.items()
        }
    try:
        async with call("network", timeout) as sandbox:
            await sandbox.update_network(sandbox_id, rules, retries=0, request_timeout=timeout)
    except OperationError as error:
        error.message = _without_values(error.message, network)
        if error.status == 400:
            error.kind, error.reason = ErrorKind.USER_ACTION, Reason.SANDBOX_REQUEST_REJECTED
        raise


def _without_values(text: str, network: SandboxNetwork) -> str:
    """Remove headers' values that the server's answer may quote. It may have cut one short or escaped it."""
    for added in network.headers.values():
        for each in added.values():
            value = each.get_secret_value()
            if value in text or any(part in text for part in value.split() if len(part) > 3):
                return "The call `network` to E2B failed. Its answer quotes a secret and is left out."
    return text
