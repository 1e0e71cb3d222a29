"""The cache of skills' archives: one download for all, bounded, and never worse than no cache."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.clients.skill_cache.archives import CachedSkillArchives, cached
from managed_session_operator.clients.skill_cache.folder import SkillFolder
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.session import SkillReference, SkillVersion
from managed_session_operator.metrics import Metrics

from ...support.waiting import eventually

KIB = 1024


class Anthropic:
    """Skills in memory. A download waits for `go` before its second chunk, and fails there if told to."""

    def __init__(self) -> None:
        self.content: dict[str, list[bytes]] = {}
        self.downloads: list[str] = []
        self.left: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False

    def add(self, name: str, size: int = 64 * KIB) -> SkillVersion:
        """Add a version with two chunks of random bytes."""
        self.content[name] = [os.urandom(size // 2), os.urandom(size - size // 2)]
        return SkillVersion("skill_a", name, "a")

    async def resolve(self, reference: SkillReference) -> SkillVersion:
        return SkillVersion(reference.skill_id, reference.version, "a")

    def forget(self, version: SkillVersion) -> None:
        """Keep nothing anyway."""
        del version

    @asynccontextmanager
    async def open(self, version: SkillVersion, *, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        self.downloads.append(version.version_id)
        try:
            async with asyncio.timeout(seconds):
                yield self._chunks(version.version_id)
        except OperationError:
            raise
        except Exception as error:  # noqa: BLE001 - so does the real one
            # As the client of Anthropic does with whatever fails during its call.
            raise OperationError(ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE, str(error)) from None
        finally:
            self.left.append(version.version_id)

    async def _chunks(self, name: str) -> AsyncIterator[bytes]:
        first, *others = self.content[name]
        yield first
        await self.go.wait()
        if self.fails:
            raise OperationError(ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE, "cut")
        for chunk in others:
            yield chunk


class Installation:
    """An operator's cache, which a restart replaces while the folder stays."""

    def __init__(self, folder: Path, most: int = 1 << 20, deliveries: int = 4) -> None:
        self.anthropic = Anthropic()
        self.folder, self._most, self._deliveries = folder, most, deliveries
        self.restart()

    def restart(self) -> None:
        self.metrics = Metrics()
        self.cache = CachedSkillArchives(
            self.anthropic,
            SkillFolder(self.folder, self._most),
            deliveries=self._deliveries,
            metrics=self.metrics.skill_cache,
        )

    async def deliver(self, version: SkillVersion, seconds: float = 60) -> bytes:
        async with self.cache.open(version, seconds=seconds) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def right(self, version: SkillVersion) -> bool:
        return await self.deliver(version) == b"".join(self.anthropic.content[version.version_id])

    async def shared(self, count: int) -> None:
        """Wait until so many deliveries share the download of another one."""

        async def are_shared() -> bool:
            return self.count("shared") >= count

        await eventually(f"{count} deliveries share a download", are_shared)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def count(self, outcome: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "managed_sessions_skill_cache_total", {"outcome": outcome}
        )
        return value or 0.0

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"managed_sessions_{name}")


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "skills")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse to make any file of this process longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_second_delivery_of_a_version_needs_no_download(here: Installation) -> None:
    one, two = here.anthropic.add("one"), here.anthropic.add("two")
    assert await here.right(one)
    assert await here.right(one)
    assert await here.right(two)
    assert here.anthropic.downloads == ["one", "two"]
    assert (here.count("hit"), here.count("miss")) == (1, 2)
    assert here.value("skill_cache_bytes") == 128 * KIB
    assert here.value("skill_download_bytes_total") == 128 * KIB


async def test_deliveries_at_the_same_time_share_a_download(tmp_path: Path) -> None:
    here = Installation(tmp_path, deliveries=10)
    version = here.anthropic.add("one")
    here.anthropic.go.clear()
    deliveries = [asyncio.create_task(here.right(version)) for _ in range(10)]
    await here.shared(9)
    here.anthropic.go.set()
    assert all(await asyncio.gather(*deliveries))
    assert here.anthropic.downloads == ["one"]


async def test_shared_download_goes_on_when_the_first_delivery_is_cut(here: Installation) -> None:
    version = here.anthropic.add("one")
    here.anthropic.go.clear()
    first = asyncio.create_task(here.right(version))
    second = asyncio.create_task(here.right(version))
    await here.shared(1)
    first.cancel()
    await asyncio.wait([first])
    here.anthropic.go.set()
    assert await second
    assert here.anthropic.downloads == ["one"]


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_delivery_cut_at_any_point_leaves_nothing(here: Installation, turns: int) -> None:
    version = here.anthropic.add("one")
    here.anthropic.go.clear()
    delivery = asyncio.create_task(here.right(version))
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    delivery.cancel()
    await asyncio.wait([delivery])
    assert here.files() == []
    assert here.anthropic.left == here.anthropic.downloads
    assert here.value("skill_cache_bytes") == 0
    here.anthropic.go.set()
    assert await here.right(version)


async def test_failed_download_fails_all_who_wait_for_it_and_leaves_nothing(here: Installation) -> None:
    version = here.anthropic.add("one")
    here.anthropic.fails = True
    here.anthropic.go.clear()
    deliveries = [asyncio.create_task(here.deliver(version)) for _ in range(3)]
    await here.shared(2)
    here.anthropic.go.set()
    for result in await asyncio.gather(*deliveries, return_exceptions=True):
        assert isinstance(result, OperationError)
        assert result.message == "cut"
    assert here.files() == []
    here.anthropic.fails = False
    assert await here.right(version)


