"""The evidence from the ledgers and the API server, and the verdict on it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SessionEvidence:
    """Evidence about one session.

    Attributes:
        session_id: its ID.
        sent: number of messages that its user sent.
        messages: number of messages that Anthropic has.
        open: number of messages that are neither answered nor interrupted.
        overlapping: how often a worker attached while another one was attached.
        repeated: number of results that were posted twice.
        complaints: complaints of its user.
    """

    session_id: str
    sent: int
    messages: int
    open: int = 0
    overlapping: int = 0
    repeated: int = 0
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class SandboxEvidence:
    """Evidence about one sandbox.

    Attributes:
        sandbox_id: its ID.
        session_id: ID of the session in its metadata.
        resource_uid: UID of the resource in its metadata.
        state: state in E2B, after all faults have ended.
        worked: whether a process was started in it.
        destroyed: whether the chaos has destroyed it.
    """

    sandbox_id: str
    session_id: str
    resource_uid: str
    state: str
    worked: bool
    destroyed: bool = False


@dataclass(frozen=True)
class Evidence:
    """All evidence of a soak.

    Attributes:
        stranded: sessions whose work was acknowledged and never started.
        left: sandboxes, Secrets and resources left after all resources were deleted.
        leaks: where a secret was found, and which one.
        unauthorized: number of requests to which E2B has not added a secret.
    """

    sessions: tuple[SessionEvidence, ...] = ()
    sandboxes: tuple[SandboxEvidence, ...] = ()
    stranded: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    unauthorized: int = 0


@dataclass(frozen=True)
class Finding:
    """A broken promise. `session_id` is empty if it does not concern one session."""

    session_id: str
    text: str


def judge(evidence: Evidence) -> list[Finding]:
    """Return all broken promises: something was lost, leaked or doubled."""
    return [
        *(finding for session in evidence.sessions for finding in _of_session(session)),
        *_of_sandboxes(evidence.sandboxes),
        *(Finding(each, "acknowledged work has no worker") for each in evidence.stranded),
        *(Finding("", f"left after everything was deleted: {each}") for each in evidence.left),
        *(Finding("", f"a secret is in {each}") for each in evidence.leaks),
        *_of_requests(evidence.unauthorized),
    ]


def _of_requests(unauthorized: int) -> list[Finding]:
    return [Finding("", f"{unauthorized} requests lacked the secret")] if unauthorized else []


def _of_session(session: SessionEvidence) -> list[Finding]:
    found = list(session.complaints)
    if session.messages != session.sent:
        found.append(f"the user sent {session.sent} messages, Anthropic has {session.messages}")
    if session.open:
        found.append(f"{session.open} messages are not answered")
    if session.overlapping:
        found.append(f"two workers at a time, {session.overlapping} times")
    if session.repeated:
        found.append(f"{session.repeated} results were posted twice")
    return [Finding(session.session_id, text) for text in found]


def _of_sandboxes(sandboxes: tuple[SandboxEvidence, ...]) -> list[Finding]:
    found = []
    worked: dict[str, list[SandboxEvidence]] = {}
    for sandbox in sandboxes:
        if sandbox.state not in ("paused", "killed"):
            found.append(Finding(sandbox.session_id, f"sandbox {sandbox.sandbox_id} is {sandbox.state}"))
        if sandbox.worked and not sandbox.destroyed:
            worked.setdefault(sandbox.resource_uid, []).append(sandbox)
    for uid, several in worked.items():
        if len(several) > 1:
            ids = ", ".join(each.sandbox_id for each in several)
            found.append(Finding(several[0].session_id, f"resource {uid} had workers in {ids}"))
    return found


def leaks(texts: Mapping[str, str], secrets: Mapping[str, str]) -> tuple[str, ...]:
    """Return which text contains which secret, as it is or in base64, alone or within something longer."""
    return tuple(
        f"{where}: {which}"
        for where, text in texts.items()
        for which, secret in secrets.items()
        if any(each in text for each in (secret, *_encoded(secret)))
    )


def _encoded(secret: str) -> list[str]:
    # Three bytes are encoded together. Characters that depend on neighbouring bytes are left out.
    shifted = [base64.b64encode(bytes(shift) + secret.encode()).decode() for shift in range(3)]
    return [text[4 if shift else 0 : -4] for shift, text in enumerate(shifted)]
