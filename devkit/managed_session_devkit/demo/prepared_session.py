"""The part of the demo about what a sandbox starts with, what it may use, what goes on and what comes out."""

import asyncio

from managed_session_cli.conversation import Conversation

from managed_session_devkit.demo.demo_log import DemoLog
from managed_session_devkit.demo.outside_services import (
    API_HOST,
    GIT_HOST,
    PRICE,
    README,
    OutsideServices,
)
from managed_session_devkit.demo.resource_watch import ResourceWatch
from managed_session_devkit.demo.session_class import apply_class
from managed_session_devkit.demo.user import send
from managed_session_devkit.system.command_line import run_command
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.sandbox_search import everything_in

SHOP_METADATA = {"team": "shop"}
"""Metadata of the sessions that the class selects."""

_MANIFEST = f"""\
apiVersion: managedagents.dev/v1alpha1
kind: ManagedSessionClass
metadata:
  name: shop
spec:
  selector:
    sessionMetadata:
      matchLabels: {{team: shop}}
  session:
    sandbox:
      trust:
        certificateAuthorities:
          - configMapRef: {{name: company-ca, key: ca.pem}}
      setup:
        repositories:
          - url: https://{GIT_HOST}/shop.git
      secrets:
        - host: {API_HOST}
          header: Authorization
          prefix: "Bearer "
          secretRef: {{name: prices, key: token}}
"""
_FIRST = f"cd shop; TEA=$(curl --silent http://{API_HOST}/tea); cat README.md; echo tea costs $TEA"
_SECOND = "echo In $PWD, tea costs $TEA. | tee /mnt/session/outputs/report.txt"
_SETTLE_SECONDS = 30.0


async def apply_shop(system: LocalSystem, log: DemoLog, outside: OutsideServices) -> None:
    """Store the token and the authority in the cluster, and apply the class (raises as `apply_class`)."""
    await system.e2b_admin.change_settings(egress_hosts=outside.hosts)
    for kind, name, key, path in (
        ("secret generic", "prices", "token", outside.token_file),
        ("configmap", "company-ca", "ca.pem", outside.authority),
    ):
        created = await system.kubectl("create", *kind.split(), name, f"--from-file={key}={path}")
        log.output(f"kubectl create {kind} {name} --from-file={key}", created)
    await apply_class(system, log, "shop", _MANIFEST)


async def play_shop(
    system: LocalSystem,
    log: DemoLog,
    watch: ResourceWatch,
    conversation: Conversation,
    outside: OutsideServices,
) -> None:
    """Play two turns of a session that the class serves, and download what it has made.

    Raises:
        CheckFailedError: something is not as the class says.
    """
    answer = await send(log, conversation, f"Run: {_FIRST}")
    log.check("the repository was there", answer.startswith(README), answer.replace("\n", " "))
    sandbox_id = watch.of(conversation.session_id).sandbox
    await _check_secret(system, log, outside, sandbox_id)
    await _rests(log, watch, conversation.session_id, turns=1)

    report = await send(log, conversation, f"Run: {_SECOND}")
    log.check(
        "after the pause, the shell goes on in its directory and with its variable",
        report == f"In /mnt/session/shop, tea costs {PRICE}.",
        report,
    )
    await _rests(log, watch, conversation.session_id, turns=2)
    await _download(system, log, conversation.session_id, report)


async def _rests(log: DemoLog, watch: ResourceWatch, session_id: str, *, turns: int) -> None:
    def rests(_: object) -> bool:
        now = watch.of(session_id)
        return (now.turns, now.state) == (str(turns), "Paused")

    paused = await watch.until(rests, _SETTLE_SECONDS)
    log.check("its sandbox is paused", paused)


async def _check_secret(system: LocalSystem, log: DemoLog, outside: OutsideServices, sandbox_id: str) -> None:
    log.check(
        f"{API_HOST} got the token in a header that the agent did not send",
        outside.tokens_seen == [f"Bearer {outside.token}"],
    )
    sandbox = await system.e2b_admin.sandbox(sandbox_id)

    def search() -> tuple[int, list[str]]:
        searched, holders = 0, []
        for name, content in everything_in(sandbox):
            searched += 1
            if outside.token.encode() in content:
                holders.append(name)
        return searched, holders

    searched, holders = await asyncio.to_thread(search)
    log.check(
        "no file of its sandbox and no environment or memory of its processes holds the token",
        bool(sandbox.processes and searched) and not holders,
        f"{searched} places searched" + "".join(f", found in {each}" for each in holders),
    )


async def _download(system: LocalSystem, log: DemoLog, session_id: str, report: str) -> None:
    command = ("outputs", session_id, "--wake", "--download", "results")
    _, printed = await run_command(system, *command, seconds=_SETTLE_SECONDS)
    log.output(f"managed-sessions {' '.join(command)}", printed)
    file = system.folder / "results" / "report.txt"
    downloaded = file.read_text().strip() if file.is_file() else ""
    log.check("results/report.txt is what the agent wrote", downloaded == report, downloaded)
