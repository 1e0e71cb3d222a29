"""One memory store of the session on the wire, controlled by a test."""

import hashlib
import threading
from typing import Any

STORE = "memstore_1"
MEMORIES = f"/v1/memory_stores/{STORE}/memories"
Answer = tuple[int, dict[str, Any]]


class WireStores:
    """The store, once it is attached. Its memories have their paths as IDs."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.content: dict[str, str] = {}
        self.refuse_reads_with: int | None = None
        self.refuse_writes_with: int | None = None
        self.open = threading.Event()
        """Writes are answered while it is set."""
        self.open.set()

    def attach(self, mount_path: str) -> None:
        """Attach the store to the session."""
        self.resources = [
            {
                "type": "memory_store",
                "memory_store_id": STORE,
                "access": "read_write",
                "mount_path": mount_path,
                "name": "notes",
            }
        ]

    def read(self, path: str) -> Answer:
        """Answer the list of memories, or one of them."""
        if self.refuse_reads_with is not None:
            return _refused(self.refuse_reads_with)
        if path == MEMORIES:
            return 200, {"data": [self._memory(each) for each in sorted(self.content)], "next_page": None}
        return 200, self._memory(path.removeprefix(f"{MEMORIES}/"))

    def write(self, path: str, body: dict[str, Any]) -> Answer:
        """Answer a new memory or a change of one."""
        self.open.wait(60)
        if self.refuse_writes_with is not None:
            return _refused(self.refuse_writes_with)
        name = body["path"].strip("/") if path == MEMORIES else path.removeprefix(f"{MEMORIES}/")
        self.content[name] = body["content"]
        return 200, self._memory(name)

    def _memory(self, name: str) -> dict[str, Any]:
        content = self.content[name]
        return {
            "type": "memory",
            "id": name,
            "memory_store_id": STORE,
            "path": f"/{name}",
            "content": content,
            "content_sha256": hashlib.sha256(content.encode()).hexdigest(),
            "content_size_bytes": len(content),
        }


def _refused(status: int) -> Answer:
    return status, {"type": "error", "error": {"type": "api_error", "message": "not now"}}
