"""Adds to a session's setup what the metadata of Anthropic's session ask for. Pure.

Whoever may create a session chooses its metadata, and may have no right in the cluster. So the metadata can
name only what the agent could fetch itself: a repository and a file that are read over HTTPS without a
credential. The policy can forbid that, or limit it to certain URLs, or add a credential for certain URLs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from managed_session_api import names
from managed_session_api.resource import (
    EffectiveStatus,
    MetadataPolicy,
    RepositoryCredential,
    Scope,
    SessionMetadataSetup,
    SetupFile,
    SetupRepository,
    SetupSpec,
)

REPOSITORY = f"{names.DOMAIN}/repository"
REPOSITORY_REF = f"{names.DOMAIN}/repository-ref"
REPOSITORY_PATH = f"{names.DOMAIN}/repository-path"
REPOSITORY_DEPTH = f"{names.DOMAIN}/repository-depth"
FILE_URL = f"{names.DOMAIN}/file-url"
FILE_SHA256 = f"{names.DOMAIN}/file-sha256"
FILE_PATH = f"{names.DOMAIN}/file-path"
KEYS = (REPOSITORY, REPOSITORY_REF, REPOSITORY_PATH, REPOSITORY_DEPTH, FILE_URL, FILE_SHA256, FILE_PATH)
"""The keys of a session's metadata that ask for something."""

_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~+@=,-]+)+/?")
"""URLs that a server reads as they are written: a prefix of the text is a prefix of the path."""
_UPWARDS = re.compile(r"(^|/)\.{1,2}(/|$)")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@#-]{0,255}")
_PATH = re.compile(r"(/mnt/session/|/home/agent/|[^/\x00-\x1f])[^\x00-\x1f]*")
_DOUBLE = re.compile(r"//|/$")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_DEPTH = re.compile(r"[1-9][0-9]{0,5}")


class RefusedMetadataError(Exception):
    """The metadata ask for something that is not possible or not allowed.

    Attributes:
        step: the key of the metadata.
        why: the cause and what to do.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.step, self.why = f"session metadata {key}", why


def asked_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a session's metadata that asks for a setup."""
    return {key: metadata[key] for key in KEYS if metadata.get(key)}


def with_session_setup(policy: EffectiveStatus, metadata: Mapping[str, str] | None) -> EffectiveStatus:
    """Return the policy with what the metadata ask for. None means that they are not known.

    Raises:
        RefusedMetadataError: they ask for something that is not possible or not allowed.
    """
    asked = asked_of(metadata or {})
    if not asked:
        return policy
    if policy.scope not in (None, Scope.SESSION):
        why = "sessions of a shared sandbox get none; remove the key"
        raise RefusedMetadataError(next(iter(asked)), why)
    setup = policy.setup or SetupSpec()
    rules = setup.from_session_metadata or SessionMetadataSetup()
    if rules.policy is MetadataPolicy.DENY:
        why = "the policy does not allow this (`setup.fromSessionMetadata`); remove the key, or allow it"
        raise RefusedMetadataError(next(iter(asked)), why)
    repositories, files = list(setup.repositories), list(setup.files)
    if repository := _repository(asked, rules):
        repositories.append(repository)
    if file := _file(asked, rules):
        files.append(file)
    added = setup.model_copy(update={"repositories": repositories, "files": files})
    return policy.model_copy(update={"setup": added})


def _repository(asked: Mapping[str, str], rules: SessionMetadataSetup) -> SetupRepository | None:
    url = asked.get(REPOSITORY)
    if url is None:
        for key in (REPOSITORY_REF, REPOSITORY_PATH, REPOSITORY_DEPTH):
            if key in asked:
                raise RefusedMetadataError(key, f"it needs the key {REPOSITORY} beside it")
        return None
    _check_url(REPOSITORY, url, rules)
    _check(REPOSITORY_REF, asked, _REF, "it must be a branch, a tag or a commit ID")
    _check(REPOSITORY_DEPTH, asked, _DEPTH, "it must be a number from 1")
    _check_path(REPOSITORY_PATH, asked)
    given = next((each for each in rules.credentials if url.startswith(each.url_prefix)), None)
    credential = (
        RepositoryCredential(secret_ref=given.secret_ref, username=given.username)
        if given is not None
        else None
    )
    return SetupRepository(
        url=url,
        ref=asked.get(REPOSITORY_REF),
        path=asked.get(REPOSITORY_PATH),
        depth=int(asked[REPOSITORY_DEPTH]) if REPOSITORY_DEPTH in asked else None,
        credential=credential,
    )


def _file(asked: Mapping[str, str], rules: SessionMetadataSetup) -> SetupFile | None:
    found = [key for key in (FILE_URL, FILE_SHA256, FILE_PATH) if key in asked]
    if not found:
        return None
    for key in (FILE_URL, FILE_SHA256, FILE_PATH):
        if key not in asked:
            raise RefusedMetadataError(found[0], f"it needs the key {key} beside it")
    _check_url(FILE_URL, asked[FILE_URL], rules)
    _check(FILE_SHA256, asked, _SHA256, "it must have 64 hexadecimal digits")
    _check_path(FILE_PATH, asked)
    return SetupFile(path=asked[FILE_PATH], url=asked[FILE_URL], sha256=asked[FILE_SHA256])


def _check_url(key: str, url: str, rules: SessionMetadataSetup) -> None:
    if not _URL.fullmatch(url) or _UPWARDS.search(url):
        why = "it must be an https:// URL without a user name, a query, percent signs and `..`"
        raise RefusedMetadataError(key, why)
    if rules.url_prefixes and not any(url.startswith(prefix) for prefix in rules.url_prefixes):
        rule = "setup.fromSessionMetadata.urlPrefixes"
        raise RefusedMetadataError(
            key, f"the policy does not allow this URL (`{rule}`); use another, or allow it"
        )


def _check(key: str, asked: Mapping[str, str], pattern: re.Pattern[str], why: str) -> None:
    if key in asked and not pattern.fullmatch(asked[key]):
        raise RefusedMetadataError(key, why)


def _check_path(key: str, asked: Mapping[str, str]) -> None:
    path = asked.get(key)
    if path is None:
        return
    if not _PATH.fullmatch(path) or _UPWARDS.search(path) or _DOUBLE.search(path):
        why = "it must be a path below /mnt/session or /home/agent, without `.` and `..`"
        raise RefusedMetadataError(key, why)