async def test_delivery_that_takes_too_long_says_so(here: Installation) -> None:
    version = here.anthropic.add("one")
    here.anthropic.go.clear()
    with pytest.raises(OperationError, match="could not be reached"):
        await here.deliver(version, seconds=0.05)
    assert here.files() == []


async def test_least_recently_used_archives_make_room(tmp_path: Path) -> None:
    here = Installation(tmp_path, most=3 * 64 * KIB)
    old, used, newer, newest = (here.anthropic.add(name) for name in ("old", "used", "newer", "newest"))
    for version in (used, old, newer, used, newest):
        assert await here.right(version)
        assert sum(path.stat().st_size for path in here.files()) <= 3 * 64 * KIB
    here.anthropic.downloads.clear()
    assert await here.right(used)
    assert here.anthropic.downloads == []
    assert await here.right(old)
    assert here.anthropic.downloads == ["old"]


async def test_archive_that_is_removed_while_it_is_delivered_comes_whole(tmp_path: Path) -> None:
    here = Installation(tmp_path, most=5 << 20)
    large, other = here.anthropic.add("large", 5 << 20), here.anthropic.add("other", 5 << 20)
    assert await here.right(large)
    async with here.cache.open(large, seconds=60) as chunks:
        content = await anext(chunks)
        assert await here.right(other)
        content += b"".join([chunk async for chunk in chunks])
    assert content == b"".join(here.anthropic.content["large"])


async def test_archive_larger_than_the_cache_is_delivered_without_it(tmp_path: Path) -> None:
    here = Installation(tmp_path, most=100 * KIB)
    small, large = here.anthropic.add("small", 30 * KIB), here.anthropic.add("large", 200 * KIB)
    assert await here.right(large)
    assert await here.right(small)
    assert await here.right(large)
    assert here.count("uncached") == 2
    here.anthropic.downloads.clear()
    assert await here.right(small)  # the large one has not removed it
    assert here.anthropic.downloads == []


async def test_full_disk_stops_no_delivery(here: Installation) -> None:
    kept, version = here.anthropic.add("kept", 10 * KIB), here.anthropic.add("one")
    assert await here.right(kept)
    with files_of_at_most(40 * KIB):
        assert await here.right(version)
        assert await here.right(kept)
    assert len(here.files()) == 1
    assert here.count("uncached") == 1
    assert await here.right(version)
    assert len(here.files()) == 2


async def test_removed_folder_stops_no_delivery(here: Installation) -> None:
    version = here.anthropic.add("one")
    here.folder.rmdir()
    assert await here.right(version)
    assert here.count("uncached") == 1


@pytest.mark.parametrize("damage", ["changed", "shorter", "longer", "removed"])
async def test_damaged_archive_is_noticed_and_downloaded_anew(here: Installation, damage: str) -> None:
    version = here.anthropic.add("one")
    assert await here.right(version)
    [path] = here.files()
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(
            {"changed": b"x" * len(content), "shorter": content[:-1], "longer": content + b"x"}[damage]
        )
    assert await here.right(version)
    assert here.count("damaged") == 1
    assert len(here.anthropic.downloads) == 2
    assert await here.right(version)
    assert len(here.anthropic.downloads) == 2


async def test_archive_that_could_not_be_unpacked_is_downloaded_anew(here: Installation) -> None:
    version = here.anthropic.add("one")
    here.anthropic.content["one"] = [b"<html>a proxy's page</html>"]
    assert await here.right(version)
    here.cache.forget(version)
    here.anthropic.add("one")
    assert await here.right(version)


async def test_restarted_operator_adopts_the_folder(tmp_path: Path) -> None:
    here = Installation(tmp_path, most=3 * 64 * KIB)
    versions = [here.anthropic.add(str(number)) for number in range(3)]
    for version in versions:
        assert await here.right(version)
    for age, path in enumerate(sorted(here.files(), key=lambda each: each.stat().st_mtime_ns)):
        os.utime(path, (1000 + age, 1000 + age))
    assert await here.right(versions[0])
    (tmp_path / f"{'0' * 32}.part").write_bytes(b"half")
    (tmp_path / "someone's").write_bytes(b"other file")
    here.anthropic.downloads.clear()
    here.restart()
    assert len(here.files()) == 4
    assert here.value("skill_cache_bytes") == 3 * 64 * KIB
    assert await here.right(here.anthropic.add("new"))  # removes the second, which was used first
    here.anthropic.downloads.clear()
    for version in (versions[0], versions[2]):
        assert await here.right(version)
    assert here.anthropic.downloads == []
    assert await here.right(versions[1])
    assert here.anthropic.downloads == ["1"]


async def test_another_content_after_a_break_is_refused(here: Installation) -> None:
    """A delivery that began from the disk may go on with a download only if both agree."""
    version = here.anthropic.add("one")
    here.anthropic.go.clear()
    with files_of_at_most(40 * KIB):
        delivery = asyncio.create_task(here.deliver(version))

        async def half_is_there() -> bool:
            return sum(path.stat().st_size for path in here.files()) >= 32 * KIB

        await eventually("half of it has come", half_is_there)
        here.anthropic.go.set()
        await asyncio.sleep(0)
        here.anthropic.content["one"] = [os.urandom(32 * KIB), os.urandom(32 * KIB)]
        with pytest.raises(OperationError, match="other content"):
            await delivery


@pytest.mark.parametrize(("folder", "mebibytes"), [(None, 1), ("skills", 0), ("file", 1)])
async def test_cache_can_be_off(tmp_path: Path, folder: str | None, mebibytes: int) -> None:
    (tmp_path / "file").touch()
    anthropic = Anthropic()
    path = tmp_path / folder if folder is not None else None
    archives = cached(anthropic, path, mebibytes=mebibytes, deliveries=1, metrics=Metrics().skill_cache)
    assert archives is anthropic
