"""Chooses how long an idle worker waits for its session's next run.

The pauses of a workflow, or a person's answers, may each take a little longer than `maxIdleSeconds`. Each
would cost a pause and a resume of a sandbox that rests for seconds only. So from the second such quick return
in a row on, the worker waits longer, up to a limit. The first longer rest ends this.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from managed_session_api.resource import EffectiveStatus, ManagedSession
from managed_session_worker.protocol import ExitReason

_RETURNS_BEFORE = 2
"""Quick returns in a row after which the worker waits longer. A single one is nothing unusual."""
_MOST = 4
"""Maximum multiple of `maxIdleSeconds`. It limits how long an idle sandbox runs and is billed."""


def quick_returns(resource: ManagedSession, policy: EffectiveStatus, offered_at: datetime) -> int:
    """Return how often in a row the session has returned quickly, including the work offered at `offered_at`.

    A quick return is work that was offered within `maxIdleSeconds` after an idle worker had ended.
    """
    work = resource.status.work
    if work.exit_reason != ExitReason.IDLE or work.finished_at is None:
        return 0
    soon = offered_at <= work.finished_at + timedelta(seconds=policy.max_idle_seconds)
    return work.quick_returns + 1 if soon else 0


def idle_seconds(resource: ManagedSession, policy: EffectiveStatus) -> int:
    """Return how long the present claim's worker waits for the next run."""
    beyond = resource.status.work.quick_returns - _RETURNS_BEFORE + 1
    return int(policy.max_idle_seconds * min(_MOST, 2 ** max(0, min(beyond, 8))))
