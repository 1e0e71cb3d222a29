"""Chooses how long an idle worker waits for its session's next run, by how soon the session came back before.

**Longer:** the pauses of a workflow, or a person's answers, may each take a little longer than
`maxIdleSeconds`. Each would cost a pause and a resume of a sandbox that rests for seconds only. So from the
second such quick return in a row on, the worker waits longer, up to a limit. The first longer rest ends this.

**Shorter:** whoever comes back after minutes gains nothing from the wait, and each turn pays for it. So the
worker waits `minIdleSeconds` while the session has come back late more often than not. The balance of quick
and late returns never falls below -1, so the majority counts over any number of the newest returns too. Nor
does it rise above 10, so no habit lasts for ever. Within these bounds, a session that has come back quickly
at least every second time is resumed no more often than without this rule.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from managed_session_api.resource import EffectiveStatus, ManagedSession
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.worker_run import ExitRecord

_RETURNS_BEFORE = 2
"""Quick returns in a row after which the worker waits longer. A single one is nothing unusual."""
_MOST = 4
"""Maximum multiple of `maxIdleSeconds`. It limits how long an idle sandbox runs and is billed."""
_LEAST_BALANCE = -1
"""However long a session has been slow, one quick return makes its worker wait again."""
_MOST_BALANCE = 10
"""However long it has been quick, this many late returns and one more end the long wait."""
_MISSED = 3
"""What a quick return counts that cost a resume, because the worker did not wait. It should not recur."""


def returns(resource: ManagedSession, policy: EffectiveStatus, offered_at: datetime) -> dict[str, int | None]:
    """Return what `status.work` says of the session's returns, including the work offered at `offered_at`.

    A quick return is work that was offered within `maxIdleSeconds` after an idle worker had ended, or would
    have ended had it waited `maxIdleSeconds`. `quickReturns` counts those in a row. `returnBalance` is None
    if it is not known, because the sandbox's worker does not report the returns that it waits for.
    """
    work, soon = resource.status.work, _soon(resource, policy, offered_at)
    in_a_row = work.quick_returns + 1 if soon else None
    return {"quickReturns": in_a_row, "returnBalance": _balance(work.return_balance, soon)}


def _balance(before: int | None, soon: bool | None) -> int | None:
    if before is None or soon is None:
        return before
    if not soon:
        return max(before - 1, _LEAST_BALANCE)
    return min(before + (_MISSED if before < 0 else 1), _MOST_BALANCE)


def balance_at_end(resource: ManagedSession, record: ExitRecord | None) -> int | None:
    """Return the balance with the returns that the worker which has ended had waited for.

    Without a record, nothing is known about them. Those within a short wait say nothing about a longer one.
    """
    balance = resource.status.work.return_balance
    if record is None:
        return balance
    if record.returns is None:
        return None
    if balance is not None and balance < 0:
        return balance
    return min((balance or 0) + max(0, record.returns), _MOST_BALANCE)


def idle_seconds(resource: ManagedSession, policy: EffectiveStatus) -> int:
    """Return how long the present claim's worker waits for the next run."""
    work, usual, least = resource.status.work, policy.max_idle_seconds, policy.min_idle_seconds
    if work.return_balance is not None and work.return_balance < 0 and least is not None:
        return min(least, usual)
    beyond = work.quick_returns - _RETURNS_BEFORE + 1
    return int(usual * min(_MOST, 2 ** max(0, min(beyond, 8))))


def _soon(resource: ManagedSession, policy: EffectiveStatus, offered_at: datetime) -> bool | None:
    """Return whether work came within `maxIdleSeconds` after an idle worker's end. None if no worker waited.

    A worker that waited less counts as if it had ended after `maxIdleSeconds`.
    """
    work, usual = resource.status.work, policy.max_idle_seconds
    if work.exit_reason != ExitReason.IDLE or work.finished_at is None:
        return None
    early = max(0, usual - idle_seconds(resource, policy))
    return offered_at <= work.finished_at + timedelta(seconds=early + usual)
