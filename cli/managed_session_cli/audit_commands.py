"""Defines the commands `managed-sessions audit …`: their options, help and output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from managed_session_api.audit import Verdict, verify

from managed_session_cli.plain_help import PlainTyper, examples

CHANGED = 1
"""Exit status if the records were changed."""
UNUSABLE = 2
"""Exit status if there is nothing to verify."""

audit_app = PlainTyper(help="Check the audit that the operator writes.")


@audit_app.command(
    "verify",
    epilog=examples(
        (
            "verify /var/log/managed-sessions/audit.jsonl",
            "verify - < audit.jsonl",
            "verify FILE --includes HASH",
        ),
        "audit",
    ),
)
def verify_audit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File with the records; - for standard input.")],
    includes: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            show_default=False,
            help="Hash of a record, as this command printed it earlier. Fail if the record is missing.",
        ),
    ] = None,
) -> None:
    """Verify the audit: find records that were removed, changed, reordered or inserted.

    The input may be a pod's log with other lines in it, or several files one after the other. Each finding
    names its line. Records that were cut off at the end leave no gap: keep the hashes that this command
    prints somewhere else, and pass one of them with --includes later.

    The exit status is 0 if the records are intact, 1 if they are not, and 2 if FILE cannot be read or has no
    record.
    """
    hashes: set[str] = set()
    try:
        verdict = verify(_lines(file), hashes)
    except OSError as error:
        print(f"{file} cannot be read: {error.strerror}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from None
    missing = includes is not None and includes not in hashes
    for finding in verdict.findings:
        print(f"line {finding.line}: {finding.text}")
    if missing:
        print(f"The record with the hash {includes} is missing.")
    if not verdict.records and not verdict.findings:
        print(f"{file} has no record of the audit.", file=sys.stderr)
        raise typer.Exit(UNUSABLE)
    print(_summary(verdict))
    if missing or not verdict.intact:
        raise typer.Exit(CHANGED)


def _summary(verdict: Verdict) -> str:
    broken = sum(finding.broken for finding in verdict.findings)
    verdict_text = (
        "intact" if verdict.intact else f"NOT intact: {broken} {'finding' if broken == 1 else 'findings'}"
    )
    chains = "1 chain" if len(verdict.heads) == 1 else f"{len(verdict.heads)} chains"
    records = "1 record" if verdict.records == 1 else f"{verdict.records} records"
    lines = [f"{records} in {chains}: {verdict_text}."]
    lines += [
        f"chain {chain} ends with record {sequence}, hash {hash_}"
        for chain, (sequence, hash_) in verdict.heads.items()
    ]
    return "\n".join(lines)


def _lines(file: str) -> Iterator[str]:
    if file == "-":
        yield from sys.stdin
        return
    with Path(file).open(encoding="utf-8", errors="replace") as opened:
        yield from opened
