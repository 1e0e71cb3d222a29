"""The fault matrix: every row of every family."""

from __future__ import annotations

from .families import kubernetes_calls, operator_killed, webhook
from .row import Row

ROWS: list[Row] = sorted(
    [
        *operator_killed.ROWS,
        *kubernetes_calls.ROWS,
        *webhook.ROWS,
    ],
    key=lambda row: row.arrangement.name,
)
"""Rows of one arrangement stand together, so that they share one system."""
