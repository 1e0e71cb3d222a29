"""Changes the network rules of a running sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from managed_session_api.conditions import Reason

from managed_session_operator.clients.e2b.sandbox_pages import Call
from managed_session_operator.domain.errors import ErrorKind, OperationError


async def send_network(
    call: Call, sandbox_id: str, allow: Sequence[str], deny: Sequence[str], timeout: float
) -> None:
    """Replace the running sandbox's rules for egress. Repeating this changes nothing.

    Args:
        call: opens one call to E2B, given its name and its timeout in seconds.
        sandbox_id: ID of the sandbox.
        allow: what it may reach.
        deny: what it may not reach.
        timeout: timeout in seconds.

    Raises:
        OperationError: NOT_FOUND if it does not run; SandboxRequestRejected if E2B rejects a rule.
    """
    rules = {name: list(given) for name, given in (("allow_out", allow), ("deny_out", deny)) if given}
    try:
        async with call("network", timeout) as sandbox:
            await sandbox.update_network(sandbox_id, rules, retries=0, request_timeout=timeout)
    except OperationError as error:
        if error.status == 400:
            error.kind, error.reason = ErrorKind.USER_ACTION, Reason.SANDBOX_REQUEST_REJECTED
        raise
