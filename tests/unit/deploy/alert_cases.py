"""For each alert: series with which it fires, and series of an installation that is well.

Values are promtool's: `0+1x10` is 0 and ten steps of 1, `0x10` is eleven zeros. A step is a minute, or what
the case says. All series get the installation's `namespace`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NAMESPACE = "managed-sessions-system"


@dataclass(frozen=True)
class AlertCase:
    """What promtool has to find. `at` is when it looks, in minutes after the first value."""

    fires: dict[str, str]
    rests: dict[str, str]
    at: int = 60
    step_minutes: int = 1
    labels: dict[str, str] = field(default_factory=lambda: {"namespace": NAMESPACE})
    value: str = ""
    """What `{{ $value | … }}` of the summary is, where it has one."""


def _labels(**labels: str) -> dict[str, str]:
    return {"namespace": NAMESPACE, **labels}


def _webhook(**counts: str) -> dict[str, str]:
    return {
        f'managed_sessions_webhook_requests_total{{pod="webhook",outcome="{outcome}"}}': values
        for outcome, values in counts.items()
    }


def _starts(quick: str, all_of_them: str) -> dict[str, str]:
    name = "managed_sessions_offer_to_heartbeat_seconds"
    return {
        f'{name}_bucket{{pod="a",le="10.0"}}': quick,
        f'{name}_bucket{{pod="a",le="+Inf"}}': all_of_them,
        f'{name}_count{{pod="a"}}': all_of_them,
    }


def _gauge(name: str, leader: str, standby: str = "0x120", **labels: str) -> dict[str, str]:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return {
        f'managed_sessions_{name}{{pod="a"{more}}}': leader,
        f'managed_sessions_{name}{{pod="b"{more}}}': standby,
    }


_LEADING = _gauge("leading", "1x120")

CASES: dict[str, AlertCase] = {
    # Of 10 turns a minute, 2 begin late: 20% of them, in an hour.
    "ManagedSessionsManySlowStarts": AlertCase(
        _starts("0+8x120", "0+10x120"), _starts("0+10x120", "0+10x120"), at=70, value="20%"
    ),
    # 5% in a day and more, with a point for each five minutes.
    "ManagedSessionsSlowStarts": AlertCase(
        _starts("0+95x400", "0+100x400"), _starts("0+995x400", "0+1000x400"), at=1800, step_minutes=5
    ),
    "ManagedSessionsTurnsLost": AlertCase(
        {'managed_sessions_recoveries_total{pod="a",action="interrupted"}': "0x30 1x90"},
        {
            'managed_sessions_recoveries_total{pod="a",action="interrupted"}': "3x120",
            'managed_sessions_recoveries_total{pod="a",action="stopped"}': "0x30 1x90",
        },
        at=40,
    ),
    "ManagedSessionsNoLeader": AlertCase(_gauge("leading", "0x120"), _LEADING),
    "ManagedSessionsLeaderChanges": AlertCase(
        _gauge("leading", "1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0"), _LEADING, at=20
    ),
    "ManagedSessionsQueueUnavailable": AlertCase(
        _gauge("queue_unavailable", "1x120"), _gauge("queue_unavailable", "0x120")
    ),
    "ManagedSessionsCredentialRejected": AlertCase(
        _LEADING | _gauge("credential_line", "0x120", "1x120", credential="e2b-api-key"),
        # The standby has led before, and what it last saw is no longer so.
        _LEADING | _gauge("credential_line", "1x120", "0x120", credential="e2b-api-key"),
        labels=_labels(credential="e2b-api-key"),
    ),
    "ManagedSessionsResyncOverdue": AlertCase(
        _gauge("last_resync_timestamp_seconds", "60x120", "30x120"),
        _gauge("last_resync_timestamp_seconds", "0+60x120", "30x120"),
    ),
    "ManagedSessionsSessionsStuck": AlertCase(
        _gauge("resources_by_reason", "1x120", phase="Failed", reason="SessionStuck"),
        _gauge("resources_by_reason", "9x120", phase="Idle", reason="Idle"),
        labels=_labels(reason="SessionStuck"),
    ),
    "ManagedSessionsWaitForSlots": AlertCase(
        _gauge("oldest_wait_seconds", "0+60x120"), _gauge("oldest_wait_seconds", "0 60 0 60 0x120")
    ),
    "ManagedSessionsE2BQuotaReached": AlertCase(
        _gauge("sandbox_slots", "100x120") | _gauge("sandbox_slots_allowed", "20x120"),
        _gauge("sandbox_slots", "100x120") | _gauge("sandbox_slots_allowed", "100x120"),
    ),
    "ManagedSessionsEnvironmentShared": AlertCase(
        _gauge("environment_shared", "1x120"), _gauge("environment_shared", "0x120")
    ),
    "ManagedSessionsWebhookSilent": AlertCase(
        _gauge("webhook_silent", "1x120"), _gauge("webhook_silent", "0x120")
    ),
    "ManagedSessionsStepsFail": AlertCase(
        _gauge("step_failures_total", "0+10x120", reason="SandboxCreateFailed"),
        _gauge("step_failures_total", "0+1x120", reason="SandboxCreateFailed"),
        labels=_labels(reason="SandboxCreateFailed"),
    ),
    "ManagedSessionsUserWaitsLong": AlertCase(
        _gauge("awaiting_user_by_age", "2x120", age="more"),
        _gauge("awaiting_user_by_age", "0x120", age="more")
        | _gauge("awaiting_user_by_age", "5x120", age="1d"),
        at=70,
    ),
    "ManagedSessionsWebhookDown": AlertCase(
        _LEADING, _webhook(recorded="0x120"), labels={"outcome": "recorded"}
    ),
    "ManagedSessionsWebhookRefusesEvents": AlertCase(
        _webhook(recorded="0+5x120", kubernetes_unavailable="0+1x120"),
        _webhook(recorded="0+5x120", kubernetes_unavailable="7x120"),
        labels=_labels(outcome="kubernetes_unavailable"),
    ),
    "ManagedSessionsWebhookSignaturesFail": AlertCase(
        _webhook(recorded="4x120", bad_signature="0+1x120"),
        # Somebody else sends rubbish to the public address; Anthropic's own events arrive.
        _webhook(recorded="0+1x120", bad_signature="0+1x120"),
    ),
}
