"""Volumes: directories that outlive sandboxes and may be mounted in several at once.

E2B calls them a private beta. The mount of a create, and the calls for volumes: SDK 2.63.0,
`e2b/volume/volume_async.py`. A volume's content is served only where it is mounted.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.host import SandboxProcess
from managed_session_devkit.simulators.e2b.templates import identifier

Mount = dict[str, str]
"""A mount of a create: `name` of the volume, and `path` in the sandbox."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Volume:
    """One volume, and the host's directory with its files."""

    id: str
    name: str
    directory: Path

    def as_json(self) -> dict[str, str]:
        """Return an entry of the list."""
        return {"volumeID": self.id, "name": self.name}

    def with_token(self) -> dict[str, str]:
        """Return the answer of create and get."""
        return {**self.as_json(), "token": f"volume-token-{self.id}"}


class Volumes:
    """All volumes of the team."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._by_id: dict[str, Volume] = {}

    def create(self, name: object) -> Volume:
        """Make an empty volume. Raises ApiError 400, 409."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ApiError(400, "Invalid volume name")
        if any(each.name == name for each in self._by_id.values()):
            raise ApiError(409, f'Volume "{name}" already exists')
        volume_id = identifier()
        volume = Volume(volume_id, name, self._directory / volume_id)
        volume.directory.mkdir()
        self._by_id[volume.id] = volume
        return volume

    def list(self) -> list[Volume]:
        """Return all volumes."""
        return [*self._by_id.values()]

    def get(self, volume_id: str) -> Volume:
        """Return a volume. Raises ApiError 404."""
        if volume_id not in self._by_id:
            raise ApiError(404, f'Volume "{volume_id}" not found')
        return self._by_id[volume_id]

    def named(self, name: str) -> Volume:
        """Return the volume of a create's mount. Raises ApiError 400."""
        for volume in self._by_id.values():
            if volume.name == name:
                return volume
        raise ApiError(400, f'Volume "{name}" not found')

    def check(self, mounts: Sequence[Mount]) -> None:
        """Raise ApiError 400 unless all volumes of a create exist."""
        for each in mounts:
            self.named(each["name"])

    async def mount(self, process: SandboxProcess, mounts: Sequence[Mount]) -> None:
        """Mount volumes in a sandbox. Raises ApiError 400, SandboxHostError."""
        for each in mounts:
            await process.mount_volume(self.named(each["name"]).id, each["path"])

    def delete(self, volume_id: str) -> None:
        """Delete a volume with its files. Raises ApiError 404."""
        volume = self.get(volume_id)
        del self._by_id[volume_id]
        shutil.rmtree(volume.directory, ignore_errors=True)
