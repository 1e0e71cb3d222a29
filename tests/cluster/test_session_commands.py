"""The commands that show sessions and ask something of them, also as kubectl's plugin and in a shell."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from managed_session_api.names import resource_name
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import becomes, begin, resource
from ..support.shells import Zsh, fish
from ..support.waiting import eventually
from .command_line import E2B_KEY, Ended, Site, installed_scripts

SECONDS = 60.0


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed_scripts(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
async def first(serving: LocalSystem) -> str:
    """A session at rest."""
    return await at_rest(serving)


@pytest.fixture(scope="module")
async def second(serving: LocalSystem) -> str:
    """Another session at rest."""
    return await at_rest(serving)


async def at_rest(serving: LocalSystem) -> str:
    async with begin(serving) as conversation:
        assert await conversation.say("Run: echo hello") == "hello"
    await becomes(serving, conversation.session_id, "Idle", status="True")
    return conversation.session_id


def environment(site: Site, path: Path) -> dict[str, str]:
    """Variables with the installed scripts before everything else on PATH."""
    return {
        **os.environ,
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(site.control_plane.kubeconfig),
    }


async def execute(site: Site, path: Path, *command: str | Path, **variables: str) -> Ended:
    """Run a program with the installed scripts before everything else on PATH."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**environment(site, path), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


async def test_get_prints_the_columns_of_kubectl_and_every_format(
    site: Site, first: str, second: str
) -> None:
    table = await site.run("get", keys={})
    theirs = await site.kubectl("get", "managedsessions", f"--namespace={site.namespace}")
    assert table.output.split() == theirs.split() or len(table.output.splitlines()) == 3
    assert table.output.splitlines()[0].split()[:4] == ["NAME", "READY", "REASON", "SESSION"]
    wide = await site.run("get", first, "--output=wide", keys={})
    assert "PHASE" in wide.output
    assert second not in wide.output
    names = await site.run("get", "-o", "name", keys={})
    assert sorted(names.output.split()) == sorted(
        f"managedsession.managedagents.dev/{resource_name(each)}" for each in (first, second)
    )
    one = json.loads((await site.run("get", first, "-o", "json", keys={})).output)
    assert one["spec"]["sessionID"] == first
    every = yaml.safe_load((await site.run("get", "-A", "-o", "yaml", keys={})).output)
    assert {each["spec"]["sessionID"] for each in every["items"]} >= {first, second}


async def test_get_selects_by_name_beginning_phase_and_field(site: Site, first: str, second: str) -> None:
    unique = next(first[:end] for end in range(1, len(first)) if not second.startswith(first[:end]))
    assert first in (await site.run("get", unique, keys={})).output
    ambiguous = await site.run("get", "sesn", keys={})
    assert ambiguous.code == 1
    assert "fits 2 sessions" in ambiguous.errors
    missing = await site.run("get", "nobody", keys={})
    assert missing.code == 1
    assert "there is no ManagedSession for nobody" in missing.errors
    by_field = await site.run("get", "--field-selector", f"session={second}", keys={})
    assert second in by_field.output
    assert first not in by_field.output
    assert (await site.run("get", "--phase=Running", keys={})).output.startswith("No sessions found")
    assert first in (await site.run("get", "--phase=idle,running", keys={})).output
    wrong = await site.run("get", "--output=xml", keys={})
    assert (wrong.code, "use one of table" in wrong.errors) == (1, True)


async def test_watch_prints_a_session_that_changes(site: Site, serving: LocalSystem, first: str) -> None:
    watching = await site.start("get", first, "--watch", keys={})
    try:
        assert watching.stdout is not None
        head = await asyncio.wait_for(watching.stdout.readline(), SECONDS)
        assert b"REASON" in head
        assert b"Idle" in await asyncio.wait_for(watching.stdout.readline(), SECONDS)
        assert (await site.run("pause", first, keys={})).code == 0
        while b"Suspended" not in (line := await asyncio.wait_for(watching.stdout.readline(), SECONDS)):
            assert line, "the command has ended"
    finally:
        watching.terminate()
        await watching.communicate()
    assert (await site.run("resume", first, keys={})).code == 0
    await becomes(serving, first, "Idle", status="True")


