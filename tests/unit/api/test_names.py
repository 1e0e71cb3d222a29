"""Names that webhook, operator and manifests derive from a session's ID."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api import names

session_ids = st.from_regex(names.SESSION_ID_PATTERN[1:-1], fullmatch=True)
KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@given(session_ids)
def test_every_session_id_gives_a_valid_kubernetes_name(session_id: str) -> None:
    name = names.resource_name(session_id)
    assert KUBERNETES_NAME.fullmatch(name)
    assert len(name) <= 51
    assert KUBERNETES_NAME.fullmatch(names.token_secret_name(name))


@given(session_ids)
def test_the_name_of_a_session_never_changes(session_id: str) -> None:
    assert names.resource_name(session_id) == names.resource_name(session_id)


@given(st.sets(session_ids, min_size=2, max_size=8))
def test_two_sessions_never_share_a_name(ids: set[str]) -> None:
    assert len({names.resource_name(each) for each in ids}) == len(ids)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sesn_01AbC", "sesn_01abc"),
        ("sesn_01abc", "sesn-01abc"),
        ("sesn_" + "a" * 100, "sesn_" + "a" * 101),
        ("a_", "a-"),
    ],
)
def test_ids_that_differ_in_case_punctuation_or_tail_have_different_names(one: str, other: str) -> None:
    assert names.resource_name(one) != names.resource_name(other)


def test_the_name_starts_with_a_recognizable_part() -> None:
    assert names.resource_name("sesn_01AbCdEf").startswith("sesn-01abcdef-")


@pytest.mark.parametrize(
    "value", ["", "_sesn", "-sesn", "a" * 121, "sesn/1", "sesn 1", "sesn_1\n", "sesn.1", "ß", None, 7]
)
def test_an_invalid_session_id_has_no_name(value: object) -> None:
    assert not names.is_session_id(value)
    with pytest.raises(ValueError, match="not a session ID"):
        names.resource_name(value)  # type: ignore[arg-type]


def test_all_names_of_the_project_have_its_domain() -> None:
    ours = (
        names.FINALIZER,
        names.ANNOTATION_CLAIM,
        names.METADATA_INSTALLATION,
        names.METADATA_RESOURCE_UID,
        names.METADATA_SESSION,
        names.METADATA_ATTEMPT,
    )
    assert all(each.startswith("managedagents.dev/") for each in ours)
    assert names.API_VERSION == "managedagents.dev/v1alpha1"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"uid": "uid-1"}, "uid-1"),
        ({"uid": "uid-1", "annotations": None}, "uid-1"),
        ({"uid": "uid-1", "annotations": {"managedagents.dev/identity": ""}}, "uid-1"),
        ({"uid": "uid-2", "annotations": {"managedagents.dev/identity": "uid-1"}}, "uid-1"),
    ],
)
def test_the_identity_of_a_resource_is_its_annotation_or_else_its_uid(
    metadata: dict[str, Any], expected: str
) -> None:
    assert names.identity(metadata) == expected
