"""The command lines that mount buckets and disks, for storage that no test here can reach."""

from __future__ import annotations

import json
from typing import Any

from managed_session_worker.preparation.mount_programs import CREDENTIAL, command_for

SECRET = "s3cret-" * 8


def options(argv: list[str]) -> set[str]:
    """The options after each `-o`."""
    return {argv[number + 1] for number, word in enumerate(argv) if word == "-o"}


def test_r2_uses_its_endpoint_and_parts_of_one_size() -> None:
    endpoint = "https://account.r2.cloudflarestorage.com"
    keys = {"access-key-id": "ID", "secret-access-key": f"{SECRET}\n"}
    mount = {"type": "R2", "bucket": "b", "path": "/mnt/b", "endpoint": endpoint, "credentials": keys}
    command = command_for(mount, 1001, 1002)
    assert command.argv[:4] == ["s3fs", "b", "/mnt/b", "-f"]
    assert {f"url={endpoint}", "endpoint=auto", "nomixupload", "uid=1001", "gid=1002"} <= options(
        command.argv
    )
    assert f"passwd_file={CREDENTIAL}" in options(command.argv)
    assert (command.credential, command.env) == (f"ID:{SECRET}\n", {})


def test_amazons_address_comes_from_the_region_and_a_public_bucket_needs_no_key() -> None:
    mount = {"type": "S3", "bucket": "b", "prefix": "a/b/", "path": "/mnt/b", "region": "eu-central-1"}
    command = command_for({**mount, "uid": 5, "gid": 6, "readOnly": True}, 1001, 1002)
    assert command.argv[1] == "b:/a/b"
    wanted = {"url=https://s3.eu-central-1.amazonaws.com", "public_bucket=1", "ro", "uid=5", "gid=6"}
    assert wanted <= options(command.argv)
    assert "use_path_request_style" not in options(command.argv)
    assert command.credential is None


def test_gcsfuse_gets_its_key_by_a_path_and_no_line_of_it_is_reported() -> None:
    key = json.dumps({"type": "service_account", "private_key": f"-----BEGIN\n{SECRET}\n-----END"})
    mount = {"type": "GCS", "bucket": "b", "path": "/mnt/b", "prefix": "a", "readOnly": True}
    command = command_for({**mount, "credentials": {"service-account-key": key}}, 1001, 1002)
    assert command.argv[:2] == ["gcsfuse", "--foreground"]
    assert command.argv[-2:] == ["b", "/mnt/b"]
    assert {"--uid=1001", "--gid=1002", "--only-dir=a", f"--key-file={CREDENTIAL}"} <= set(command.argv)
    assert {"allow_other", "nosuid", "nodev", "ro"} <= options(command.argv)
    assert command.credential == key
    assert SECRET in command.secrets
    assert "--anonymous-access" in command_for(mount, 1001, 1002).argv


def test_archil_gets_its_token_by_the_only_way_it_has_beside_the_command_line() -> None:
    mount: dict[str, Any] = {
        "type": "Archil",
        "disk": "org/disk",
        "region": "aws-us-east-1",
        "path": "/mnt/disk",
        "shared": True,
        "credentials": {"mount-token": f"{SECRET}\n"},
    }
    command = command_for(mount, 1001, 1002)
    wanted = ["archil", "mount", "org/disk", "/mnt/disk", "--region", "aws-us-east-1", "--shared"]
    assert command.argv == wanted
    assert (command.env, command.stays) == ({"ARCHIL_MOUNT_TOKEN": SECRET}, False)
    assert command.secrets == (SECRET,)
