"""Builds the command lines of the programs that mount buckets and disks.

s3fs(1); gcsfuse: `gcsfuse --help` of version 2; archil: the reference of its command line and E2B's page
"Archil". Values have no commas: the resource's definition allows none.
"""

import re
from dataclasses import dataclass, field
from typing import Any

CREDENTIAL = "{credential}"
"""Stands in a command line for the path of the credential."""
CONNECT_SECONDS = 10
SILENCE_SECONDS = 60
"""How long s3fs waits for a server that says nothing, before it tries again."""
RETRIES = 3
KEY_LINE = 40
"""A line of a service account's key that has at least as many characters is secret."""
DIRECTORY_MODE = "755"
FILE_MODE = "644"


@dataclass(frozen=True)
class Command:
    """How to mount something.

    Attributes:
        argv: the program and its arguments. CREDENTIAL in them is replaced by a path.
        credential: content of the file that CREDENTIAL stands for; None if there is none.
        env: variables with a credential, for programs that take it in no other way.
        stays: whether the program itself serves the mount; otherwise it starts one that does.
        secrets: what must not appear in a report of the program's output.
    """

    argv: list[str]
    credential: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    stays: bool = True
    secrets: tuple[str, ...] = ()


def command_for(mount: dict[str, Any], uid: int, gid: int) -> Command:
    """Return the command that mounts the bucket or disk for the user that the agent runs as."""
    builders = {"S3": _s3fs, "R2": _s3fs, "GCS": _gcsfuse, "Archil": _archil}
    return builders[mount["type"]](mount, int(mount.get("uid", uid)), int(mount.get("gid", gid)))


def _s3fs(mount: dict[str, Any], uid: int, gid: int) -> Command:
    region = mount.get("region") or ("auto" if mount["type"] == "R2" else "us-east-1")
    options = [
        f"url={mount.get('endpoint') or f'https://s3.{region}.amazonaws.com'}",
        f"endpoint={region}",
        f"uid={uid}",
        f"gid={gid}",
        "umask=0022",
        "mp_umask=0022",
        "allow_other",
        "nosuid",
        "nodev",
        f"connect_timeout={CONNECT_SECONDS}",
        f"readwrite_timeout={SILENCE_SECONDS}",
        f"retries={RETRIES}",
    ]
    if mount.get("endpoint"):
        options.append("use_path_request_style")
    if mount["type"] == "R2":
        # R2 wants parts of equal size.
        options.append("nomixupload")
    if mount.get("readOnly"):
        options.append("ro")
    keys = mount.get("credentials")
    options.append(f"passwd_file={CREDENTIAL}" if keys else "public_bucket=1")
    source = mount["bucket"] + (f":/{mount['prefix'].strip('/')}" if mount.get("prefix") else "")
    words = [word for option in options for word in ("-o", option)]
    content = f"{keys['access-key-id'].strip()}:{keys['secret-access-key'].strip()}\n" if keys else None
    secrets = (keys["secret-access-key"].strip(),) if keys else ()
    return Command(["s3fs", source, mount["path"], "-f", *words], content, secrets=secrets)


def _gcsfuse(mount: dict[str, Any], uid: int, gid: int) -> Command:
    options = ["allow_other", "nosuid", "nodev"] + (["ro"] if mount.get("readOnly") else [])
    argv = [
        "gcsfuse",
        "--foreground",
        "--implicit-dirs",
        f"--uid={uid}",
        f"--gid={gid}",
        f"--dir-mode={DIRECTORY_MODE}",
        f"--file-mode={FILE_MODE}",
        *(word for option in options for word in ("-o", option)),
    ]
    if mount.get("prefix"):
        argv.append(f"--only-dir={mount['prefix'].strip('/')}")
    if mount.get("endpoint"):
        argv.append(f"--custom-endpoint={mount['endpoint']}")
    keys = mount.get("credentials")
    argv.append(f"--key-file={CREDENTIAL}" if keys else "--anonymous-access")
    content = keys["service-account-key"] if keys else None
    secrets = tuple(line for line in re.split(r"\\n|\n", content or "") if len(line) >= KEY_LINE)
    return Command([*argv, mount["bucket"], mount["path"]], content, secrets=secrets)


def _archil(mount: dict[str, Any], _uid: int, _gid: int) -> Command:
    shared = ["--shared"] if mount.get("shared") else []
    argv = ["archil", "mount", mount["disk"], mount["path"], "--region", mount["region"], *shared]
    token = mount["credentials"]["mount-token"].strip()
    return Command(argv, env={"ARCHIL_MOUNT_TOKEN": token}, stays=False, secrets=(token,))
