"""The local control plane: real etcd and kube-apiserver processes."""

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
from managed_session_devkit.control_plane import (
    ControlPlane,
    ControlPlaneBinaries,
    ControlPlaneSettings,
    KubectlError,
    ProcessFailedError,
    resolve_binaries,
)
from managed_session_devkit.control_plane.working_folder import working_folder

from ..support.waiting import eventually

DEADLINE_SECONDS = 60.0

READER = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"""


@pytest.fixture(scope="module")
def binaries() -> ControlPlaneBinaries:
    return resolve_binaries()


@pytest.fixture(scope="module")
async def own(
    binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ControlPlane]:
    """A control plane that these tests may stop."""
    audit_log = tmp_path_factory.mktemp("audit") / "audit.log"
    async with ControlPlane(binaries, audit_log=audit_log) as control_plane:
        yield control_plane


def start_program(binaries: ControlPlaneBinaries) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "managed_session_devkit.control_plane"],
        env=os.environ | {"KUBEBUILDER_ASSETS": str(binaries.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def servers_from(folder: Path) -> list[int]:
    """Process IDs of what runs with a command in `folder`."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and process.info["cmdline"][0].startswith(f"{folder}/")
    ]


@pytest.mark.skipif("KUBEBUILDER_ASSETS" in os.environ, reason="these binaries may be of any release")
async def test_server_and_kubectl_are_of_the_release_that_the_settings_name(own: ControlPlane) -> None:
    versions = json.loads(await own.kubectl("version", "--output=json"))
    wanted = ControlPlaneSettings().release.kubernetes
    assert versions["serverVersion"]["gitVersion"] == wanted
    assert versions["clientVersion"]["gitVersion"] == wanted


async def test_is_ready_with_tls_that_verifies_against_its_own_authority(own: ControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(own.ca_file))
    # Part of the default context from Python 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    async with httpx.AsyncClient(verify=context, timeout=30.0) as client:
        assert (await client.get(f"{own.url}/readyz")).text == "ok"


async def test_kubectl_works_as_administrator_and_reads_input(own: ControlPlane) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "made"},
        "data": {"key": "value"},
    }
    await own.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    assert await own.kubectl("get", "configmap", "made", "-o", "jsonpath={.data.key}") == "value"


async def test_kubectl_failure_carries_its_message(own: ControlPlane) -> None:
    with pytest.raises(KubectlError, match='configmaps "absent" not found'):
        await own.kubectl("get", "configmap", "absent")


async def test_service_account_has_exactly_the_rights_of_its_roles(own: ControlPlane) -> None:
    await own.kubectl("create", "serviceaccount", "nobody")
    await own.kubectl("apply", "-f", "-", input=READER)
    nobody = await own.service_account_kubeconfig("default", "nobody")
    reader = await own.service_account_kubeconfig("default", "reader", expiration_seconds=600)
    for kubeconfig, name in ((nobody, "nobody"), (reader, "reader")):
        who = await own.kubectl(
            "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=kubeconfig
        )
        assert who == f"system:serviceaccount:default:{name}"
    with pytest.raises(KubectlError, match=r"Forbidden.*configmaps is forbidden"):
        await own.kubectl("get", "configmaps", kubeconfig=nobody)
    await own.kubectl("get", "configmaps", kubeconfig=reader)
    with pytest.raises(KubectlError, match="cannot list resource"):
        await own.kubectl("get", "secrets", kubeconfig=reader)


async def test_token_of_an_absent_service_account_is_refused(own: ControlPlane) -> None:
    with pytest.raises(KubectlError, match='serviceaccounts "absent" not found'):
        await own.service_account_kubeconfig("default", "absent")


