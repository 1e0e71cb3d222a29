"""Says which authorities and proxies a sandbox's programs use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from managed_session_api.conditions import Reason
from managed_session_api.resource import AuthoritySource, EffectiveStatus, ProxySpec
from managed_session_worker.paths import Paths

from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.values import Reference, secret_key

SECONDS = 60
"""What the distribution's own program may take."""
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_ALWAYS_DIRECT = ("localhost", "127.0.0.1", "::1")
_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
"""What OpenSSL, Node.js, Python's requests, curl, git and pip read the store's file from."""


def reference_of(source: AuthoritySource) -> Reference | None:
    """Return where the certificates are; None if they are in the policy itself."""
    for kind, at in (("ConfigMap", source.config_map_ref), ("Secret", source.secret_ref)):
        if at is not None:
            return Reference(kind, at.name, at.key)
    return None


def references_of(values: EffectiveStatus) -> list[Reference]:
    """Return what the authorities' certificates and the proxies' credential come from."""
    at_login = credential_of(values.proxy) if values.proxy is not None else None
    sources = values.trust.certificate_authorities if values.trust is not None else []
    found = [at for each in sources if (at := reference_of(each)) is not None]
    return [*found, at_login] if at_login is not None else found


def authorities(values: EffectiveStatus, found: Mapping[Reference, str]) -> str:
    """Return all certificates of the policy's authorities, PEM.

    Raises:
        OperationError: one of the sources has no certificate, or a private key.
    """
    parts = list[str]()
    for each in values.trust.certificate_authorities if values.trust is not None else ():
        at = reference_of(each)
        text = found[at] if at is not None else each.pem or ""
        if _CERTIFICATE not in text or "PRIVATE KEY" in text:
            where = f"The key {at.key} of the {at.kind} {at.name}" if at is not None else "trust"
            message = f"{where} must have certificates in PEM, and no private key."
            raise OperationError(ErrorKind.USER_ACTION, Reason.REFERENCE_INVALID, message)
        parts.append(text.strip())
    return "\n".join(parts)


def section(values: EffectiveStatus, found: Mapping[Reference, str]) -> dict[str, Any]:
    """Return the section `trust` of the plan. Secrets need it too: their hosts' certificates are E2B's."""
    return {"certificates": authorities(values, found)}


def credential_of(proxy: ProxySpec) -> Reference | None:
    """Return where the proxies' credential is; None if they need none."""
    at = proxy.credential_secret_ref
    return secret_key(at) if at is not None else None


def credential(values: EffectiveStatus, found: Mapping[Reference, str]) -> str:
    """Return the proxies' credential; "" if they need none."""
    login = credential_of(values.proxy) if values.proxy is not None else None
    return found[login] if login is not None else ""


def variables(values: EffectiveStatus, login: str) -> dict[str, str]:
    """Return the variables of the agent's commands for store and proxies. Those of the policy's `env` win."""
    found = dict[str, str]()
    if values.trust is not None or values.secrets:
        found |= dict.fromkeys(_BUNDLE_VARIABLES, Paths().trust_bundle)
    if (proxy := values.proxy) is not None:
        urls = {"http_proxy": proxy.http_proxy, "https_proxy": proxy.https_proxy}
        found |= {name: _with(url, login) for name, url in urls.items() if url}
        found["no_proxy"] = ",".join(_direct(values, proxy))
        found |= {name.upper(): value for name, value in found.items() if name.endswith("_proxy")}
    return {name: value for name, value in found.items() if name not in (values.env or {})}


def plan_variables(values: EffectiveStatus, found: Mapping[Reference, str]) -> dict[str, str]:
    """Return the same variables for the programs of a sandbox's preparation: git, scripts and hooks."""
    return variables(values, credential(values, found))


def workers_proxy(values: EffectiveStatus, login: str, base_url: str) -> str | None:
    """Return the proxy of the worker's connection to Anthropic; None if it is direct."""
    if (proxy := values.proxy) is None:
        return None
    url = urlsplit(base_url)
    host = url.hostname or ""
    if any(_is_of(host, each) for each in _direct(values, proxy)):
        return None
    chosen = proxy.https_proxy if url.scheme == "https" else proxy.http_proxy
    return _with(chosen, login) if chosen else None


def _direct(values: EffectiveStatus, proxy: ProxySpec) -> list[str]:
    # E2B knows a host by the connection's destination, which would be the proxy.
    hosts = [each.host for each in values.secrets or ()]
    return list(dict.fromkeys([*proxy.no_proxy, *_ALWAYS_DIRECT, *hosts]))


def _is_of(host: str, entry: str) -> bool:
    domain = entry.removeprefix("*").removeprefix(".")
    return entry == "*" or host == domain or host.endswith(f".{domain}")


def _with(url: str, login: str) -> str:
    if not login:
        return url
    user, _, password = login.strip().partition(":")
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def proxy_hosts(proxy: ProxySpec | None) -> Iterable[str]:
    """Return the hosts of the proxies, which the sandbox has to reach."""
    urls = (proxy.http_proxy, proxy.https_proxy) if proxy is not None else ()
    return [host for each in urls if each and (host := urlsplit(each).hostname)]