async def test_paused_sessions_are_resumed_and_each_command_may_be_repeated(
    site: Site, serving: LocalSystem, first: str, second: str
) -> None:
    paused = await site.run("pause", first, second, keys={})
    assert (paused.code, paused.output.count(" paused\n")) == (0, 2)
    assert (await resource(serving, first))["spec"]["lifecycle"]["suspend"] is True
    again = await site.run("pause", first, keys={})
    assert (again.code, "paused already" in again.output) == (0, True)
    resumed = await site.run("resume", first, second, keys={})
    assert (resumed.code, resumed.output.count(" resumed\n")) == (0, 2)
    assert "suspend" not in (await resource(serving, first))["spec"].get("lifecycle", {})
    unneeded = await site.run("resume", first, keys={})
    assert (unneeded.code, "is not paused" in unneeded.output) == (0, True)
    await becomes(serving, first, "Idle", status="True")


async def test_retry_tries_a_failed_session_again_before_its_time(site: Site, serving: LocalSystem) -> None:
    refusal = {"status": 400, "body": {"code": 400, "message": "no"}}
    await site.e2b.add_fault("create", refusal, times=10_000)
    async with begin(serving) as conversation:
        await conversation.send("Run: echo at last")
        session_id = conversation.session_id
        await becomes(serving, session_id, "SandboxRequestRejected")
        refused = await site.run("retry", session_id, keys={})
        assert refused.code == 1
        assert "is still not ready (SandboxRequestRejected" in refused.errors
        await site.e2b.clear_faults()
        retried = await site.run("retry", session_id, keys={})
        assert (retried.code, "tried again" in retried.output) == (0, True)
        assert await conversation.answer() == "at last"
    found = await resource(serving, session_id)
    assert found["status"]["requests"]["retry"] == found["spec"]["requests"]["retry"]


async def test_kubectl_runs_the_plugin_and_completes_it(
    site: Site, control_plane: ControlPlane, scripts: Path, first: str
) -> None:
    kubectl = control_plane.binaries.kubectl
    where = f"--namespace={site.namespace}"
    listed = await execute(site, scripts, kubectl, "managedsessions", "get", where)
    assert (listed.code, first in listed.output) == (0, True), listed.text
    helped = await execute(site, scripts, kubectl, "managedsessions", "get", "--help")
    assert "kubectl managedsessions get sesn_01AbCdEf --output wide" in helped.output
    offered = await execute(site, scripts, kubectl, "__complete", "managedsessions", "get", where, "sesn-")
    assert f"{resource_name(first)}\tIdle" in offered.output.splitlines(), offered.text
    assert ":4" in offered.output.splitlines()
    commands = await execute(site, scripts, kubectl, "__complete", "managedsessions", "pau")
    assert commands.output.splitlines()[0].startswith("pause\t")


async def test_bash_completes_commands_options_and_sessions(site: Site, scripts: Path, first: str) -> None:
    program = """
    source <(managed-sessions completion bash)
    complete_words() {
      COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
      "$(complete -p managed-sessions | sed 's/.*-F \\([^ ]*\\).*/\\1/')" managed-sessions
      printf '%s\\n' "${COMPREPLY[@]}"
    }
    complete_words managed-sessions retr; echo --
    complete_words managed-sessions get --name; echo --
    complete_words managed-sessions get "--namespace=$WHERE" sesn-; echo --
    complete_words managed-sessions completion z
    """
    ended = await execute(site, scripts, "bash", "--norc", "-c", program, WHERE=site.namespace)
    assert ended.errors == ""
    commands, options, sessions, shells = (
        (each.split() for each in ended.output.split("--\n", 3))
        if (ended.output.count("\n--\n") == 3)
        else pytest.fail(ended.text)
    )
    assert commands == ["retry"]
    assert "--namespace" in options
    assert resource_name(first) in sessions
    assert shells == ["zsh"]


