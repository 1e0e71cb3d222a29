"""Names an installation's credentials, and the process that needs each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Credential(StrEnum):
    """Credentials of an installation. The value is the file name and the key in the Secret."""

    ANTHROPIC_ENVIRONMENT_ID = "anthropic-environment-id"
    ANTHROPIC_ENVIRONMENT_KEY = "anthropic-environment-key"
    ANTHROPIC_WEBHOOK_SIGNING_KEY = "anthropic-webhook-signing-key"
    E2B_API_KEY = "e2b-api-key"
    ANTHROPIC_API_KEY = "anthropic-api-key"
    WEBHOOK_ADMIN_TOKEN = "webhook-admin-token"  # noqa: S105 - a file name
    DASHBOARD_TOKEN = "dashboard-token"  # noqa: S105 - a file name

    @property
    def variable(self) -> str:
        """The environment variable that is read if the file is absent."""
        return self.value.upper().replace("-", "_")

    @property
    def is_secret(self) -> bool:
        """Whether the value must be kept secret. The environment's ID need not be."""
        return self is not Credential.ANTHROPIC_ENVIRONMENT_ID


REQUIRED_CREDENTIALS = (
    Credential.ANTHROPIC_ENVIRONMENT_ID,
    Credential.ANTHROPIC_ENVIRONMENT_KEY,
    Credential.E2B_API_KEY,
)
"""Credentials that every installation needs."""

OPERATOR_CREDENTIALS = (*REQUIRED_CREDENTIALS, Credential.ANTHROPIC_API_KEY)
DASHBOARD_CREDENTIALS = (Credential.DASHBOARD_TOKEN,)
WEBHOOK_CREDENTIALS = (Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY, Credential.WEBHOOK_ADMIN_TOKEN)


def credentials_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the credentials in environment variables, by file name."""
    found = {str(name): environ.get(name.variable, "").strip() for name in Credential}
    return {name: value for name, value in found.items() if value}


def missing_variables(available: Mapping[str, str]) -> list[str]:
    """Return the environment variables of the required credentials that are missing."""
    return [name.variable for name in REQUIRED_CREDENTIALS if name not in available]
