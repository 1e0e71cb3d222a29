"""The section `setup` of a preparation, with real git, real HTTP and real processes."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_devkit.system.git_server import GitServer, git, git_server
from managed_session_worker.paths import Paths
from managed_session_worker.preparation import agent_files, setup
from managed_session_worker.preparation.sandbox import Sandbox, SectionFailedError
from managed_session_worker.privileges import Account

AGENT = "54321"
TOKEN = "ghp_verysecrettoken0123456789"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "served") as running:
        yield running


def python_for_all() -> str:
    """A Python that another user may execute."""
    for program in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        tried = subprocess.run(
            [sys.executable, "-c", f"import os; os.setuid({AGENT}); os.execv({program!r}, ['p', '-c', ''])"],
            capture_output=True,
        )
        if tried.returncode == 0:
            return program
    return ""


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox below a directory that its agent can reach."""
    if os.geteuid() == 0:
        program = python_for_all()
        if not program:
            pytest.skip("no Python that another user than root may execute")
        monkeypatch.setattr(sys, "executable", program)
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    paths, account = Paths(str(root)), Account.find(AGENT)
    for folder in (paths.home, paths.run, paths.workdir):
        Path(folder).mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(paths.workdir, account.uid, account.gid)
    yield Sandbox(paths, account)
    shutil.rmtree(root)


def repository(sandbox: Sandbox, url: str, **fields: Any) -> dict[str, Any]:
    path = f"{sandbox.paths.workdir}/project"
    return {"step": "setup.repositories[0]", "url": url, "path": path, **fields}


def with_token(token: str = TOKEN) -> dict[str, str]:
    return {"value": token, "username": "x-access-token"}


def run(sandbox: Sandbox, **section: Any) -> None:
    setup.run(section, sandbox)


def failure(sandbox: Sandbox, **section: Any) -> SectionFailedError:
    with pytest.raises(SectionFailedError) as caught:
        setup.run(section, sandbox)
    return caught.value


def everything_in(root: str) -> Iterator[tuple[Path, bytes]]:
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            yield (
                path,
                os.fsencode(path.readlink())
                if path.is_symlink()
                else (path.read_bytes() if path.is_file() else b""),
            )


def project(sandbox: Sandbox) -> Path:
    return Path(sandbox.paths.workdir, "project")


def test_private_repository_is_cloned_and_nothing_of_its_credential_stays(
    server: GitServer, sandbox: Sandbox
) -> None:
    url = server.add("private", {"README.md": "hello"}, password=("x-access-token", TOKEN))
    run(sandbox, repositories=[repository(sandbox, url, credential=with_token())])
    place = project(sandbox)
    assert (place / "README.md").read_text() == "hello"
    assert git(place, "remote", "get-url", "origin") == url
    assert git(place, "status", "--porcelain", "--branch") == "## main...origin/main"
    assert place.stat().st_uid == sandbox.account.uid
    if os.geteuid() == 0:
        assert (place / ".git/config").stat().st_uid == sandbox.account.uid
    forms = (TOKEN.encode(), base64.b64encode(f"x-access-token:{TOKEN}".encode()))
    for path, content in everything_in(sandbox.paths.root):
        assert not any(form in content for form in forms), path
    assert not list(Path(sandbox.paths.home).glob("setup-*"))
    assert any(header for _, header in server.requests)


def test_process_with_the_credential_is_closed_to_the_agent(server: GitServer, sandbox: Sandbox) -> None:
    """Looked at while the server keeps git waiting: another user, and no token in arguments or variables."""
    url = server.add("private", {"README.md": "hello"}, password=("x-access-token", TOKEN))
    seen: list[tuple[int, bytes, bytes]] = []
    allows = server.allows

    def look(path: str, header: str) -> bool:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    arguments, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                    seen.append((entry.stat().st_uid, arguments, variables))
                except OSError:
                    continue
        return allows(path, header)

    server.allows = look  # type: ignore[method-assign]
    run(sandbox, repositories=[repository(sandbox, url, credential=with_token())])
    fetching = [each for each in seen if url.encode() in each[1]]
    assert fetching
    assert not [each for each in seen if TOKEN.encode() in each[1] + each[2]]
    if os.geteuid() == 0:
        assert sandbox.account.uid not in {uid for uid, _, _ in fetching}


