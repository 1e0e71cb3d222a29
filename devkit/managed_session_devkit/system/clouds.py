"""The clouds that the local system uses, with their credentials."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from managed_session_api.credentials import (
    REQUIRED_CREDENTIALS,
    Credential,
    credentials_in,
    missing_variables,
)
from managed_session_cli.proxies import proxy_bypass

from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings

SIMULATED_E2B_KEY = "e2b_5151515151515151515151515151515151515151"

_ENDPOINTS = ("ANTHROPIC_BASE_URL", "E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN")
_CLIENT_VARIABLES = (
    "E2B_MAX_CONNECTIONS",
    *(name for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())),
)


class CloudsError(Exception):
    """Credentials of the clouds are missing; the text says what to do."""


@dataclass(frozen=True)
class Clouds:
    """Addresses and credentials of the two clouds.

    Attributes:
        environment: the variables that the SDKs read, without credentials.
        credentials: credentials by the names of their files.
    """

    environment: dict[str, str]
    credentials: dict[str, str] = field(repr=False)

    @property
    def environment_id(self) -> str:
        """The self-hosted environment whose sessions are served."""
        return self.credentials[Credential.ANTHROPIC_ENVIRONMENT_ID]

    @property
    def e2b_options(self) -> dict[str, str]:
        """Options for calls of E2B's SDK."""
        options = {
            "api_key": self.credentials[Credential.E2B_API_KEY],
            "api_url": self.environment.get("E2B_API_URL"),
            "sandbox_url": self.environment.get("E2B_SANDBOX_URL"),
            "domain": self.environment.get("E2B_DOMAIN"),
        }
        return {name: value for name, value in options.items() if value}

    @property
    def e2b_variables(self) -> dict[str, str]:
        """Environment variables with which a process reaches E2B by its SDK."""
        return {**self.environment, "E2B_API_KEY": self.credentials[Credential.E2B_API_KEY]}

    def only(self, names: Iterable[str]) -> dict[str, str]:
        """Return the available credentials among `names`."""
        return {name: self.credentials[name] for name in names if name in self.credentials}


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Return whether the user wants the real clouds: Anthropic's environment or its key is set.

    An E2B key alone does not count, because it is often set for other reasons.
    """
    found = credentials_in(environ)
    return bool(found.keys() & {Credential.ANTHROPIC_ENVIRONMENT_ID, Credential.ANTHROPIC_ENVIRONMENT_KEY})


def clouds_from_environment(environ: Mapping[str, str]) -> Clouds:
    """Return the clouds that the variables name; the real Anthropic and E2B by default.

    Raises:
        CloudsError: a credential is missing.
    """
    found = credentials_in(environ)
    if missing := missing_variables(found):
        raise CloudsError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: set all of "
            f"{', '.join(name.variable for name in REQUIRED_CREDENTIALS)} to use the real clouds, "
            "or use --simulate"
        )
    environment = {name: environ[name] for name in (*_ENDPOINTS, *_CLIENT_VARIABLES) if environ.get(name)}
    return Clouds({**environment, **proxy_bypass(environ)}, found)


def simulated_clouds(anthropic_url: str, e2b_url: str, settings: AnthropicSettings) -> Clouds:
    """Return the two simulators as clouds."""
    return Clouds(
        {
            "ANTHROPIC_BASE_URL": anthropic_url,
            "E2B_API_URL": e2b_url,
            "E2B_SANDBOX_URL": e2b_url,
        },
        {
            Credential.ANTHROPIC_ENVIRONMENT_ID: settings.environment_id,
            Credential.ANTHROPIC_ENVIRONMENT_KEY: settings.environment_key,
            Credential.E2B_API_KEY: SIMULATED_E2B_KEY,
        },
    )
