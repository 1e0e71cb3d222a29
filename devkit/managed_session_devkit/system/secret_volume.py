"""Lays out and changes a mounted Secret as the kubelet does.

The steps and their order are those of the kubelet's AtomicWriter
(kubernetes/pkg/volume/util/atomic_writer.go): the files of one version of the Secret are in a folder named
after the time, `..data` is a symlink to it that is replaced by a rename, each key is a symlink
`KEY -> ..data/KEY`, and the former folder goes last.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

_DATA = "..data"
_NEW_DATA = "..data_tmp"


class SecretVolume:
    """The folder into which one Secret is mounted.

    Args:
        path: the folder; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, exist_ok=True)

    def read(self) -> dict[str, bytes]:
        """Return the Secret's data as it is mounted now."""
        data = self.path / _DATA
        return {file.name: file.read_bytes() for file in data.iterdir()} if data.exists() else {}

    def write(self, content: Mapping[str, bytes]) -> None:
        """Mount another version of the Secret. Do nothing if the content is the same."""
        before = self.read()
        if before == content and (self.path / _DATA).exists():
            return
        former = (self.path / _DATA).resolve() if (self.path / _DATA).exists() else None
        version = Path(tempfile.mkdtemp(prefix=f"..{datetime.now(UTC):%Y_%m_%d_%H_%M_%S.}", dir=self.path))
        for name, value in content.items():
            descriptor = os.open(version / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(value)
        (self.path / _NEW_DATA).symlink_to(version.name)
        (self.path / _NEW_DATA).rename(self.path / _DATA)
        for name in content:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(Path(_DATA) / name)
        for name in before.keys() - content.keys():
            (self.path / name).unlink(missing_ok=True)
        if former is not None:
            shutil.rmtree(former)
