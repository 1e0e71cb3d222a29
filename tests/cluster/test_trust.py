"""A session behind a company's proxy, with an authority of the company's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.git_server import git_server
from managed_session_devkit.system.local_system import LocalSystem

from ..support.certificates import issue_bare
from ..support.classes import make_class
from ..support.forward_proxy import ForwardProxy
from ..support.sessions import QUICK, begin, paused
from ..support.systems import local_system
from ..support.waiting import eventually

HOST = "code.example.com"
LOGIN = "user:s3cret-of-the-proxy"
ANTHROPIC = "0x7f.1"
"""A name of 127.0.0.1 that is not among those which are always reached directly."""
CURL = f"curl --silent --max-time 20 https://{HOST}/page"
HOOK = f"{CURL}?before-pause"


async def declare(system: LocalSystem, proxy: str, trust: list[dict[str, Any]]) -> None:
    """Make a class of the system's agent, or change its authorities."""
    sandbox = {
        "trust": {"certificateAuthorities": trust},
        "proxy": {
            "httpProxy": proxy,
            "httpsProxy": proxy,
            "credentialSecretRef": {"name": "proxy", "key": "login"},
        },
        "setup": {"repositories": [{"url": f"https://{HOST}/code.git"}]},
        "hooks": {"beforePause": {"command": HOOK}},
    }
    await make_class(
        system, "company", {"selector": {"agentIDs": [system.agent_id]}, "session": {"sandbox": sandbox}}
    )


async def test_worker_commands_git_and_hooks_use_the_proxy_and_the_authority(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    authority = issue_bare(tmp_path / "authority", HOST)
    with git_server(tmp_path / "git", authority.server_context()) as server:
        server.add("code", {"README.md": "cloned"})
        server.files["/page"] = b"served\n"
        ports = {f"{HOST}:443": urlsplit(server.url).port or 0}
        async with (
            ForwardProxy(ports, LOGIN) as proxy,
            local_system(control_plane, operator_settings=QUICK, anthropic_host=ANTHROPIC) as system,
        ):
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "proxy"},
                "stringData": {"login": LOGIN},
            }
            settings = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "company"},
                "data": {"ca.pem": authority.ca.read_text()},
            }
            for each in (secret, settings):
                await system.kubectl("apply", "--filename=-", input=json.dumps(each))
            await declare(system, proxy.url, [{"configMapRef": {"name": "company", "key": "ca.pem"}}])
            async with begin(system) as conversation:
                assert await conversation.say(f"Run: {CURL}; cat code/README.md") == "served\ncloned"
                anthropic = urlsplit(system.clouds.environment["ANTHROPIC_BASE_URL"])
                assert {f"{HOST}:443", f"{ANTHROPIC}:{anthropic.port}"} == set(proxy.asked)

                await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
                paths = [path for path, _ in server.requests]
                assert "/page?before-pause" in paths
                assert await conversation.say(f"Run: {CURL}") == "served"
                assert len([path for path, _ in server.requests if path == "/page"]) == 2

                await declare(system, proxy.url, [])
                await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
                assert await conversation.say(f"Run: {CURL} || echo untrusted") == "untrusted"
            told = [path.read_text() for path in system.logs.values()]
            told.append(await system.kubectl("get", "msess,events,configmaps", "--output=yaml"))
            assert not any(LOGIN.partition(":")[2] in each for each in told)
