"""Defines the audit's records: JSON lines, each with the hash of the one before, and how they are verified.

A *chain* is what one process wrote. Its first record says where it begins. No I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from managed_session_api.times import to_wire

FORMAT = 1
"""The value of `audit` in each record. A reader rejects a format that it does not know."""
CHAIN_STARTED = "ChainStarted"
NO_HASH = "0" * 64
"""`previous` of a chain that continues no other."""
_MARKS = ('"audit":', '"previous":')

Record = dict[str, Any]


class InvalidRecordError(ValueError):
    """A line is no record of the audit, or was changed. The text says why."""


def hash_of(record: Mapping[str, Any]) -> str:
    """Return the hash of a record: SHA-256 of its JSON without `hash`, with sorted keys and no spaces."""
    content = {key: value for key, value in record.items() if key != "hash"}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


@dataclass
class Chain:
    """A chain that is being written.

    Attributes:
        name: its name, unique to the process that writes it.
        sequence: the number of the next record.
        previous: the hash of the newest record.
    """

    name: str
    sequence: int = 0
    previous: str = NO_HASH

    def seal(self, event: str, at: datetime, fields: Mapping[str, Any]) -> str:
        """Return the line of the next record, without its end. `wrote` counts it once it is written."""
        record: Record = {
            "audit": FORMAT,
            "chain": self.name,
            "sequence": self.sequence,
            "time": to_wire(at),
            "event": event,
            **{key: value for key, value in fields.items() if value is not None},
            "previous": self.previous,
        }
        return _canonical({**record, "hash": hash_of(record)})

    def wrote(self, line: str) -> None:
        """Count a record that was written."""
        self.previous = json.loads(line)["hash"]
        self.sequence += 1


def parse(line: str) -> Record:
    """Return the record in a line.

    Raises:
        InvalidRecordError: it has none, or the record does not match its hash.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidRecordError("the line is not whole") from None
    if not isinstance(record, dict) or "audit" not in record:
        raise InvalidRecordError("the line is no record of the audit")
    if record["audit"] != FORMAT:
        raise InvalidRecordError("the record has a format that this version does not know")
    if not isinstance(record.get("chain"), str) or not isinstance(record.get("sequence"), int):
        raise InvalidRecordError("the record names no chain or no sequence number")
    if record.get("hash") != hash_of(record):
        raise InvalidRecordError("the record does not match its hash: it was changed")
    return record


def is_record(line: str) -> bool:
    """Return whether a line is meant as a record, even if part of it is wrong.

    A pod's log may have other lines between the records.
    """
    return any(mark in line for mark in _MARKS)


@dataclass(frozen=True)
class Finding:
    """Something in a record file.

    Attributes:
        line: the number of the line, from 1.
        text: what is the matter.
        broken: whether it shows that the file was changed. Otherwise it is only worth knowing.
    """

    line: int
    text: str
    broken: bool = True


@dataclass
class Verdict:
    """What `verify` has found.

    Attributes:
        records: number of records that match their hash.
        findings: in the order of the lines.
        heads: by chain, the sequence number and the hash of its newest record.
    """

    records: int = 0
    findings: list[Finding] = field(default_factory=list)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, as far as the file shows."""
        return not any(finding.broken for finding in self.findings)


class Verifier:
    """Reads the lines of one or more chains in their order."""

    def __init__(self) -> None:
        self.verdict = Verdict()
        self._hashes: dict[tuple[str, int], str] = {}
        self._torn: int | None = None
        """The newest line that is not whole, as a crash leaves it."""
        self._cut = False
        """Whether the newest line has no end."""
        self._number = 0

    @property
    def hashes(self) -> set[str]:
        """The hashes of all records that match theirs."""
        return set(self._hashes.values())

    def read(self, line: str, *, whole: bool = True) -> None:
        """Read the next line; `whole`: whether its end is there."""
        self._number += 1
        self._cut = not whole
        text = line.strip()
        if not is_record(text):
            # A torn record may be too short to be known as one.
            if text.startswith("{") and not text.endswith("}"):
                self._torn = self._number
            return
        try:
            record = parse(text)
        except InvalidRecordError as error:
            if text.endswith("}") and whole:
                self._note(str(error))
            else:
                self._settle_torn()
                self._torn = self._number
            return
        self._take(record)

    def end(self) -> Verdict:
        """Return the verdict on all lines."""
        if self._torn is not None:
            text = "the last record is not whole: its writer crashed, or is writing it"
            at_the_end = self._torn == self._number and self._cut
            self.verdict.findings.append(Finding(self._torn, text, broken=not at_the_end))
        return self.verdict

    def _take(self, record: Record) -> None:
        chain, sequence = record["chain"], record["sequence"]
        self._settle_torn(record)
        head = self.verdict.heads.get(chain)
        if (chain, sequence) in self._hashes:
            self._note(f"record {sequence} of chain {chain} is there twice, or out of order")
            return
        if head is None:
            self._check_start(record)
        elif sequence < head[0]:
            self._note(f"record {sequence} of chain {chain} comes after record {head[0]}: out of order")
        elif sequence > head[0] + 1:
            self._note(f"{_missing(head[0] + 1, sequence - 1)} of chain {chain}, missing before this line")
        elif record["previous"] != head[1]:
            self._note(
                f"record {sequence} of chain {chain} does not follow the record before it: one of them was "
                "replaced"
            )
        self.verdict.records += 1
        self._hashes[chain, sequence] = record["hash"]
        if head is None or sequence > head[0]:
            self.verdict.heads[chain] = (sequence, record["hash"])

    def _check_start(self, record: Record) -> None:
        chain, sequence = record["chain"], record["sequence"]
        if sequence != 0 or record["event"] != CHAIN_STARTED:
            self._note(f"the beginning of chain {chain} is missing: its first record here is {sequence}")
            return
        before = record.get("continues")
        if before is None:
            return
        known = self._hashes.get((before.get("chain"), before.get("sequence")))
        if known is None and not self._hashes:
            self._note(
                f"chain {chain} continues chain {before.get('chain')}, which is not in this input. Verify it "
                "with the file before this one.",
                broken=False,
            )
        elif known is None:
            self._note(
                f"record {before.get('sequence')} of chain {before.get('chain')} is missing: chain {chain} "
                "begins after it"
            )
        elif known != record["previous"]:
            self._note(
                f"chain {chain} does not follow the record that it continues: one of them was replaced"
            )

    def _settle_torn(self, record: Record | None = None) -> None:
        """Judge a line that is not whole by what follows: the next process says that it has found it."""
        if self._torn is None:
            return
        explained = record is not None and record["event"] == CHAIN_STARTED and record.get("torn")
        text = "a record is not whole"
        if explained:
            text = "a record is not whole: its writer crashed"
        self.verdict.findings.append(Finding(self._torn, text, broken=not explained))
        self._torn = None

    def _note(self, text: str, *, broken: bool = True) -> None:
        self.verdict.findings.append(Finding(self._number, text, broken))


def _missing(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"


def verify(lines: Iterable[str], hashes: set[str] | None = None) -> Verdict:
    """Verify lines with their ends. Lines that are no records are passed over.

    Args:
        lines: the lines.
        hashes: gets the hashes of all records that match theirs.
    """
    verifier = Verifier()
    for line in lines:
        verifier.read(line, whole=line.endswith("\n"))
    if hashes is not None:
        hashes |= verifier.hashes
    return verifier.end()
