"""Which clouds the local system uses, by environment variables."""

import pytest
from managed_session_api.credentials import OPERATOR_CREDENTIALS, WEBHOOK_CREDENTIALS
from managed_session_devkit.system.clouds import CloudsError, clouds_from_environment, has_credentials

ALL = {"ANTHROPIC_ENVIRONMENT_ID": "env_1", "ANTHROPIC_ENVIRONMENT_KEY": "key", "E2B_API_KEY": "e2b_1"}


@pytest.mark.parametrize(
    ("environ", "meant"),
    [
        ({}, False),
        ({"E2B_API_KEY": "e2b_1"}, False),
        ({"ANTHROPIC_API_KEY": "sk"}, False),
        ({"ANTHROPIC_ENVIRONMENT_KEY": " "}, False),
        ({"ANTHROPIC_ENVIRONMENT_KEY": "key"}, True),
        (ALL, True),
    ],
)
def test_real_clouds_are_used_if_an_environment_is_set(environ: dict[str, str], meant: bool) -> None:
    assert has_credentials(environ) is meant


@pytest.mark.parametrize("missing", sorted(ALL))
def test_missing_credential_is_named_with_a_remedy(missing: str) -> None:
    with pytest.raises(CloudsError, match=f"^{missing} is not set: .* or use --simulate$"):
        clouds_from_environment({name: value for name, value in ALL.items() if name != missing})


def test_credentials_are_divided_among_the_pods() -> None:
    clouds = clouds_from_environment(
        ALL | {"ANTHROPIC_WEBHOOK_SIGNING_KEY": "whsec_1", "ANTHROPIC_API_KEY": "sk"}
    )
    assert clouds.only(WEBHOOK_CREDENTIALS) == {"anthropic-webhook-signing-key": "whsec_1"}
    assert clouds.only(OPERATOR_CREDENTIALS) == {
        "anthropic-environment-id": "env_1",
        "anthropic-environment-key": "key",
        "e2b-api-key": "e2b_1",
        "anthropic-api-key": "sk",
    }


def test_sdks_own_addresses_and_the_proxy_are_passed_on_without_credentials() -> None:
    clouds = clouds_from_environment(
        ALL
        | {"ANTHROPIC_BASE_URL": "http://a", "E2B_DOMAIN": "e.test", "HTTPS_PROXY": "http://p", "OTHER": "x"}
    )
    assert clouds.environment == {
        "ANTHROPIC_BASE_URL": "http://a",
        "E2B_DOMAIN": "e.test",
        "HTTPS_PROXY": "http://p",
        "no_proxy": "127.0.0.1,localhost",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def test_credentials_are_not_printed() -> None:
    assert "e2b_1" not in repr(clouds_from_environment(ALL))
