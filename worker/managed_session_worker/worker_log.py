"""Writes the worker's log file: of limited size, shared by all workers, without credentials."""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
logger = logging.getLogger("managed_session_worker")


def open_worker_log(path: str) -> int:
    """Open the log for appending and return its descriptor. A file above `MAX_BYTES` becomes `….1` first."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            file.replace(f"{path}.1")
    except FileNotFoundError:
        pass
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


class RedactingFormatter(logging.Formatter):
    """Formats with UTC times, and replaces every secret wherever it turns up, tracebacks included."""

    converter = staticmethod(time.gmtime)

    def __init__(self, secrets: Iterable[str | None]) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._secrets = [secret for secret in secrets if secret]

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        return self.redact(super().format(record))

    def redact(self, text: str) -> str:
        """Return `text` without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


def log_to_standard_error(level: str, formatter: logging.Formatter) -> None:
    """Send all log lines, the SDK's and our own, to descriptor 2, which is the log file."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    handler.setLevel(level)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level != "DEBUG":
        # The exit record is made from these lines, even those that the handler does not write.
        logging.getLogger("anthropic").setLevel(logging.INFO)
        # These log every request; the SDK's own lines are enough.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        logging.getLogger("httpcore2").setLevel(logging.WARNING)
