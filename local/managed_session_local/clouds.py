"""Which clouds the local system talks to, and with which credentials."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from managed_session_local.simulators.anthropic.settings import Settings as AnthropicSettings

ENVIRONMENT_ID = "anthropic-environment-id"
ENVIRONMENT_KEY = "anthropic-environment-key"
SIGNING_KEY = "anthropic-webhook-signing-key"
API_KEY = "anthropic-api-key"
E2B_API_KEY = "e2b-api-key"
ADMIN_TOKEN = "webhook-admin-token"  # noqa: S105 - a file name

OPERATOR_CREDENTIALS = (ENVIRONMENT_ID, ENVIRONMENT_KEY, E2B_API_KEY, API_KEY)
WEBHOOK_CREDENTIALS = (SIGNING_KEY, ADMIN_TOKEN)
_NEEDED = (ENVIRONMENT_ID, ENVIRONMENT_KEY, E2B_API_KEY)

SIMULATED_E2B_KEY = "e2b_5151515151515151515151515151515151515151"

_ENDPOINTS = ("ANTHROPIC_BASE_URL", "E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN")
_CLIENT_VARIABLES = (
    "E2B_MAX_CONNECTIONS",
    *(name for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())),
)
_LOOPBACK = "127.0.0.1,localhost"


class CloudsError(Exception):
    """The credentials of the clouds are incomplete; the text says what to do."""


@dataclass(frozen=True)
class Clouds:
    """Addresses and credentials of the two clouds.

    Attributes:
        environment: variables that the SDKs read, without credentials.
        credentials: by the names of the credential files.
    """

    environment: dict[str, str]
    credentials: dict[str, str] = field(repr=False)

    @property
    def environment_id(self) -> str:
        """The self-hosted environment whose sessions are served."""
        return self.credentials[ENVIRONMENT_ID]

    @property
    def e2b_options(self) -> dict[str, str]:
        """What E2B's SDK is to be given as options."""
        options = {
            "api_key": self.credentials[E2B_API_KEY],
            "api_url": self.environment.get("E2B_API_URL"),
            "sandbox_url": self.environment.get("E2B_SANDBOX_URL"),
            "domain": self.environment.get("E2B_DOMAIN"),
        }
        return {name: value for name, value in options.items() if value}

    def only(self, names: tuple[str, ...]) -> dict[str, str]:
        """Those of the credentials that `names` lists and that are there."""
        return {name: self.credentials[name] for name in names if name in self.credentials}


def credential_variable(name: str) -> str:
    """The environment variable of a credential file."""
    return name.upper().replace("-", "_")


def credentials_in(environ: Mapping[str, str]) -> dict[str, str]:
    """The credentials that the environment has, by the names of their files."""
    names = (*OPERATOR_CREDENTIALS, *WEBHOOK_CREDENTIALS)
    found = {name: environ.get(credential_variable(name), "").strip() for name in names}
    return {name: value for name, value in found.items() if value}


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Whether somebody means the real clouds: Anthropic's environment or its key is set.

    An E2B key alone is often set for other reasons.
    """
    found = credentials_in(environ)
    return ENVIRONMENT_ID in found or ENVIRONMENT_KEY in found


def clouds_from_environment(environ: Mapping[str, str]) -> Clouds:
    """The clouds that the environment's variables point to; Anthropic's and E2B's own by default.

    Raises:
        CloudsError: a credential is missing.
    """
    found = credentials_in(environ)
    missing = [credential_variable(name) for name in _NEEDED if name not in found]
    if missing:
        raise CloudsError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: set all of "
            f"{', '.join(map(credential_variable, _NEEDED))} to use the real clouds, or use --simulate"
        )
    environment = {name: environ[name] for name in (*_ENDPOINTS, *_CLIENT_VARIABLES) if environ.get(name)}
    return Clouds({**environment, **proxy_bypass(environ)}, found)


def proxy_bypass(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with which this machine itself is reached without the user's proxy."""
    present = environ.get("no_proxy") or environ.get("NO_PROXY")
    bypassed = ",".join(filter(None, (present, _LOOPBACK)))
    return {"no_proxy": bypassed, "NO_PROXY": bypassed}


def simulated_clouds(anthropic_url: str, e2b_url: str, settings: AnthropicSettings) -> Clouds:
    """The two simulators."""
    return Clouds(
        {
            "ANTHROPIC_BASE_URL": anthropic_url,
            "E2B_API_URL": e2b_url,
            "E2B_SANDBOX_URL": e2b_url,
        },
        {
            ENVIRONMENT_ID: settings.environment_id,
            ENVIRONMENT_KEY: settings.environment_key,
            E2B_API_KEY: SIMULATED_E2B_KEY,
        },
    )
