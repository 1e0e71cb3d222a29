"""Volumes, and file systems in user space, in simulated sandboxes."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from e2b import E2B, SandboxException
from e2b.exceptions import VolumeException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient


async def test_volume_is_shared_by_sandboxes_and_outlives_them(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(volumes_enabled=True)
    volume = await e2b.AsyncVolume.create("shared")
    assert [each.name for each in await e2b.AsyncVolume.list()] == ["shared"]
    one = await e2b.AsyncSandbox.create("base", volume_mounts={"/mnt/v": volume})
    other = await e2b.AsyncSandbox.create("base", volume_mounts={"/mnt/deep/w": "shared"})
    await one.commands.run("echo hello > /mnt/v/file", user="root")
    assert (await other.commands.run("cat /mnt/deep/w/file")).stdout == "hello\n"
    assert (await one.get_info()).volume_mounts == [{"name": "shared", "path": "/mnt/v"}]
    await one.pause(mode="filesystem")
    rebooted = await e2b.AsyncSandbox.connect(one.sandbox_id, timeout=60)
    assert (await rebooted.commands.run("cat /mnt/v/file")).stdout == "hello\n"
    await one.kill()
    await other.kill()
    third = await e2b.AsyncSandbox.create("base", volume_mounts={"/mnt/v": "shared"})
    assert (await third.commands.run("cat /mnt/v/file")).stdout == "hello\n"
    assert await e2b.AsyncVolume.destroy(volume.volume_id)


async def test_volumes_are_refused_unless_they_are_enabled(e2b: E2B, control: E2BSimulatorClient) -> None:
    with pytest.raises(VolumeException, match="400"):
        await e2b.AsyncVolume.create("shared")
    with pytest.raises(SandboxException, match="Volume mounts are not enabled"):
        await e2b.AsyncSandbox.create("base", volume_mounts={"/mnt/v": "shared"})
    await control.change_settings(volumes_enabled=True)
    with pytest.raises(SandboxException, match="not found"):
        await e2b.AsyncSandbox.create("base", volume_mounts={"/mnt/v": "missing"})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_of_a_sandbox_with_fuse_may_mount_and_others_may_not(
    start_simulator: Callable[..., Any], sdk_for: Callable[[str], E2B]
) -> None:
    mount = "mount -t tmpfs none /mnt"
    with start_simulator({"fuse": True}) as running:
        sandbox = await sdk_for(running.url).AsyncSandbox.create("base")
        assert (await sandbox.commands.run(f"test -c /dev/fuse && {mount}", user="root")).exit_code == 0
        assert (await sandbox.commands.run(f"{mount} 2>&1 || true")).stdout