def test_credential_is_not_sent_to_a_host_to_which_the_server_redirects(
    server: GitServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    with git_server(tmp_path / "other") as other:
        other.add("private", {"README.md": "stolen"}, password=("x-access-token", TOKEN))
        server.redirects["/private.git"] = f"{other.url}/private.git"
        url = f"{server.url}/private.git"
        error = failure(sandbox, repositories=[repository(sandbox, url, credential=with_token())])
        assert error.step == "setup.repositories[0]"
        assert [header for _, header in other.requests if header] == []
    assert not project(sandbox).exists()


def test_wrong_credential_is_named_by_step_and_not_printed(server: GitServer, sandbox: Sandbox) -> None:
    url = server.add("private", {"README.md": "hello"}, password=("x-access-token", "another"))
    error = failure(sandbox, repositories=[repository(sandbox, url, credential=with_token())])
    assert error.step == "setup.repositories[0]"
    assert "could not clone" in error.why
    assert "Authentication failed" in error.output
    assert TOKEN not in error.why + error.output
    assert list(Path(sandbox.paths.workdir).iterdir()) == []
    server.passwords["/private.git"] = ("x-access-token", TOKEN)
    run(sandbox, repositories=[repository(sandbox, url, credential=with_token())])
    assert (project(sandbox) / "README.md").exists()


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("kind", ["branch", "tag", "commit"])
@pytest.mark.parametrize("depth", [0, 1])
def test_ref_may_be_a_branch_a_tag_or_a_commit(
    server: GitServer, sandbox: Sandbox, private: bool, kind: str, depth: int
) -> None:
    url = server.add("code", {"a": "1"}, password=("x-access-token", TOKEN) if private else None)
    work = server.folder / "code.work"
    wanted = server.commit("code", {"a": "2"})
    git(work, "tag", "v2")
    git(work, "branch", "release")
    git(work, "push", "-q", "origin", "v2", "release")
    server.commit("code", {"a": "3"})
    ref = {"branch": "release", "tag": "v2", "commit": wanted}[kind]
    credential = {"credential": with_token()} if private else {}
    run(sandbox, repositories=[repository(sandbox, url, ref=ref, depth=depth, **credential)])
    assert (project(sandbox) / "a").read_text() == "2"
    assert git(project(sandbox), "rev-parse", "HEAD") == wanted
    assert git(project(sandbox), "rev-list", "--count", "HEAD") == ("1" if depth else "2")
    assert git(project(sandbox), "remote", "get-url", "origin") == url


def test_setup_runs_once_and_leaves_the_agents_work_alone(server: GitServer, sandbox: Sandbox) -> None:
    url = server.add("code", {"a": "1"})
    path = f"{sandbox.paths.workdir}/settings.json"
    content = base64.b64encode(b"{}").decode()
    section: dict[str, Any] = {
        "repositories": [repository(sandbox, url)],
        "files": [{"step": "setup.files[0]", "path": path, "mode": "0640", "content": content}],
        "script": {"step": "setup.script", "text": "echo once >> ran", "seconds": 30},
    }
    run(sandbox, **section)
    (project(sandbox) / "a").write_text("the agent's")
    Path(path).write_text("the agent's")
    server.commit("code", {"a": "2"})
    run(sandbox, **section)
    run(sandbox, **{**section, "script": {**section["script"], "text": "echo changed >> ran"}})
    assert (project(sandbox) / "a").read_text() == "the agent's"
    assert Path(path).read_text() == "the agent's"
    assert Path(sandbox.paths.workdir, "ran").read_text() == "once\n"


def test_with_rerun_only_what_changed_runs_again_and_what_was_there_is_kept(
    server: GitServer, sandbox: Sandbox
) -> None:
    url = server.add("code", {"a": "1"})
    first = git(server.folder / "code.work", "rev-parse", "HEAD")
    script = {"step": "setup.script", "text": "echo once >> ran", "seconds": 30}
    section: dict[str, Any] = {"rerunOnChange": True, "script": script}
    run(sandbox, **section, repositories=[repository(sandbox, url, ref="main")])
    (project(sandbox) / "mine").write_text("the agent's")
    run(sandbox, **section, repositories=[repository(sandbox, url, ref="main")])
    assert (project(sandbox) / "mine").exists()
    server.commit("code", {"a": "2"})
    run(sandbox, **section, repositories=[repository(sandbox, url, ref=first)])
    assert git(project(sandbox), "rev-parse", "HEAD") == first
    assert (project(sandbox).parent / "project.before-1/mine").read_text() == "the agent's"
    assert Path(sandbox.paths.workdir, "ran").read_text() == "once\n"


def test_repetition_that_the_agent_makes_fail_only_warns_and_is_tried_again(sandbox: Sandbox) -> None:
    place = Path(sandbox.paths.workdir, "folder")
    content = base64.b64encode(b"new").decode()
    entry = {"step": "setup.files[0]", "path": f"{place}/file", "mode": "0644", "content": content}
    run(sandbox, rerunOnChange=True)
    place.write_text("a file in the place of a directory")
    run(sandbox, rerunOnChange=True, files=[entry])
    ((_, step, why, _),) = sandbox.warnings
    assert step == "setup.files[0]"
    assert why
    sandbox.warnings.clear()
    place.unlink()
    run(sandbox, rerunOnChange=True, files=[entry])
    assert (place / "file").read_text() == "new"
    assert sandbox.warnings == []


def test_rotated_credential_clones_nothing_again(server: GitServer, sandbox: Sandbox) -> None:
    url = server.add("private", {"a": "1"}, password=("x-access-token", TOKEN))
    run(sandbox, rerunOnChange=True, repositories=[repository(sandbox, url, credential=with_token())])
    before = len(server.requests)
    rotated = repository(sandbox, url, credential=with_token("another"))
    run(sandbox, rerunOnChange=True, repositories=[rotated])
    gone = repository(sandbox, url, missing="the Secret git has no key token")
    run(sandbox, rerunOnChange=True, repositories=[gone])
    assert len(server.requests) == before


def test_missing_value_stops_only_a_step_that_needs_it(sandbox: Sandbox) -> None:
    entry = {"step": "setup.files[0]", "path": f"{sandbox.paths.workdir}/x", "mode": "0600"}
    error = failure(sandbox, files=[{**entry, "missing": "the Secret x does not exist"}])
    assert (error.step, error.why) == ("setup.files[0]", "the Secret x does not exist")
    run(sandbox, files=[{**entry, "content": base64.b64encode(b"here").decode()}])
    run(sandbox, files=[{**entry, "missing": "the Secret x does not exist"}])


def test_clone_that_was_cut_off_is_cleared_and_done_again(server: GitServer, sandbox: Sandbox) -> None:
    url = server.add("code", {"a": "1"})
    half = Path(agent_files.beside(str(project(sandbox))))
    (half / ".git").mkdir(parents=True)
    if os.geteuid() == 0:
        for path in (half, half / ".git"):
            os.chown(path, sandbox.account.uid, sandbox.account.gid)
    stage = Path(sandbox.paths.home, "setup-left")
    stage.mkdir()
    run(sandbox, repositories=[repository(sandbox, url)])
    assert (project(sandbox) / "a").read_text() == "1"
    assert not half.exists()
    assert not stage.exists()


def test_clone_that_took_its_place_before_the_end_is_not_done_again(
    server: GitServer, sandbox: Sandbox
) -> None:
    url = server.add("code", {"a": "1"})
    entry = repository(sandbox, url)
    run(sandbox, repositories=[entry])
    (project(sandbox) / "mine").write_text("the agent's")
    record = Path(sandbox.paths.preparation_record)
    record.write_text(f'{{"pending:{project(sandbox)}": "{setup.fingerprint(entry)}"}}')
    run(sandbox, repositories=[entry])
    assert (project(sandbox) / "mine").exists()


def test_links_of_the_agent_lead_only_where_the_agent_may_write(server: GitServer, sandbox: Sandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    target = Path(sandbox.paths.root, "etc")
    target.mkdir()
    (target / "passwd").write_text("root")
    Path(sandbox.paths.workdir, "link").symlink_to(target)
    content = base64.b64encode(b"evil").decode()
    entry = {"step": "setup.files[0]", "path": f"{sandbox.paths.workdir}/link/passwd", "mode": "0644"}
    error = failure(sandbox, files=[{**entry, "content": content}])
    assert "could not be written" in error.why
    entry = {**repository(sandbox, server.add("code", {"a": "1"})), "path": f"{sandbox.paths.workdir}/link/x"}
    assert "Permission denied" in failure(sandbox, repositories=[entry]).output
    assert [path.name for path in target.iterdir()] == ["passwd"]
    assert (target / "passwd").read_text() == "root"


def test_what_the_agent_configures_for_git_has_no_effect(server: GitServer, sandbox: Sandbox) -> None:
    home = Path(sandbox.paths.root, "home")
    home.mkdir()
    mark = Path(sandbox.paths.workdir, "ran")
    (home / ".gitconfig").write_text(
        f"[core]\n fsmonitor = touch {mark}; false\n hooksPath = {home}\n"
        f'[credential]\n helper = !touch {mark}\n[url "http://evil/"]\n insteadOf = {server.url}\n'
    )
    hook = home / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    account = Account(AGENT, sandbox.account.uid, sandbox.account.gid, str(home), exclusive=False)
    hostile = Sandbox(sandbox.paths, account)
    url = server.add("private", {"a": "1"}, password=("x-access-token", TOKEN))
    run(hostile, repositories=[repository(hostile, url, credential=with_token())])
    assert (project(sandbox) / "a").exists()
    assert not mark.exists()


def test_files_have_their_mode_and_the_agent_as_their_owner(sandbox: Sandbox) -> None:
    path = Path(sandbox.paths.workdir, "deep/in/it.key")
    content = base64.b64encode(bytes(range(256))).decode()
    run(sandbox, files=[{"step": "setup.files[0]", "path": str(path), "mode": "0600", "content": content}])
    assert path.read_bytes() == bytes(range(256))
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_uid == sandbox.account.uid


def test_downloaded_file_must_have_its_checksum(server: GitServer, sandbox: Sandbox) -> None:
    server.files["/data"] = b"x" * 100_000
    wanted = hashlib.sha256(server.files["/data"]).hexdigest()
    path = Path(sandbox.paths.workdir, "data")
    url = f"{server.url}/data"
    entry = {"step": "setup.files[0]", "path": str(path), "mode": "0644", "url": url}
    error = failure(sandbox, files=[{**entry, "sha256": "0" * 64}])
    assert f"SHA-256 is {wanted}" in error.why
    assert list(Path(sandbox.paths.workdir).iterdir()) == []
    run(sandbox, files=[{**entry, "sha256": wanted}])
    assert path.stat().st_size == 100_000
    missing = {**entry, "path": f"{path}2", "url": f"{server.url}/no", "sha256": wanted}
    Path(sandbox.paths.preparation_record).unlink()
    assert "404" in failure(sandbox, files=[missing]).why


def test_script_runs_as_the_agent_in_its_directory_and_says_how_it_failed(sandbox: Sandbox) -> None:
    def script(text: str, seconds: float = 30) -> dict[str, Any]:
        return {"step": "setup.script", "text": text, "seconds": seconds}

    error = failure(sandbox, script=script("echo the cause; exit 3"))
    assert (error.step, error.output) == ("setup.script", "the cause")
    assert "exit status 3" in error.why
    error = failure(sandbox, script=script("echo begun; sleep 1000 & sleep 1000", 0.5))
    assert "longer than" in error.why
    assert error.output == "begun"
    run(sandbox, script=script("id -u > who; pwd >> who"))
    made = Path(sandbox.paths.workdir, "who").read_text().split()
    assert made == [str(sandbox.account.uid), sandbox.paths.workdir]


def test_key_for_ssh_is_given_to_an_agent_in_memory(sandbox: Sandbox, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    entry = repository(sandbox, "ssh://git@127.0.0.1:1/code.git", credential={"value": key.read_text()})
    error = failure(sandbox, repositories=[entry])
    assert "Connection refused" in error.output
    entry["credential"] = {"value": "no key"}
    error = failure(sandbox, repositories=[entry])
    assert "Connection refused" not in error.output
    secret = key.read_text().splitlines()[2]
    assert not [path for path, content in everything_in(sandbox.paths.root) if secret.encode() in content]
