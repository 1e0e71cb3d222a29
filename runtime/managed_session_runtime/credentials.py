"""Reads credentials from files in a directory, such as a mounted Secret, or from environment variables.

Each read checks whether the file has changed, so that credentials can be added or replaced without a restart:
the kubelet swaps the `..data` symlink, which gives the file a new identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from managed_session_api.credentials import Credential
from pydantic import SecretStr

from managed_session_runtime.log import redact_value


class CredentialError(Exception):
    """A credential cannot be used. The text names the file or variable, never the value."""

    def __init__(self, credential: Credential, message: str) -> None:
        super().__init__(message)
        self.credential = credential


class CredentialMissingError(CredentialError):
    """Neither the file nor the environment variable exists."""


class CredentialUnreadableError(CredentialError):
    """The file exists, but cannot be read as text."""


_READS = 3
"""Number of attempts to read a file before it counts as absent."""

_Identity = tuple[int, int, int, int, int]


class CredentialDirectory:
    """Reads credentials from the files of a directory, or else from environment variables.

    Reads are synchronous, because the files are tiny and in memory.
    """

    def __init__(self, path: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._path = path
        self._environ = environ
        self._read: dict[Credential, tuple[_Identity | None, str, list[SecretStr]]] = {}

    @property
    def path(self) -> Path:
        """The directory."""
        return self._path

    def file(self, credential: Credential) -> Path:
        """Return the path of the credential's file."""
        return self._path / credential.value

    def get_all(self, credential: Credential) -> list[SecretStr]:
        """Return all values of `credential`, one per line, in order; empty if it is missing or blank.

        Several values allow rotation: the old one stays valid until its line is removed.

        Raises:
            CredentialUnreadableError: the file exists, but cannot be read.
        """
        # The kubelet deletes the old version's folder right after switching to the new one, so a read that
        # has already followed the symlink finds nothing and has to be repeated.
        for _ in range(_READS):
            try:
                return self._read_file(credential)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise self._unreadable(credential, error) from None
        return self._remember(credential, None, self._environ.get(credential.variable, ""))

    def _read_file(self, credential: Credential) -> list[SecretStr]:
        path = f"{self._path}/{credential.value}"
        stat = os.stat(path)  # noqa: PTH116 - read before each call: a Path costs several times as much
        identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        known = self._read.get(credential)
        if known is not None and known[0] == identity:
            return list(known[2])
        return self._remember(credential, identity, Path(path).read_text(encoding="utf-8"))

    def get(self, credential: Credential) -> SecretStr | None:
        """Return the first value of `credential`, or None.

        Raises:
            CredentialUnreadableError: the file exists, but cannot be read.
        """
        return next(iter(self.get_all(credential)), None)

    def require_all(self, credential: Credential) -> list[SecretStr]:
        """Return all values of `credential`, at least one (raises as `require`)."""
        values = self.get_all(credential)
        if not values:
            raise self._missing(credential)
        return values

    def require(self, credential: Credential) -> SecretStr:
        """Return the first value of `credential`.

        Raises:
            CredentialMissingError: there is no value. The text says where to store one.
            CredentialUnreadableError: the file exists, but cannot be read.
        """
        value = self.get(credential)
        if value is None:
            raise self._missing(credential)
        return value

    def _missing(self, credential: Credential) -> CredentialMissingError:
        return CredentialMissingError(
            credential,
            f"credential {credential.value} is missing: store it in the file {self.file(credential)} "
            f"or in the environment variable {credential.variable}",
        )

    def _remember(self, credential: Credential, identity: _Identity | None, text: str) -> list[SecretStr]:
        known = self._read.get(credential)
        if known is not None and known[:2] == (identity, text):
            return list(known[2])
        lines = [line.strip() for line in text.splitlines()]
        values = [SecretStr(line) for line in lines if line]
        if credential.is_secret:
            for value in values:
                redact_value(value.get_secret_value())
        self._read[credential] = (identity, text, values)
        return list(values)

    def _unreadable(self, credential: Credential, error: Exception) -> CredentialUnreadableError:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        return CredentialUnreadableError(
            credential, f"credential file {self.file(credential)} cannot be read: {cause}"
        )
