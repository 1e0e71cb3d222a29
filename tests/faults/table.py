"""The fault matrix: every row of every family."""

from __future__ import annotations

from .families import (
    anthropic_queue,
    anthropic_sessions,
    anthropic_stuck,
    anthropic_webhooks,
    anthropic_worker,
    e2b_create,
    e2b_listing,
    e2b_sandboxes,
    in_sandbox,
    kubernetes_calls,
    kubernetes_edits,
    kubernetes_rights,
    kubernetes_server,
    operator_killed,
    soak_found,
    two_operators,
    webhook,
)
from .row import Row

ROWS: list[Row] = sorted(
    [
        *anthropic_queue.ROWS,
        *anthropic_sessions.ROWS,
        *anthropic_stuck.ROWS,
        *anthropic_webhooks.ROWS,
        *anthropic_worker.ROWS,
        *e2b_create.ROWS,
        *e2b_listing.ROWS,
        *e2b_sandboxes.ROWS,
        *in_sandbox.ROWS,
        *operator_killed.ROWS,
        *kubernetes_calls.ROWS,
        *kubernetes_edits.ROWS,
        *kubernetes_rights.ROWS,
        *kubernetes_server.ROWS,
        *soak_found.ROWS,
        *two_operators.ROWS,
        *webhook.ROWS,
    ],
    key=lambda row: row.arrangement.name,
)
"""Rows of one arrangement stand together, so that they share one system."""
