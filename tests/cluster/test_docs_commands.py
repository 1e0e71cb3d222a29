"""The commands of the documentation, run as they stand there on fresh control planes.

Each way through the pages begins with docs/install.md on an empty API server and ends with docs/uninstall.md.
The blocks run in order, in one terminal, in a copy of the checkout. What a cluster does beside the API server
is played (`stand_in.py`), and simulators stand for the two clouds. A block that cannot be run here has a
comment with the reason before it; one that has neither fails a test.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from anthropic import AsyncAnthropic
from managed_session_api.names import PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE
from managed_session_cli.conversation import Conversation
from managed_session_cli.proxies import proxy_bypass
from managed_session_devkit.control_plane import ControlPlane, resolve_binaries
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_devkit.system.clouds import SIMULATED_E2B_KEY, simulated_clouds
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.simulator_process import SimulatorProcess

from ..rights import expect_refusals
from ..support.docs_commands import PAGES, ROOT, Block, bash_blocks, blocks
from ..support.waiting import eventually
from .stand_in import ClusterStandIn

NEXT_E2B_KEY = SIMULATED_E2B_KEY.replace("51", "52")
IMAGE = "registry.example.com/team/managed-sessions:0.1.0"
SECONDS = 300.0
WAYS: dict[str, list[str]] = {
    "cli": [
        "install.md", "credentials.md", "resource.md", "classes.md", "templates.md", "operate.md",
        "costs.md", "traces.md", "audit.md", "troubleshooting.md", "alerts.md", "exposing.md", "upgrade.md",
        "uninstall.md",
    ],
    "kubectl": ["install.md", "uninstall.md"],
    "hand": ["uninstall.md"],
}  # fmt: skip
"""Which pages each way runs, in this order; `hand` goes on where `kubectl` has installed."""

PLACEHOLDER = re.compile(r'^( *export (\w+)=)"?[\w-]*\.\.\."?$', re.MULTILINE)


class Reader:
    """Somebody who pastes the blocks of the pages into one terminal.

    Args:
        folder: a copy of the checkout.
        environment: of the terminal.
        values: for each variable that the pages set to `…...`, what this reader has.
    """

    def __init__(self, folder: Path, environment: dict[str, str], values: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._values = values
        self._state = folder.with_name("terminal")
        self._state.write_text("")
        self.names: dict[str, str] = {}
        """What stands for a word like NAME in a block."""
        self.printed = ""

    async def paste(self, block: Block) -> None:
        """Run a block; it has to end without an error of any of its commands."""
        text = PLACEHOLDER.sub(lambda found: found[1] + shlex.quote(self._values[found[2]]), block.text)
        for word, meaning in self.names.items():
            text = re.sub(rf"\b{word}\b", meaning, text)
        began = time.monotonic()
        script = self._folder.with_name("block.sh")
        script.write_text(
            f"source {self._state}\nset -euo pipefail\n{text}\nset +eu\nexport -p >{self._state}\n"
        )
        process = await asyncio.create_subprocess_exec(
            "bash", str(script), cwd=self._folder, env=self._environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(b"y\n" * 10), SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.printed = output.decode(errors="replace")
        print(f"--- {block}, {time.monotonic() - began:.1f} s", block.text, self.printed, sep="\n")
        assert process.returncode == 0, f"{block} ended with {process.returncode}: {self.printed[-2000:]}"

    async def read(self, page: str, way: str) -> None:
        """Paste every block of a page that belongs to this way and can run here."""
        for block in bash_blocks(page):
            if block.skipped is None and block.only in (None, way):
                await self.paste(block)


class Scene:
    """An empty cluster, the two clouds, and a reader with accounts.

    Attributes:
        control_plane: the API server.
        stand_in: what plays the rest of the cluster.
        reader: who reads the pages.
        e2b: the simulator of E2B.
        user: a client with the user's API key.
        settings: of Anthropic's simulator.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        stand_in: ClusterStandIn,
        reader: Reader,
        e2b: E2BSimulatorClient,
        user: AsyncAnthropic,
        settings: AnthropicSettings,
    ) -> None:
        self.control_plane = control_plane
        self.stand_in = stand_in
        self.reader = reader
        self.e2b = e2b
        self.user = user
        self.settings = settings

    async def session_idle(self) -> str:
        """Wait until there is a session at rest that has had a turn; the name of its resource."""

        async def look() -> str | None:
            found = await self.control_plane.kubectl(
                "get", PLURAL, f"--namespace={RESOURCE_NAMESPACE}", "--output=json"
            )
            return next(
                (
                    str(each["metadata"]["name"])
                    for each in json.loads(found)["items"]
                    if each.get("status", {}).get("phase") == "Idle" and each["status"].get("turns")
                ),
                None,
            )

        return await eventually("a session that is idle after a turn", look)

    async def answers(self) -> str:
        """What a new session answers to `Run: echo still-there`."""
        async with Conversation.begin(
            self.user, agent_id=self.settings.agent_id, environment_id=self.settings.environment_id
        ) as conversation:
            return await conversation.say("Run: echo still-there")

    async def uninstall(self, page: str, way: str) -> None:
        """Read the page, after which nothing is left."""
        # Rights go before the processes that have them.
        with expect_refusals(RESOURCE_NAMESPACE), expect_refusals(SYSTEM_NAMESPACE):
            await self.reader.read(page, way)
        await self.nothing_is_left()

    async def nothing_is_left(self) -> None:
        """Fail if anything of the installation is still there, in the cluster or in E2B."""
        for kind in ("namespaces", "customresourcedefinitions", "clusterroles", "clusterrolebindings",
                     "validatingadmissionpolicies", "validatingadmissionpolicybindings"):  # fmt: skip
            names = await self.control_plane.kubectl("get", kind, "--output=name")
            assert [name for name in names.split() if re.search("managed-?session", name)] == []
        assert [each.id for each in await self.e2b.sandboxes() if each.state != "killed"] == []


