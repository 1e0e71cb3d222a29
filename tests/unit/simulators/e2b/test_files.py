import io

import httpx
import pytest
from e2b import E2B, FileType
from e2b.exceptions import InvalidArgumentException, NotFoundException, SandboxException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient


async def test_written_file_belongs_to_its_user_and_parents_are_made(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/mnt/session/deep/er/a.json", '{"a": 1}', user="root")
    await sandbox.files.write("relative.txt", b"\x00\xff")
    stated = await sandbox.commands.run("stat -c '%U %a' /mnt/session/deep/er/a.json /home/user/relative.txt")
    assert stated.stdout == "root 644\nuser 644\n"
    host = await control.sandbox(sandbox.sandbox_id)
    assert host.path("/mnt/session/deep/er/a.json").read_text() == '{"a": 1}'
    assert bytes(await sandbox.files.read("relative.txt", format="bytes")) == b"\x00\xff"


async def test_large_streamed_write_and_read(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    content = bytes(range(256)) * 20_000
    await sandbox.files.write("/tmp/large", io.BytesIO(content))
    assert bytes(await sandbox.files.read("/tmp/large", format="bytes")) == content
    await sandbox.files.write("/tmp/packed", content, gzip=True)
    assert bytes(await sandbox.files.read("/tmp/packed", format="bytes")) == content


async def test_file_tree_operations(e2b: E2B) -> None:
    files = (await e2b.AsyncSandbox.create("base")).files
    assert await files.make_dir("/home/user/tree") is True
    assert await files.make_dir("/home/user/tree") is False
    await files.write_files(
        [{"path": "/home/user/tree/one", "data": "1"}, {"path": "/home/user/two", "data": "22"}]
    )
    assert [(entry.name, entry.type) for entry in await files.list("/home/user")] == [
        ("tree", FileType.DIR),
        ("two", FileType.FILE),
    ]
    assert (await files.get_info("/home/user/two")).size == 2
    moved = await files.rename("/home/user/two", "/home/user/tree/three")
    assert moved.path == "/home/user/tree/three"
    assert not await files.exists("/home/user/two")
    await files.remove("/home/user/tree")
    assert not await files.exists("/home/user/tree")


async def test_missing_files_and_directories_have_different_errors(e2b: E2B) -> None:
    files = (await e2b.AsyncSandbox.create("base")).files
    with pytest.raises(NotFoundException):
        await files.read("/tmp/missing")
    with pytest.raises((InvalidArgumentException, SandboxException)):
        await files.read("/tmp")
    assert not await files.exists("/tmp/missing")
    with pytest.raises(NotFoundException):
        await files.rename("/tmp/missing", "/tmp/other")


async def test_links_are_resolved_inside_the_sandbox(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.commands.run(
        "ln -s /etc/passwd /tmp/link; ln -s ../../../../../../../root /tmp/up", user="root"
    )
    assert "user:x:1000" in await sandbox.files.read("/tmp/link")
    await sandbox.files.write("/tmp/up/written", "x", user="root")
    assert (await sandbox.commands.run("cat /root/written", user="root")).stdout == "x"


async def test_overwriting_a_file_gives_it_to_the_requesting_user(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/tmp/mine", "a", user="user")
    await sandbox.files.write("/tmp/mine", "b", user="root")
    assert (await sandbox.commands.run("stat -c %U /tmp/mine")).stdout == "root\n"


async def test_names_in_a_form_stay_encoded_and_a_path_in_the_query_does_not(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    name = 'say "hi" 100%22'
    form = [{"path": f"/tmp/form/{name}", "data": "1"}, {"path": "/tmp/form/other", "data": "2"}]
    await sandbox.files.write_files(form)  # type: ignore[arg-type]
    await sandbox.files.write(f"/tmp/plain/{name}", "1", use_octet_stream=True)
    found = await sandbox.commands.run("ls -1 /tmp/form /tmp/plain")
    assert found.stdout.split("\n")[1] == "other"
    assert "say %22hi%22 100%22" in found.stdout.split("\n")
    assert name in found.stdout.split("\n")


@pytest.mark.parametrize(
    ("wanted", "status", "content", "described"),
    [
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=2-3", 206, b"23", "bytes 2-3/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        (None, 200, b"0123456789", None),
    ],
)
async def test_download_of_a_range_returns_only_that_range(
    e2b: E2B, wanted: str | None, status: int, content: bytes, described: str | None
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/tmp/digits", "0123456789")
    headers = {
        **sandbox.connection_config.sandbox_headers,
        "X-Access-Token": sandbox._envd_access_token or "",
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            sandbox.download_url("/tmp/digits"), headers=headers | ({"Range": wanted} if wanted else {})
        )
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers.get("content-range") == described