async def test_fish_completes_commands_and_sessions(site: Site, scripts: Path, first: str) -> None:
    program = """
    managed-sessions completion fish | source
    complete --do-complete "managed-sessions retr"; echo ==
    complete --do-complete "managed-sessions get --namespace=$WHERE sesn-"
    """
    fish_program, variables = fish()
    arguments = (fish_program, "--no-config", "--command", program)
    ended = await execute(site, scripts, *arguments, WHERE=site.namespace, **variables)
    assert ended.errors == ""
    commands, sessions = ended.output.split("==\n")
    assert commands.startswith("retry\t")
    assert resource_name(first) in [line.split("\t")[0] for line in sessions.splitlines()]


async def test_zsh_completes_commands_and_sessions(
    site: Site, scripts: Path, first: str, tmp_path: Path
) -> None:
    session, where = resource_name(first), f"--namespace={site.namespace}"
    variables = environment(site, scripts)
    async with Zsh(variables, "source <(managed-sessions completion zsh)", tmp_path) as shell:
        await shell.completed("managed-sessions retr", "managed-sessions retry ")
        await shell.completed(f"managed-sessions get {where} {session[:-1]}", f"{session} ")


async def test_completion_without_a_cluster_is_quick_and_silent(site: Site, scripts: Path) -> None:
    ended = await execute(
        site, scripts, "kubectl_complete-managedsessions", "get", "", KUBECONFIG="/nowhere/config"
    )
    assert (ended.output, ended.errors) == (":4\n", "")


async def test_interrupted_watch_ends_without_a_traceback(site: Site) -> None:
    watching = await site.start("get", "--watch", "--output=name", keys={})

    async def sleeps() -> bool:
        return Path(f"/proc/{watching.pid}/wchan").exists()

    await eventually("the command runs", sleeps)
    watching.send_signal(2)
    _, errors = await asyncio.wait_for(watching.communicate(), SECONDS)
    assert b"Traceback" not in errors


async def test_story_of_a_session_is_told_from_all_sources_and_names_what_is_missing(
    site: Site, first: str
) -> None:
    with_key = {"ANTHROPIC_API_KEY": site.settings.api_key}
    told = await site.run("timeline", first, "--turns=0", keys=with_key)
    assert told.code == 0
    for part in (
        "wait for a slot and for the sandbox",
        "the worker starts",
        "the worker served: Idle",
        "SandboxCreated",
        "message of the user",
        "tool bash",
        "session idle: end_turn",
        "exit record: the sandbox does not run",
    ):
        assert part in told.output, part
    assert "hello" not in told.output, "no content"
    assert re.search("[▏▎▍▌▋▊▉█]", told.output), "a bar"
    assert "\x1b" not in told.output
    described = await site.run("describe", first, keys=with_key)
    for part in ("Newest turn:", "Conditions:", "Events:", "Ready:", "tool bash"):
        assert part in described.output, part
    without = await site.run("describe", first, keys={})
    assert "Anthropic's events: set ANTHROPIC_API_KEY" in without.output
    found = json.loads((await site.run("timeline", first, "--json", keys=with_key)).output)
    seconds = [each["seconds"] for turn in found["turns"] for each in turn if "seconds" in each]
    assert seconds
    assert min(seconds) >= 0


async def test_story_is_told_when_things_are_broken(site: Site, serving: LocalSystem) -> None:
    refusal = {"status": 400, "body": {"code": 400, "message": "no such thing"}}
    await site.e2b.add_fault("create", refusal, times=10_000)
    try:
        async with begin(serving) as conversation:
            await conversation.send("Run: echo never")
            await becomes(serving, conversation.session_id, "SandboxRequestRejected")
        described = await site.run("describe", conversation.session_id, keys={"ANTHROPIC_API_KEY": "wrong"})
        assert described.code == 0
        assert "What to do:" in described.output
        assert "no such thing" in described.output
        assert "Anthropic's events: Anthropic rejected ANTHROPIC_API_KEY" in described.output
        told = await site.run("timeline", conversation.session_id, keys={})
        assert "wait for a slot and for the sandbox" in told.output
    finally:
        await site.e2b.clear_faults()
        await site.run("pause", conversation.session_id, keys={})


