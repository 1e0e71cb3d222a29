"""The fault matrix: every row of every family."""

from __future__ import annotations

from .families import (
    e2b_create,
    e2b_listing,
    e2b_sandboxes,
    in_sandbox,
    kubernetes_calls,
    kubernetes_edits,
    kubernetes_rights,
    kubernetes_server,
    operator_killed,
    two_operators,
    webhook,
)
from .row import Row

ROWS: list[Row] = sorted(
    [
        *e2b_create.ROWS,
        *e2b_listing.ROWS,
        *e2b_sandboxes.ROWS,
        *in_sandbox.ROWS,
        *operator_killed.ROWS,
        *kubernetes_calls.ROWS,
        *kubernetes_edits.ROWS,
        *kubernetes_rights.ROWS,
        *kubernetes_server.ROWS,
        *two_operators.ROWS,
        *webhook.ROWS,
    ],
    key=lambda row: row.arrangement.name,
)
"""Rows of one arrangement stand together, so that they share one system."""
