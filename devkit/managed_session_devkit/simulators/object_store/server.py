"""Runs the S3 server, and changes what it has."""

import json
import subprocess
from types import TracebackType
from typing import Self

import httpx

from managed_session_devkit.simulators.object_store.program import program

CALL_SECONDS = 30


class ObjectStore:
    """An S3 server on a port of the loopback address. Its content is in memory, and survives `down`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        addresses = json.loads(self._process.stdout.readline())
        self.url: str = addresses["url"]
        self._control = httpx.Client(base_url=addresses["control"], timeout=CALL_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.communicate()

    def add_bucket(self, bucket: str) -> None:
        """Make an empty bucket."""
        self._call("PUT", f"/buckets/{bucket}")

    def accept(self, key_id: str, secret: str) -> None:
        """Accept requests that are signed with this key."""
        self._call("PUT", f"/keys/{key_id}", secret)

    def refuse(self, key_id: str) -> None:
        """Refuse requests that are signed with this key."""
        self._call("DELETE", f"/keys/{key_id}")

    def put(self, bucket: str, key: str, content: str) -> None:
        """Write an object."""
        self._call("PUT", f"/objects/{bucket}/{key}", content)

    def get(self, bucket: str, key: str) -> str | None:
        """Return an object's content; None if it does not exist."""
        answer = self._control.get(f"/objects/{bucket}/{key}")
        return answer.text if answer.is_success else None

    def down(self) -> None:
        """Refuse connections, and close those that are open."""
        self._call("POST", "/down")

    def up(self) -> None:
        """Listen again, on the same port."""
        self._call("POST", "/up")

    def _call(self, method: str, path: str, body: str | None = None) -> None:
        self._control.request(method, path, content=body).raise_for_status()
