"""Resources of a kind on a real API server: made and changed with kubectl, and refused where they must be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError


@dataclass
class Resources:
    """The resources of one kind in one namespace. `name` is the name of a resource if a call gives none."""

    control_plane: ControlPlane
    namespace: str
    name: str
    kind: str = names.KIND
    plural: str = names.PLURAL

    async def kubectl(self, *args: str, standard_input: str | None = None) -> str:
        return await self.control_plane.kubectl(f"--namespace={self.namespace}", *args, input=standard_input)

    async def create(self, spec: Any, name: str | None = None) -> None:
        """Make a resource with this spec. None: without one."""
        metadata = {"name": name or self.name}
        body = {"apiVersion": names.API_VERSION, "kind": self.kind, "metadata": metadata}
        body |= {} if spec is None else {"spec": spec}
        await self.kubectl("create", "--filename=-", standard_input=json.dumps(body))

    async def patch(self, change: dict[str, Any], *args: str, name: str | None = None) -> None:
        patch = f"--patch={json.dumps(change)}"
        await self.kubectl("patch", self.plural, name or self.name, "--type=merge", patch, *args)

    async def patch_status(self, status: dict[str, Any], name: str | None = None) -> None:
        await self.patch({"status": status}, "--subresource=status", name=name)

    async def read(self, name: str | None = None) -> dict[str, Any]:
        shown = await self.kubectl("get", self.plural, name or self.name, "--output=json")
        found: dict[str, Any] = json.loads(shown)
        return found


def classes_in(control_plane: ControlPlane, namespace: str, name: str) -> Resources:
    """The ManagedSessionClasses of a namespace."""
    return Resources(control_plane, namespace, name, names.CLASS_KIND, names.CLASS_PLURAL)


@dataclass(frozen=True)
class Refused:
    """A spec or a status that the API server has to refuse: at which field, and what it says is allowed."""

    what: str
    path: str
    says: str
    body: Any = field(default_factory=dict)
    before: dict[str, Any] | None = None
    """The spec that this is a change of."""


@contextmanager
def refused(case: Refused) -> Iterator[None]:
    """The refusal names the field, says what is allowed, and gives no value of a variable away."""
    with pytest.raises(KubectlError) as raised:
        yield
    refusal = str(raised.value)
    lines = [line for line in refusal.splitlines() if case.path in line]
    assert lines, refusal
    assert any(case.says in line for line in lines), refusal
    assert "secret-value" not in refusal
