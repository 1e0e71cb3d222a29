"""The mounts of buckets, with real FUSE in simulated sandboxes and a real S3 server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from e2b import E2B, AsyncSandbox, CommandExitException
from managed_session_devkit.simulators.object_store.server import ObjectStore
from managed_session_operator.clients.e2b.sandbox_preparation import SandboxPreparations
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.preparation import Report

from ...support.object_store import BUCKET, KEY_ID, SECRET, object_store
from ...support.simulator_process import RunningSimulator, simulator_process
from ...support.waiting import eventually
from .examples import key

PATH = "/mnt/data"
AGENT = "agent:x:1000:1000::/home/user:/bin/bash"
"""E2B's usual user, under the name of the agent's."""
SEARCH = """
import glob, os, sys
secret, found = "".join(sys.argv[1:]).encode(), []
places = [each for name in ("cmdline", "environ", "fd/*") for each in glob.glob(f"/proc/[0-9]*/{name}")]
for folder in ("/opt", "/root", "/tmp", "/run", "/var", "/mnt"):
    places += [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
for place in places:
    try:
        if os.path.isfile(place) and secret in open(place, "rb").read(1000000):
            found.append(open(f"/proc/{place.split('/')[2]}/comm").read() if "/proc" in place else place)
    except OSError:
        continue
print(found)
"""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    folder = tmp_path_factory.mktemp("fuse")
    with simulator_process("e2b", folder, f"--state-dir={folder / 'state'}", settings={"fuse": True}) as run:
        yield run


class Machine:
    """A sandbox in which the section runs."""

    def __init__(self, sdk: E2B, sandbox: AsyncSandbox, store: ObjectStore) -> None:
        self._sdk = sdk
        self.sandbox = sandbox
        self.store = store

    def bucket(self, secret: str = SECRET, **more: Any) -> dict[str, Any]:
        keys = {"access-key-id": KEY_ID, "secret-access-key": secret}
        return {
            "type": "S3",
            "bucket": BUCKET,
            "path": PATH,
            "endpoint": self.store.url,
            "credentials": keys,
            **more,
        }

    async def prepare(self, section: str, content: dict[str, Any]) -> Report:
        """Run one section, as the operator does."""
        sandboxes = Sandboxes(key("key"), fence=lambda: None, request_timeout=30, create_timeout=30)
        plan = {"seconds": 100, "sections": [[section, content]]}
        return await SandboxPreparations(sandboxes, patience=120).prepare(self.sandbox, plan)

    async def apply(self, *mounts: dict[str, Any]) -> tuple[str, str, str] | None:
        """Return place, cause and output of a failure, or None."""
        failed = (await self.prepare("mounts", {"mounts": [{"step": "m", **each} for each in mounts]})).failed
        return None if failed is None else (failed.step, failed.why, failed.output)

    async def run(self, command: str, user: str = "user") -> str:
        return (await self.sandbox.commands.run(command, user=user, timeout=60)).stdout

    async def through_a_pause(self) -> None:
        await self.sandbox.pause()
        await self._sdk.AsyncSandbox.connect(self.sandbox.sandbox_id, timeout=60)


@pytest.fixture
async def machine(store: ObjectStore, simulator: RunningSimulator) -> AsyncIterator[Machine]:
    sdk = E2B(api_key="e2b_0123456789", api_url=simulator.url, sandbox_url=simulator.url)
    sandbox = await sdk.AsyncSandbox.create("base")
    await sandbox.commands.run("mkdir -m 700 -p /opt/anthropic-managed-agents/run", user="root")
    await sandbox.commands.run(f"echo {AGENT} >> /etc/passwd", user="root")
    store.up()
    store.accept(KEY_ID, SECRET)
    try:
        yield Machine(sdk, sandbox, store)
    finally:
        store.up()
        await sandbox.kill()


async def test_agent_writes_and_reads_a_bucket(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    await machine.run(f"mkdir {PATH}/folder && echo hello > {PATH}/folder/file")
    assert machine.store.get(BUCKET, "folder/file") == "hello\n"
    machine.store.put(BUCKET, "given", "from outside")
    assert await machine.run(f"cat {PATH}/given") == "from outside"
    options = await machine.run(f"findmnt --noheadings --output OPTIONS {PATH}")
    assert {"nosuid", "nodev"} <= set(options.strip().split(","))


async def test_mount_of_a_prefix_shows_only_that_and_may_be_read_only(machine: Machine) -> None:
    machine.store.put(BUCKET, "part/", "")
    machine.store.put(BUCKET, "part/inside", "seen")
    assert await machine.apply(machine.bucket(prefix="part/", readOnly=True)) is None
    assert await machine.run(f"ls {PATH}") == "inside\n"
    with pytest.raises(CommandExitException, match="Read-only"):
        await machine.run(f"echo no > {PATH}/inside")


async def test_agent_cannot_read_the_credential(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    await machine.sandbox.files.write("/tmp/search.py", SEARCH)
    command = f"python3 /tmp/search.py {SECRET[:20]} {SECRET[20:]}"
    assert await machine.run(command) == "[]\n"
    # The same search finds it where only root may look.
    assert "s3fs" in await machine.run(command, user="root")


async def test_mount_answers_after_a_pause_that_cuts_connections_silently(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    before = await machine.run("pgrep s3fs")
    await machine.run(f"exec 3> {PATH}/open; echo before >&3; nohup sleep 1000 > /dev/null 2>&1 &")
    await machine.through_a_pause()
    assert await machine.apply(machine.bucket()) is None
    await machine.run(f"echo after > {PATH}/after")
    assert machine.store.get(BUCKET, "after") == "after\n"
    assert await machine.run("pgrep s3fs") == before, "the program was started anew"


@pytest.mark.parametrize("death", ["pkill -KILL s3fs", "pkill -STOP s3fs", f"umount -l {PATH}"])
async def test_mount_whose_program_is_gone_or_silent_is_mounted_again(machine: Machine, death: str) -> None:
    assert await machine.apply(machine.bucket()) is None
    await machine.run(death, user="root")
    assert await machine.apply(machine.bucket()) is None
    await machine.run(f"echo again > {PATH}/again")
    assert machine.store.get(BUCKET, "again") == "again\n"
    assert len((await machine.run("pgrep s3fs")).split()) == 1


async def test_wrong_key_is_reported_without_the_key_and_the_right_one_works(machine: Machine) -> None:
    failure = await machine.apply(machine.bucket(secret="wrong-" + SECRET))
    assert failure is not None
    path, why, output = failure
    assert (path, why) == (f"m ({PATH})", "s3fs ended")
    assert "result of checking service" in output
    assert SECRET not in output
    assert await machine.run("pgrep s3fs; true") == ""
    assert await machine.apply(machine.bucket()) is None
    assert await machine.run(f"ls {PATH}") is not None


async def test_rotated_key_is_taken_into_use(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    machine.store.accept("NEWKEY", "new-secret-access-key-of-some-length")
    machine.store.refuse(KEY_ID)
    new = {"access-key-id": "NEWKEY", "secret-access-key": "new-secret-access-key-of-some-length"}
    assert await machine.apply(machine.bucket(credentials=new)) is None
    await machine.run(f"echo rotated > {PATH}/rotated")
    assert machine.store.get(BUCKET, "rotated") == "rotated\n"


async def test_mount_that_is_no_longer_wanted_is_unmounted(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    assert await machine.apply(machine.bucket(path="/mnt/other")) is None
    assert await machine.run("findmnt --noheadings --output TARGET --types fuse.s3fs") == "/mnt/other\n"
    assert await machine.run("ls /mnt") == "other\n"


async def test_server_that_is_gone_is_reported_and_its_return_is_enough(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    machine.store.down()
    failure = await machine.apply(machine.bucket())
    assert failure is not None
    assert failure[0] == f"m ({PATH})"
    assert "unable to connect" in failure[2]
    machine.store.up()
    assert await machine.apply(machine.bucket()) is None
    await machine.run(f"echo back > {PATH}/back")
    assert machine.store.get(BUCKET, "back") == "back\n"


async def test_release_stores_files_that_are_still_open(machine: Machine) -> None:
    assert await machine.apply(machine.bucket()) is None
    writer = await machine.sandbox.commands.run(
        f"python3 -c \"import time; f = open('{PATH}/unfinished', 'w'); f.write('written'); f.flush();"
        " open('/tmp/open', 'w'); time.sleep(1000)\"",
        background=True,
        timeout=0,
    )
    await eventually("the file is open", lambda: machine.sandbox.files.exists("/tmp/open"))
    assert machine.store.get(BUCKET, "unfinished") != "written"
    assert await machine.prepare("release", {"paths": [PATH], "seconds": 20}) == Report()
    assert machine.store.get(BUCKET, "unfinished") == "written"
    with pytest.raises(CommandExitException):
        await writer.wait()


async def test_new_and_changed_outputs_are_copied_and_links_are_not_followed(machine: Machine) -> None:
    content = {"mount": PATH, "folder": "runs/sesn_1", "seconds": 60}
    failed = (await machine.prepare("outputs", content)).failed
    assert failed is not None
    assert "is not mounted" in failed.why
    assert await machine.apply(machine.bucket()) is None
    outputs, kept = "/mnt/session/outputs", f"{PATH}/runs/sesn_1"
    await machine.run(f"mkdir -p {outputs} && chown -R agent /mnt/session", user="root")
    assert await machine.prepare("outputs", content) == Report()
    await machine.run(
        f"mkdir {outputs}/deep && cd {outputs} && echo one > report && echo two > deep/data && mkfifo pipe"
        # The bucket's times have no fractions: a copy made within the same second looks older.
        " && touch -d '1 hour ago' report deep/data && ln -s /etc/passwd link && ln -s /etc folder"
    )
    assert await machine.prepare("outputs", content) == Report()
    assert await machine.run(f"cd {kept} && find . -type f | sort") == "./deep/data\n./report\n"
    assert machine.store.get(BUCKET, "runs/sesn_1/deep/data") == "two\n"
    machine.store.put(BUCKET, "runs/sesn_1/deep/data", "new\n")
    await machine.run(f"echo changed > {outputs}/report")
    assert await machine.prepare("outputs", content) == Report()
    assert machine.store.get(BUCKET, "runs/sesn_1/report") == "changed\n"
    assert machine.store.get(BUCKET, "runs/sesn_1/deep/data") == "new\n", "unchanged files are not sent again"
    assert await machine.apply(machine.bucket(readOnly=True)) is None
    await machine.run(f"touch -d '1 hour ago' {outputs}/report && echo more > {outputs}/more")
    failed = (await machine.prepare("outputs", content)).failed
    assert failed is not None
    assert (failed.step, failed.why) == ("sandbox.outputs", "1 file could not be copied")
    assert failed.output == "more: Read-only file system"


async def test_place_that_the_agent_could_replace_is_refused(machine: Machine) -> None:
    await machine.run("mkdir -p /mnt/open && chmod 777 /mnt/open", user="root")
    failure = await machine.apply(machine.bucket(path="/mnt/open/data"))
    assert failure is not None
    assert failure[1] == "/mnt/open can be changed by others than root"
    await machine.run("ln -s /etc /mnt/link", user="root")
    failure = await machine.apply(machine.bucket(path="/mnt/link"))
    assert failure is not None
    assert failure[1] == "/mnt/link is not a directory"


async def test_missing_program_is_named(machine: Machine) -> None:
    disk = {"type": "Archil", "disk": "org/disk", "region": "aws-us-east-1", "path": PATH}
    failure = await machine.apply({**disk, "credentials": {"mount-token": "token"}})
    assert failure is not None
    assert "the template has no program archil" in failure[1]