async def test_credentials_and_data_are_for_this_user_only(own: ControlPlane) -> None:
    folder = own.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(own.kubeconfig.stat().st_mode) == 0o600
    listening = [
        connection.laddr
        for pid in own.process_ids.values()
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [(address.ip, f"https://127.0.0.1:{address.port}") for address in listening] == [
        ("127.0.0.1", own.url)
    ]


async def test_audit_log_has_requests_without_bodies(own: ControlPlane) -> None:
    await own.kubectl(
        "create", "secret", "generic", "hidden", "--from-file=value=/dev/stdin", input="do-not-log"
    )
    audit_log = own.audit_log
    assert audit_log is not None

    async def logged() -> bool:
        return '"name":"hidden"' in audit_log.read_text()

    await eventually("the request is in the audit log", logged)
    created = [json.loads(line) for line in audit_log.read_text().splitlines() if '"name":"hidden"' in line]
    assert created[0]["verb"] == "create"
    assert "requestObject" not in created[0]


async def test_api_server_keeps_data_and_address_over_a_stop(own: ControlPlane) -> None:
    await own.kubectl("create", "configmap", "kept")
    url = own.url
    await own.stop_api_server()
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError, match="All connection attempts failed"):
            await client.get(f"{url}/readyz")
    await own.start_api_server()
    assert own.url == url
    assert await own.kubectl("get", "configmap", "kept", "-o", "name") == "configmap/kept\n"


async def test_etcd_keeps_data_over_a_kill(own: ControlPlane) -> None:
    await own.kubectl("create", "configmap", "written")
    await own.stop_etcd(kill=True)
    assert list(own.process_ids) == ["kube-apiserver"]
    await own.start_etcd()
    assert await own.kubectl("get", "configmap", "written", "-o", "name") == "configmap/written\n"


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver"])
async def test_process_that_fails_to_start_is_named_with_its_last_lines(
    name: str, binaries: ControlPlaneBinaries, tmp_path: Path
) -> None:
    for each in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / each).symlink_to(binaries.folder / each)
    (tmp_path / name).unlink()
    (tmp_path / name).write_text("#!/bin/sh\necho no space left >&2\nexit 7\n")
    (tmp_path / name).chmod(0o755)

    with pytest.raises(ProcessFailedError, match=f"^{name} exited with code 7") as caught:
        await ControlPlane(ControlPlaneBinaries(tmp_path)).__aenter__()
    assert "no space left" in str(caught.value)
    assert servers_from(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_program_ends(
    number: signal.Signals, binaries: ControlPlaneBinaries
) -> None:
    program = start_program(binaries)
    with program:
        assert program.stdout is not None
        kubeconfig = Path(program.stdout.readline().removeprefix("KUBECONFIG=").strip())
        assert kubeconfig.is_file()
        servers = psutil.Process(program.pid).children(recursive=True)
        assert len(servers) == 2
        program.send_signal(number)
        program.wait(DEADLINE_SECONDS)
    _, alive = psutil.wait_procs(servers, timeout=DEADLINE_SECONDS)
    assert alive == []
    if number != signal.SIGKILL:
        assert program.returncode == 0
        assert not kubeconfig.parent.exists()


def test_program_ends_and_names_the_process_that_died(binaries: ControlPlaneBinaries) -> None:
    program = start_program(binaries)
    with program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        servers = psutil.Process(program.pid).children(recursive=True)
        next(server for server in servers if server.name() == "etcd").kill()
        assert "error: etcd was ended by signal 9" in program.stderr.read()
    assert program.returncode == 1
    assert not any(server.is_running() for server in servers)


def test_folder_of_a_killed_program_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with working_folder() as used:
        abandoned = tmp_path / f"{used.name}-abandoned"
        abandoned.mkdir()
        for folder in (used, abandoned):
            os.utime(folder, (0, 0))
        with working_folder():
            assert used.exists()
            assert not abandoned.exists()
    assert list(tmp_path.iterdir()) == []


def test_binaries_command_prints_the_folder(binaries: ControlPlaneBinaries) -> None:
    output = subprocess.run(
        [sys.executable, "-m", "managed_session_devkit.control_plane", "binaries"],
        env=os.environ | {"KUBEBUILDER_ASSETS": str(binaries.folder)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output == f"{binaries.folder}\n"
