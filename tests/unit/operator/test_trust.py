"""Which proxies and authorities the agent's commands and the worker get."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.resource import EffectiveStatus
from managed_session_operator.domain import trust
from managed_session_operator.domain.destinations import destinations
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.policy import policy_of
from managed_session_operator.domain.preparation import plan_of, references_of, sections_of
from managed_session_operator.domain.values import Reference

from .examples import session, settings

URL = "https://api.anthropic.com"
PEM = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----"
SECRETS = [{"host": "api.example.com", "header": "A", "secretRef": {"name": "s", "key": "k"}}]


def values(**sandbox: Any) -> EffectiveStatus:
    return policy_of(session(spec={"sandbox": sandbox}), settings()).values


def test_commands_get_the_proxies_with_their_credential_and_both_spellings() -> None:
    policy = values(
        proxy={"httpProxy": "http://p:3128", "httpsProxy": "http://q:3129", "noProxy": [".corp"]},
        secrets=SECRETS,
        env={"https_proxy": "http://mine"},
    )
    found = trust.variables(policy, "user:p@ss:w")
    assert found["HTTP_PROXY"] == found["http_proxy"] == "http://user:p%40ss%3Aw@p:3128"
    assert "https_proxy" not in found
    assert found["no_proxy"].split(",") == [".corp", "localhost", "127.0.0.1", "::1", "api.example.com"]


@pytest.mark.parametrize(
    ("proxy", "url", "expected"),
    [
        ({"httpsProxy": "http://p:1"}, URL, "http://u:s@p:1"),
        ({"httpProxy": "http://p:1"}, URL, None),
        ({"httpProxy": "http://p:1"}, "http://cma.corp:8080", "http://u:s@p:1"),
        ({"httpsProxy": "http://p:1", "noProxy": [".anthropic.com"]}, URL, None),
        ({"httpsProxy": "http://p:1", "noProxy": ["thropic.com"]}, URL, "http://u:s@p:1"),
    ],
)
def test_the_workers_proxy_is_that_of_its_urls_scheme(
    proxy: dict[str, Any], url: str, expected: str | None
) -> None:
    assert trust.workers_proxy(values(proxy=proxy), "u:s", url) == expected


def test_a_closed_network_reaches_the_proxy() -> None:
    spec = {"network": {"preset": "closed"}, "proxy": {"httpsProxy": "http://p.corp:1"}}
    policy = policy_of(session(spec={"sandbox": spec}), settings())
    assert destinations(policy, URL)[0] == ("api.anthropic.com", "p.corp")


def test_the_store_is_prepared_for_authorities_and_for_secrets() -> None:
    assert not sections_of(values())
    assert trust.variables(values(), "") == {}
    for policy in (values(secrets=SECRETS), values(trust={"certificateAuthorities": [{"pem": PEM}]})):
        assert [each.name for each in sections_of(policy)] == ["trust"]
        assert trust.variables(policy, "")["REQUESTS_CA_BUNDLE"].endswith("/trusted.pem")
    at = Reference("ConfigMap", "cas", "ca.pem")
    reference = {"configMapRef": {"name": at.name, "key": at.key}}
    policy = values(trust={"certificateAuthorities": [{"pem": PEM}, reference]})
    assert trust.references_of(policy) == [at]
    plan = plan_of(session(), policy, {at: f"{PEM}\n"})
    assert plan["sections"] == [["trust", {"certificates": f"{PEM}\n{PEM}"}]]


@pytest.mark.parametrize("text", ["", "no certificate", f"{PEM}\n-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    at = Reference("Secret", "cas", "ca.pem")
    reference = {"secretRef": {"name": at.name, "key": at.key}}
    policy = values(trust={"certificateAuthorities": [reference]})
    with pytest.raises(OperationError, match=r"The key ca.pem of the Secret cas must have certificates"):
        trust.authorities(policy, {at: text})


def test_git_scripts_and_mounts_of_the_preparation_use_the_proxy() -> None:
    reference = {"name": "login", "key": "proxy"}
    policy = values(
        proxy={"httpsProxy": "http://p:1", "credentialSecretRef": reference},
        buckets=[{"type": "S3", "bucket": "files", "path": "/mnt/data", "readOnly": True}],
    )
    at = Reference("Secret", "login", "proxy")
    assert references_of(policy) == {at: False}
    plan = plan_of(session(), policy, {at: "u:s"})
    assert plan["environment"]["HTTPS_PROXY"] == "http://u:s@p:1"
    assert [name for name, _ in plan["sections"]] == ["trust", "mounts"]
    assert plan["sections"][1][1]["environment"]["https_proxy"] == "http://u:s@p:1"