@asynccontextmanager
async def empty_cluster(folder: Path) -> AsyncIterator[Scene]:
    """A fresh control plane, simulators, and a copy of the checkout; nothing is installed."""
    checkout = folder / "checkout"
    for part in ("deploy", "crds"):
        shutil.copytree(ROOT / part, checkout / part)
    (checkout / ".venv").symlink_to(sys.prefix)
    logs = folder / "logs"
    logs.mkdir()
    settings = AnthropicSettings()
    bypass = proxy_bypass(os.environ)
    anthropic = SimulatorProcess(
        "anthropic", logs, settings.model_dump(mode="json"), base_environment(os.environ)
    )
    keys = {"api_keys": [SIMULATED_E2B_KEY, NEXT_E2B_KEY]}
    e2b = SimulatorProcess("e2b", logs, keys, base_environment(os.environ), f"--state-dir={logs}")
    async with AsyncExitStack() as stack:
        for simulator in (anthropic, e2b):
            stack.push_async_callback(simulator.stop)
            await simulator.start()
        control_plane = await stack.enter_async_context(ControlPlane())
        admin = await stack.enter_async_context(AnthropicSimulator(anthropic.url))
        clouds = {**simulated_clouds(anthropic.url, e2b.url, settings).environment, **bypass}
        stand_in = await stack.enter_async_context(ClusterStandIn(control_plane, logs, clouds))
        endpoints = [await admin.add_webhook(stand_in.webhook_url) for _ in range(2)]
        reader = Reader(
            checkout,
            {
                **base_environment(os.environ),
                **clouds,
                "KUBECONFIG": str(control_plane.kubeconfig),
                "KUBECACHEDIR": str(folder / "kubectl-cache"),
                "KUBECTL_KUBERC": "false",
                "PATH": f"{control_plane.binaries.kubectl.parent}:{os.environ['PATH']}",
            },
            {
                "ANTHROPIC_ENVIRONMENT_ID": settings.environment_id,
                "ANTHROPIC_ENVIRONMENT_KEY": settings.environment_key,
                "ANTHROPIC_API_KEY": settings.api_key,
                "ANTHROPIC_AGENT_ID": settings.agent_id,
                "E2B_API_KEY": SIMULATED_E2B_KEY,
                "ANTHROPIC_WEBHOOK_SIGNING_KEY": endpoints[0].secret,
                "NEW_ENVIRONMENT_KEY": settings.environment_key,
                "NEW_E2B_KEY": NEXT_E2B_KEY,
                "NEW_SIGNING_KEY": endpoints[1].secret,
            },
        )
        user = AsyncAnthropic(base_url=anthropic.url, api_key=settings.api_key)
        stack.push_async_callback(user.close)
        e2b_admin = await stack.enter_async_context(E2BSimulatorClient(e2b.url))
        yield Scene(control_plane, stand_in, reader, e2b_admin, user, settings)


