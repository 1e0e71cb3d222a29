"""Defines names that `supervisorctl`, the supervisor and the operator share.

`supervisorctl` starts once per turn and imports this module, so it uses nothing but `enum` and `re`, which
`json` has loaded already.
"""

import re
from enum import StrEnum

SESSION_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What names a session in a shared sandbox. It is one plain path component."""

EPOCH_VARIABLE = "MANAGED_SESSION_EPOCH"
"""Read by `supervisorctl watch`: the supervisor rejects lower epochs from now on."""
RESUMED_VARIABLE = "MANAGED_SESSION_RESUMED"
"""Read by `supervisorctl watch`: `yes` right after a pause."""
FINAL_EVENTS = frozenset({"exited", "refused", "status"})
"""The supervisor sends nothing after one of these."""


class RefusalCode(StrEnum):
    """Why a request was rejected, for programs."""

    STALE_EPOCH = "StaleEpoch"
    """A leader with a later epoch has made a request."""
    STALE_CLAIM = "StaleClaim"
    """A newer claim was started already."""
    UNKNOWN_CLAIM = "UnknownClaim"
    """The supervisor has never started that claim."""
    BAD_REQUEST = "BadRequest"
    START_FAILED = "StartFailed"
    REPLACED = "Replaced"
    """Newer listeners of the claim have taken this one's place."""
    BUSY = "Busy"
    """The worker of an earlier claim is finishing a tool call."""
    WRITABLE_BY_OTHERS = "WritableByOthers"
    """Others than root could change what runs as root."""
    SHARING_UNSUPPORTED = "SharingUnsupported"
    """This sandbox cannot hold several sessions."""


class RequestRejectedError(Exception):
    """A request was rejected and has changed nothing. `code` is for programs, the message for people."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def refused(error: RequestRejectedError, *, epoch: int | None, claim: str | None) -> dict[str, object]:
    """Make the event of a rejected request. `epoch` is the highest that the supervisor has seen. Final.

    `reason` is for operators that do not know `code`.
    """
    return {
        "event": "refused",
        "code": error.code,
        "reason": error.code,
        "message": str(error),
        "epoch": epoch,
        "claim": claim,
    }
