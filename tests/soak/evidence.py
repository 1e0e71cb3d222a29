"""What the ledgers and the API server say in the end, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionEvidence:
    """One session.

    Attributes:
        session_id: its ID.
        sent: messages that its user sent.
        messages: that Anthropic has.
        open: messages that are neither answered nor interrupted.
        overlapping: times that a worker attached while another one was.
        repeated: results that were given twice.
        complaints: of its user.
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
    """One sandbox.

    Attributes:
        sandbox_id: its ID.
        session_id: of the session in its metadata.
        resource_uid: of the resource in its metadata.
        state: in E2B, when all is calm.
        worked: a process was started in it.
        destroyed: by chaos.
    """

    sandbox_id: str
    session_id: str
    resource_uid: str
    state: str
    worked: bool
    destroyed: bool = False


@dataclass(frozen=True)
class Evidence:
    """All of it.

    Attributes:
        stranded: work that was acknowledged and never begun, by session.
        left: what is there after all resources were deleted: sandboxes, Secrets, resources.
        leaks: where a secret was found, with which one it is.
    """

    sessions: tuple[SessionEvidence, ...] = ()
    sandboxes: tuple[SandboxEvidence, ...] = ()
    stranded: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A promise that did not hold; `session_id` is empty where no one session is concerned."""

    session_id: str
    text: str


def judge(evidence: Evidence) -> list[Finding]:
    """All promises that did not hold: nothing lost, nothing leaked, nothing doubled."""
    return [
        *(finding for session in evidence.sessions for finding in _of_session(session)),
        *_of_sandboxes(evidence.sandboxes),
        *(Finding(each, "acknowledged work has no worker") for each in evidence.stranded),
        *(Finding("", f"left after everything was deleted: {each}") for each in evidence.left),
        *(Finding("", f"a secret is in {each}") for each in evidence.leaks),
    ]


def _of_session(session: SessionEvidence) -> list[Finding]:
    found = list(session.complaints)
    if session.messages != session.sent:
        found.append(f"the user sent {session.sent} messages, Anthropic has {session.messages}")
    if session.open:
        found.append(f"{session.open} messages are not answered")
    if session.overlapping:
        found.append(f"two workers at a time, {session.overlapping} times")
    if session.repeated:
        found.append(f"{session.repeated} results were given twice")
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