@pytest.mark.timeout(600)
async def test_from_nothing_to_the_first_answered_turn_and_back(tmp_path: Path) -> None:
    async with empty_cluster(tmp_path) as scene:
        install, credentials, *pages = WAYS["cli"]
        await scene.reader.read(install, "cli")
        assert scene.stand_in.images == {IMAGE}
        scene.reader.names["NAME"] = await scene.session_idle()
        await scene.reader.read(credentials, "cli")
        assert await scene.answers() == "still-there"
        *others, uninstall = pages
        for page in others:
            await scene.reader.read(page, "cli")
        await scene.uninstall(uninstall, "cli")


@pytest.mark.timeout(600)
async def test_the_same_with_kubectl_alone(tmp_path: Path) -> None:
    async with empty_cluster(tmp_path) as scene:
        install, uninstall = WAYS["kubectl"]
        await scene.reader.read(install, "kubectl")
        assert scene.stand_in.images == {IMAGE}
        await scene.session_idle()
        await scene.uninstall(uninstall, "kubectl")


@pytest.mark.timeout(600)
async def test_the_way_out_by_hand_where_the_operator_is_gone(tmp_path: Path) -> None:
    async with empty_cluster(tmp_path) as scene:
        await scene.reader.read("install.md", "kubectl")
        await scene.session_idle()
        await scene.control_plane.kubectl(
            "scale", "deployment/managed-session-operator", "--replicas=0", f"--namespace={SYSTEM_NAMESPACE}"
        )
        await scene.stand_in.ended("managed-session-operator")
        [uninstall] = WAYS["hand"]
        await scene.uninstall(uninstall, "hand")


def test_every_block_is_run_or_says_why_not() -> None:
    run = {(page, way) for way, pages in WAYS.items() for page in pages}
    neither = [
        str(block)
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        and block.skipped is None
        and not any(page == block.page and block.only in (None, way) for page, way in run)
    ]
    assert neither == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_subcommands_and_flags_of_kubectl_exist(page: Path) -> None:
    scripts = [block.text for block in blocks(page) if block.language == "bash"]
    scripts += re.findall(r"`(kubectl [^`\n]+)`", page.read_text())
    for words in itertools.chain.from_iterable(map(kubectl_calls, scripts)):
        names = [word for word in words if not word.startswith("-")]
        depth = 2 if names[0] in ("config", "create", "rollout", "set") else 1
        depth += names[:2] == ["create", "secret"]
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        unknown = flags - flags_of(*names[:depth])
        assert unknown == set(), f"kubectl {' '.join(words)}"


def kubectl_calls(script: str) -> Iterator[list[str]]:
    """The arguments of each call of kubectl in a script."""
    script = re.sub(r"<\([^()]*(\([^()]*\)[^()]*)*\)", "FILE", script.replace("\\\n", " "))
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
        lexer.whitespace_split = True
        call: list[str] | None = None
        for word in [*lexer, "|"]:
            if word == "kubectl":
                call = []
            elif call is not None and re.fullmatch(r"[|;&<>()]+", word):
                yield call
                call = None
            elif call is not None:
                call.append(word)


HELP: dict[tuple[str, ...], set[str]] = {}
WITH_PLUGIN = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
"""The environment in which kubectl finds our plugin, beside this interpreter."""


def flags_of(*subcommand: str) -> set[str]:
    """The flags that a subcommand of kubectl has, those of every subcommand with them."""
    if subcommand not in HELP:
        kubectl = str(resolve_binaries().kubectl)
        own = subprocess.run(
            [kubectl, *subcommand, "--help"], env=WITH_PLUGIN, capture_output=True, text=True, timeout=120
        )
        shared = subprocess.run([kubectl, "options"], capture_output=True, text=True, timeout=120)
        assert own.returncode == 0, own.stderr
        assert f"kubectl {subcommand[0]}" in own.stdout, f"there is no kubectl {' '.join(subcommand)}"
        HELP[subcommand] = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", own.stdout + shared.stdout))
    return HELP[subcommand]
