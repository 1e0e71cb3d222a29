"""Credential files, and the variables that replace them."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from managed_session_api.credentials import Credential
from managed_session_devkit.system.secret_volume import SecretVolume
from managed_session_runtime.credentials import (
    CredentialDirectory,
    CredentialMissingError,
    CredentialUnreadableError,
)

KEY = Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY


def read(directory: CredentialDirectory) -> list[str]:
    return [value.get_secret_value() for value in directory.get_all(KEY)]


def test_a_file_is_read_without_trailing_white_space(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("whsec_abcdefgh \n")
    value = CredentialDirectory(tmp_path, {}).get(KEY)
    assert value is not None
    assert value.get_secret_value() == "whsec_abcdefgh"


def test_each_line_is_a_value_except_blank_lines(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("new-value-1\n\n  old-value-2\r\n")
    assert read(CredentialDirectory(tmp_path, {})) == ["new-value-1", "old-value-2"]


def test_the_variable_replaces_a_missing_file(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_WEBHOOK_SIGNING_KEY": "from-variable"}
    assert read(CredentialDirectory(tmp_path / "absent", environ)) == ["from-variable"]


def test_the_file_takes_precedence_over_the_variable(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("from-file")
    assert read(CredentialDirectory(tmp_path, {KEY.variable: "from-variable"})) == ["from-file"]


def test_a_file_added_later_is_found(tmp_path: Path) -> None:
    directory = CredentialDirectory(tmp_path, {})
    assert directory.get(KEY) is None
    (tmp_path / KEY).write_text("added-later")
    assert read(directory) == ["added-later"]
    (tmp_path / KEY).unlink()
    assert read(directory) == []


def test_the_kubelets_symlink_swap_is_noticed(tmp_path: Path) -> None:
    volume = SecretVolume(tmp_path / "mounted")
    directory = CredentialDirectory(volume.path, {})
    for value in (b"first\n", b"other\n"):
        volume.write({KEY: value, "another": b"there"})
        assert read(directory) == [value.decode().strip()]
    volume.write({"another": b"there"})
    assert read(directory) == []
    assert {path.name for path in volume.path.glob("[!.]*")} == {"another"}
    volume.write({KEY: b"again"})
    assert read(directory) == ["again"]


def test_a_missing_credential_names_the_file_and_the_variable(tmp_path: Path) -> None:
    with pytest.raises(CredentialMissingError) as raised:
        CredentialDirectory(tmp_path, {}).require(KEY)
    assert str(tmp_path / KEY) in str(raised.value)
    assert "ANTHROPIC_WEBHOOK_SIGNING_KEY" in str(raised.value)


@pytest.mark.parametrize("kind", ["directory", "bytes"])
def test_an_unreadable_file_is_named_and_its_content_is_not(tmp_path: Path, kind: str) -> None:
    if kind == "directory":
        (tmp_path / KEY).mkdir()
    else:
        (tmp_path / KEY).write_bytes(b"secretvalue\xff\xfe")
    with pytest.raises(CredentialUnreadableError) as raised:
        CredentialDirectory(tmp_path, {}).get(KEY)
    assert str(tmp_path / KEY) in str(raised.value)
    assert "secretvalue" not in str(raised.value)


def test_values_do_not_show_in_representations(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("not-to-be-seen")
    assert "not-to-be-seen" not in repr(CredentialDirectory(tmp_path, {}).get_all(KEY))


def test_every_read_succeeds_while_the_kubelet_changes_the_secret(tmp_path: Path) -> None:
    volume = SecretVolume(tmp_path / "mounted")
    volume.write({KEY: b"value-0\n"})
    stop = threading.Event()

    def change() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            volume.write({KEY: f"value-{number}\n".encode()})

    changing = threading.Thread(target=change)
    changing.start()
    directory, seen = CredentialDirectory(volume.path, {}), set()
    try:
        for _ in range(20_000):
            seen.add(directory.require(KEY).get_secret_value())
    finally:
        stop.set()
        changing.join()
    assert len(seen) > 1
