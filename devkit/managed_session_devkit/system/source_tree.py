"""Another version of the project, which the local system can run instead of this one."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from managed_session_cli.errors import TemplateError

from managed_session_devkit.system.environment import base_environment

_PACKAGES = ("api", "cli", "operator", "runtime", "webhook", "worker")


@dataclass(frozen=True)
class SourceTree:
    """The source tree of a version that needs the same libraries as this one.

    Attributes:
        folder: its root, the folder with `operator/` and `deploy/`.
    """

    folder: Path

    @property
    def python_path(self) -> str:
        """The value of PYTHONPATH with which a process runs this version's code."""
        return os.pathsep.join(str(self.folder / package) for package in _PACKAGES)

    @property
    def manifests(self) -> Path:
        """The folder with this version's manifests."""
        return self.folder / "deploy"

    async def build_template(self, name: str | None, variables: Mapping[str, str]) -> None:
        """Build this version's worker template.

        Args:
            name: its NAME:TAG. Default: the one that this version chooses.
            variables: the environment variables of E2B's SDK.

        Raises:
            TemplateError: it was not built.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "managed_session_worker.template", "build"),
            *([f"--name={name}"] if name else []),
            env={**base_environment(os.environ), **variables, "PYTHONPATH": self.python_path},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise TemplateError(
                f"the worker template of {self.folder} was not built: {output.decode()[-1000:]}"
            )