async def test_top_shows_who_works_and_the_slots_and_not_who_rests(
    site: Site, serving: LocalSystem, first: str
) -> None:
    async with begin(serving) as conversation:
        await conversation.send(f"Run: {WAIT}; echo done")
        await becomes(serving, conversation.session_id, "Running", status="True")
        table = (await site.run("top", keys={})).output
        [line] = [each for each in table.splitlines() if conversation.session_id in each]
        assert "Running" in line
        assert first not in table
        assert "slots used: 1 of " in table
        found = json.loads((await site.run("top", "-o", "json", keys={})).output)
        assert [each["session"] for each in found["busy"]] == [conversation.session_id]
        assert found["sessions"]["idle"] >= 1
        let_go((await site.sandboxes_of(conversation.session_id))[0])
        assert await conversation.answer() == "done"


CANARY = "canary-5d41402abc4b2a76"


async def plant(site: Site, session_id: str) -> None:
    """Put a secret wherever somebody may have put one."""
    name, where = resource_name(session_id), f"--namespace={site.namespace}"
    patch = {
        "metadata": {"annotations": {"example.com/note": f"{CANARY}-1"}},
        "spec": {
            "sandbox": {
                "env": {"TOKEN": f"{CANARY}-2"},
                "metadata": {"team": f"{CANARY}-3"},
                "setup": {"script": f"curl {CANARY}-4"},
            }
        },
    }
    await site.kubectl("patch", "managedsession", name, where, "--type=merge", f"--patch={json.dumps(patch)}")
    await site.kubectl("create", "secret", "generic", "canary", where, f"--from-literal=password={CANARY}-5")
    system = f"--namespace={site.system_namespace}"
    await site.kubectl("set", "env", "deployment/managed-session-operator", system, f"HIDDEN={CANARY}-6")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "canary", "namespace": site.namespace},
        "involvedObject": {"kind": "ManagedSession", "name": name, "namespace": site.namespace},
        "reason": "Said",
        "message": f"the password is {CANARY}-5, and e2b_{CANARY}",
    }
    await site.control_plane.kubectl("create", "--filename=-", input=json.dumps(event))


async def test_bundle_has_what_support_needs_and_no_canary(site: Site, first: str, tmp_path: Path) -> None:
    await plant(site, first)
    file = tmp_path / "support.tar.gz"
    ended = await site.run("bundle", f"--file={file}")
    assert ended.code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        texts = {
            each.name.partition("/")[2]: (archive.extractfile(each) or io.BytesIO()).read().decode()
            for each in archive
        }
    assert [name for name, text in texts.items() if CANARY in text] == []
    for secret in (E2B_KEY, site.settings.environment_key):
        assert [name for name, text in texts.items() if secret in text] == []
    [session] = [
        each
        for each in yaml.safe_load_all(texts["objects/managedsessions.yaml"])
        if each["spec"]["sessionID"] == first
    ]
    assert session["spec"]["sandbox"]["env"] == {"TOKEN": "[redacted]"}
    annotations = session["metadata"]["annotations"]
    assert annotations["example.com/note"] == "[redacted]"
    assert annotations["managedagents.dev/identity"] != "[redacted]"
    assert "Said" in texts["objects/events.yaml"]
    assert "keys:\n- password" in texts[f"objects/secrets-{site.namespace}.yaml"]
    assert site.settings.environment_id in texts["objects/managedsessions.yaml"]
    assert {each["check"] for each in json.loads(texts["doctor.json"])} >= {"leader", "template"}
    assert json.loads(texts["versions.json"])["kubernetes"].startswith("v1.")
    again = await site.run("bundle", f"--file={file}")
    assert (again.code, "exists already" in again.errors) == (1, True)
