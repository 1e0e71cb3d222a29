"""Credentials: one file each in a directory, as a mounted Secret provides them, or environment variables.

Each read looks at the file again, so that a credential may be added or replaced without a restart: the
kubelet swaps the `..data` symlink, which gives the file behind the name another identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

from managed_session_runtime.log import redact_value


class Credential(StrEnum):
    """The credentials an installation may have. The value is the file's name."""

    ANTHROPIC_ENVIRONMENT_ID = "anthropic-environment-id"
    ANTHROPIC_ENVIRONMENT_KEY = "anthropic-environment-key"
    ANTHROPIC_WEBHOOK_SIGNING_KEY = "anthropic-webhook-signing-key"
    E2B_API_KEY = "e2b-api-key"
    ANTHROPIC_API_KEY = "anthropic-api-key"
    WEBHOOK_ADMIN_TOKEN = "webhook-admin-token"  # noqa: S105 - a file name

    @property
    def variable(self) -> str:
        """The environment variable that is read where the file is absent."""
        return self.value.upper().replace("-", "_")

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be seen; the environment's ID may."""
        return self is not Credential.ANTHROPIC_ENVIRONMENT_ID


class CredentialError(Exception):
    """A credential cannot be used. The text names the file or variable, never the value."""

    def __init__(self, credential: Credential, message: str) -> None:
        super().__init__(message)
        self.credential = credential


class CredentialMissingError(CredentialError):
    """The credential is in neither place."""


class CredentialUnreadableError(CredentialError):
    """The file exists and cannot be read as text."""


_LOOKS = 3
"""At a file that is absent, before it counts as such."""

_Identity = tuple[int, int, int, int, int]


class CredentialDirectory:
    """Reads credentials from the files of one directory, or else from environment variables.

    Reads are synchronous: files of a few bytes on a memory file system.
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
        """Where the credential's file is looked for."""
        return self._path / credential.value

    def get_all(self, credential: Credential) -> list[SecretStr]:
        """Every value of `credential`, one per line, in order; empty where it is missing or blank.

        Several values are for rotation: the old one stays valid until its line is removed.

        Raises:
            CredentialUnreadableError: the file exists and cannot be read.
        """
        # The kubelet removes the folder of the former version right after it has switched to the next one:
        # who was on the way through the symlink then finds nothing there, and has to look again.
        for _ in range(_LOOKS):
            try:
                return self._read_file(credential)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise self._unreadable(credential, error) from None
        return self._remember(credential, None, self._environ.get(credential.variable, ""))

    def _read_file(self, credential: Credential) -> list[SecretStr]:
        path = self.file(credential)
        stat = path.stat()
        identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        known = self._read.get(credential)
        if known is not None and known[0] == identity:
            return list(known[2])
        return self._remember(credential, identity, path.read_text(encoding="utf-8"))

    def get(self, credential: Credential) -> SecretStr | None:
        """The first value of `credential`, or None where there is none.

        Raises:
            CredentialUnreadableError: the file exists and cannot be read.
        """
        return next(iter(self.get_all(credential)), None)

    def require_all(self, credential: Credential) -> list[SecretStr]:
        """Every value of `credential`, at least one (raises as `require`)."""
        self.require(credential)
        return self.get_all(credential)

    def require(self, credential: Credential) -> SecretStr:
        """The first value of `credential`.

        Raises:
            CredentialMissingError: there is none; the text names where to put it.
            CredentialUnreadableError: the file exists and cannot be read.
        """
        value = self.get(credential)
        if value is None:
            raise CredentialMissingError(
                credential,
                f"credential {credential.value} is missing: put it into the file {self.file(credential)} "
                f"or the environment variable {credential.variable}",
            )
        return value

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
