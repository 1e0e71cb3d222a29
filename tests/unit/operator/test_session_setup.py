"""What the metadata of a session may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.resource import (
    EffectiveStatus,
    KeyReference,
    MetadataCredential,
    MetadataPolicy,
    SessionMetadataSetup,
    SetupRepository,
    SetupSpec,
)
from managed_session_operator.domain.session_setup import RefusedMetadataError, with_session_setup

from . import examples

URL = "https://git.example.com/acme/code.git"
SHA = "ab" * 32


def policy(rules: SessionMetadataSetup | None = None, **setup: Any) -> EffectiveStatus:
    return examples.policy(setup=SetupSpec(from_session_metadata=rules, **setup) if rules or setup else None)


def asked(**values: str) -> dict[str, str]:
    return {f"managedagents.dev/{name.replace('_', '-')}": value for name, value in values.items()}


def refusal(metadata: dict[str, str], rules: SessionMetadataSetup | None = None) -> RefusedMetadataError:
    with pytest.raises(RefusedMetadataError) as caught:
        with_session_setup(policy(rules), metadata)
    return caught.value


def test_session_without_the_keys_has_the_setup_of_its_policy() -> None:
    for metadata in (None, {}, {"team": "blue", "managedagents.dev/other": "x"}):
        given = policy(script="true")
        assert with_session_setup(given, metadata) is given


def test_repository_and_file_are_added_to_those_of_the_policy_without_a_credential() -> None:
    given = policy(repositories=[SetupRepository(url="https://git.example.com/base")])
    metadata = asked(repository=URL, repository_ref="v1", repository_path="src/code", repository_depth="1")
    metadata |= asked(file_url="https://example.com/data.csv", file_sha256=SHA, file_path="data.csv")
    setup = with_session_setup(given, metadata).setup
    assert setup is not None
    first, second = setup.repositories
    assert first.url.endswith("/base")
    assert (second.url, second.ref, second.path, second.depth) == (URL, "v1", "src/code", 1)
    assert second.credential is None
    assert [(file.path, file.sha256) for file in setup.files] == [("data.csv", SHA)]


def test_credential_is_used_below_its_prefix_only() -> None:
    given = MetadataCredential(
        url_prefix="https://git.example.com/acme/", secret_ref=KeyReference(name="git", key="token")
    )
    rules = SessionMetadataSetup(credentials=[given])
    for url, expected in (
        (URL, True),
        ("https://git.example.com/acme-evil/code", False),
        ("https://git.example.com.evil.com/acme/code", False),
        ("https://evil.com/https://git.example.com/acme/", None),
        ("https://git.example.com/acme/../evil/code", None),
        ("https://git.example.com/acme/%2e%2e/evil/code", None),
        ("https://git.example.com/acme/..", None),
        ("https://me@git.example.com/acme/code", None),
        ("https://git.example.com/acme/code?x=1", None),
        ("https://git.example.com/acme/\n", None),
        ("http://git.example.com/acme/code", None),
        ("ssh://git@git.example.com/acme/code", None),
        ("file:///etc", None),
        ("ext::sh -c id", None),
        ("--upload-pack=id", None),
    ):
        if expected is None:
            assert refusal(asked(repository=url), rules).step.endswith("/repository")
            continue
        setup = with_session_setup(policy(rules), asked(repository=url)).setup
        assert setup is not None
        assert (setup.repositories[0].credential is not None) is expected, url


def test_policy_may_forbid_it_or_limit_it_to_prefixes() -> None:
    denied = refusal(asked(repository=URL), SessionMetadataSetup(policy=MetadataPolicy.DENY))
    assert "fromSessionMetadata" in denied.why
    allowed = ["https://git.example.com/acme/"]
    rules = SessionMetadataSetup(policy=MetadataPolicy.ALLOW, url_prefixes=allowed)
    assert with_session_setup(policy(rules), asked(repository=URL)).setup
    assert "urlPrefixes" in refusal(asked(repository="https://git.example.com/other/x"), rules).why
    outside = asked(file_url="https://example.com/x", file_sha256=SHA, file_path="x")
    assert "urlPrefixes" in refusal(outside, rules).why


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        (asked(repository_ref="main"), "repository-ref"),
        (asked(repository=URL, repository_ref="--upload-pack=id"), "repository-ref"),
        (asked(repository=URL, repository_path="../x"), "repository-path"),
        (asked(repository=URL, repository_path="/etc/x"), "repository-path"),
        (asked(repository=URL, repository_path="/home/agent/../x"), "repository-path"),
        (asked(repository=URL, repository_path="x/"), "repository-path"),
        (asked(repository=URL, repository_depth="0"), "repository-depth"),
        (asked(file_url=URL), "file-url"),
        (asked(file_url=URL, file_sha256="ab", file_path="x"), "file-sha256"),
        (asked(file_url=URL, file_sha256=SHA, file_path="."), "file-path"),
    ],
)
def test_what_is_not_possible_is_named_by_its_key(metadata: dict[str, str], key: str) -> None:
    assert refusal(metadata).step == f"session metadata managedagents.dev/{key}"
