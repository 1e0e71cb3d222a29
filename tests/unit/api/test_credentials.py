"""The names of an installation's credentials."""

from managed_session_api.credentials import (
    DASHBOARD_CREDENTIALS,
    OPERATOR_CREDENTIALS,
    WEBHOOK_CREDENTIALS,
    Credential,
    credentials_in,
    missing_variables,
)

GIVEN = {"ANTHROPIC_ENVIRONMENT_ID": "env_1", "ANTHROPIC_ENVIRONMENT_KEY": "key-1", "E2B_API_KEY": "e2b_1"}


def test_each_credential_belongs_to_one_process() -> None:
    assert sorted([*OPERATOR_CREDENTIALS, *WEBHOOK_CREDENTIALS, *DASHBOARD_CREDENTIALS]) == sorted(Credential)


def test_credentials_are_found_in_the_environment_by_their_variables() -> None:
    assert credentials_in(GIVEN | {"OTHER": "x", "ANTHROPIC_API_KEY": " ", "WEBHOOK_ADMIN_TOKEN": "t\n"}) == {
        "anthropic-environment-id": "env_1",
        "anthropic-environment-key": "key-1",
        "e2b-api-key": "e2b_1",
        "webhook-admin-token": "t",
    }


def test_missing_credentials_are_named_by_their_variables() -> None:
    assert missing_variables({"e2b-api-key": "e2b_1"}) == [
        "ANTHROPIC_ENVIRONMENT_ID",
        "ANTHROPIC_ENVIRONMENT_KEY",
    ]
    assert missing_variables(credentials_in(GIVEN)) == []
