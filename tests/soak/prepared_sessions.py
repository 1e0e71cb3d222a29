"""The class of half of the soak's sessions: a setup, a secret by egress and one as a variable."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field

from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import make_class
from ..support.echo_server import EchoServer

METADATA = {"soak": "prepared"}
"""Metadata of the sessions that the class selects."""
SECRET = "soak-secrets"
SETTINGS = "settings-of-the-map"
HOST = "api.example.com"


@dataclass(frozen=True)
class PreparedSessions:
    """What they use.

    Attributes:
        api: the server that E2B sends the token to.
        token: what E2B adds to requests. No sandbox may hold it.
        variable: value of a variable of the agent's commands.
    """

    api: EchoServer
    token: str = field(default_factory=lambda: f"token-{os.urandom(12).hex()}", repr=False)
    variable: str = field(default_factory=lambda: f"variable-{os.urandom(12).hex()}", repr=False)

    @property
    def shown(self) -> str:
        """The line of an answer that shows the setup and the variable."""
        return f"prepared: {SETTINGS} made {hashlib.sha256(self.variable.encode()).hexdigest()[:16]}"

    @property
    def unauthorized(self) -> int:
        """Number of requests that came without the token."""
        return sum(
            request.headers.get("authorization") != [f"Bearer {self.token}"] for request in self.api.requests
        )

    async def declare(self, system: LocalSystem) -> None:
        """Make the Secret, the ConfigMap and the class."""
        await system.e2b_admin.change_settings(egress_hosts={f"{HOST}:80": self.api.address})
        for kind, name, data in (
            ("Secret", SECRET, {"stringData": {"token": self.token, "variable": self.variable}}),
            ("ConfigMap", "soak-settings", {"data": {"settings.txt": SETTINGS}}),
        ):
            body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **data}
            await system.kubectl("apply", "--filename=-", input=json.dumps(body))
        file = {"path": "settings.txt", "configMap": {"name": "soak-settings", "key": "settings.txt"}}
        header = {
            "host": HOST,
            "header": "Authorization",
            "prefix": "Bearer ",
            "secretRef": {"name": SECRET, "key": "token"},
        }
        sandbox = {
            "setup": {"files": [file], "script": "echo made > made"},
            "secrets": [header],
            "envFrom": [{"name": "SOAK_VARIABLE", "secretRef": {"name": SECRET, "key": "variable"}}],
        }
        spec = {
            "selector": {"sessionMetadata": {"matchLabels": METADATA}},
            "session": {"sandbox": sandbox},
        }
        await make_class(system, "soak", spec)
