"""Runs etcd and kube-apiserver as child processes."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from managed_session_devkit.control_plane.binaries import ControlPlaneBinaries, resolve_binaries
from managed_session_devkit.control_plane.certificates import CertificateFiles, issue_certificates
from managed_session_devkit.control_plane.errors import ProcessFailedError
from managed_session_devkit.control_plane.kubeconfig import write_admin_kubeconfig, write_token_kubeconfig
from managed_session_devkit.control_plane.processes import ServerProcess, first_to_fail
from managed_session_devkit.control_plane.server_commands import (
    ETCD_SOCKET,
    AuditLog,
    etcd_command,
    kube_apiserver_command,
)
from managed_session_devkit.control_plane.settings import ControlPlaneSettings
from managed_session_devkit.control_plane.started_block import StartedBlock
from managed_session_devkit.control_plane.working_folder import working_folder

STARTS_SUFFIX = ".starts"
"""Suffix of the file beside an audit log that records when the API server started."""

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 5.0


class KubectlError(Exception):
    """kubectl failed. The text is its standard error, without its arguments, which may hold secrets."""


class ControlPlane(StartedBlock):
    """A Kubernetes API server with its own etcd. It runs while the `async with` block lasts.

    The two processes end with the block. On Linux they also end when this process, or the thread that entered
    the block, ends in any other way. Each control plane starts with an empty cluster.

    Args:
        binaries: what to run. Default: `resolve_binaries()`, in a thread. A command-line program should call
            that itself first, because Ctrl-C then stops a download or a build at once.
        audit_log: file to which the API server appends its audit log, at level Metadata. Default: none, or
            with the setting `audit_folder` a file in that folder, with the requests of service accounts.
        ready_timeout_seconds: how long each process may take to become ready.

    Raises:
        BinariesUnavailableError: when the block starts, as `resolve_binaries`.
        ProcessFailedError: when the block starts: a process ended, or was not ready in time. The text names
            it and shows its log.
    """

    kubeconfig: Path
    """An administrator's kubeconfig, which only this user can read."""
    url: str
    """The API server's URL, which stays the same when it restarts."""
    ca_file: Path
    """PEM certificate of the authority that signed the API server's certificate."""
    audit_log: Path | None
    """The file of the audit log, if there is one."""
    binaries: ControlPlaneBinaries
    """What runs."""
    folder: Path
    """The temporary folder with all files of this control plane, such as the logs."""

    def __init__(
        self,
        binaries: ControlPlaneBinaries | None = None,
        *,
        audit_log: Path | None = None,
        ready_timeout_seconds: float = 60.0,
    ) -> None:
        super().__init__()
        self.audit_log = audit_log.absolute() if audit_log is not None else None
        self._binaries = binaries
        self._ready_timeout_seconds = ready_timeout_seconds

    async def _start(self) -> None:
        binaries = self._binaries
        if binaries is None:
            binaries = await asyncio.to_thread(resolve_binaries)
        self.binaries = binaries
        self.folder = self._exit_stack.enter_context(working_folder())
        certificates = await asyncio.to_thread(issue_certificates, self.folder)
        port = self._exit_stack.enter_context(_reserved_port()).getsockname()[1]
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = certificates.ca
        self.kubeconfig = self.folder / "admin.kubeconfig"
        write_admin_kubeconfig(self.kubeconfig, self.url, certificates)
        self._ssl_context = _admin_ssl_context(certificates)
        self._audit = self._audit_log()
        api_server = kube_apiserver_command(binaries, self.folder, certificates, port, self._audit)
        self._etcd = ServerProcess("etcd", etcd_command(binaries, self.folder), self.folder)
        self._api_server = ServerProcess("kube-apiserver", api_server, self.folder)
        await self._exit_stack.enter_async_context(_killed_at_exit(self._etcd, self._api_server))
        # Start both at once, because the API server needs etcd only after a while.
        await self._etcd.start()
        await self._api_server.start()
        await self._wait_for_etcd()
        await self._wait_for_api_server()

    def _audit_log(self) -> AuditLog | None:
        if self.audit_log is not None:
            return AuditLog(self.audit_log)
        audit_folder = ControlPlaneSettings().audit_folder
        if audit_folder is None:
            return None
        audit_folder.mkdir(parents=True, exist_ok=True)
        # The folder's name is unique, even if two control planes start at the same time.
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.folder.name}.jsonl"
        return AuditLog(audit_folder.absolute() / name, service_accounts_only=True)

    def _note_start(self, since: datetime) -> None:
        """Record the start, during which the API server may refuse what its roles allow."""
        if self._audit is not None and self._audit.service_accounts_only:
            times = {"since": since.isoformat(), "until": datetime.now(UTC).isoformat()}
            with self._audit.path.with_suffix(STARTS_SUFFIX).open("a") as file:
                file.write(json.dumps(times) + "\n")

    async def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - the name that subprocess uses
        kubeconfig: Path | None = None,
        timeout_seconds: float = 60.0,
    ) -> str:
        """Run kubectl as administrator, or with another `kubeconfig`, and return its standard output.

        Pass secrets in `input`, because every process of the machine can see arguments.

        Raises:
            KubectlError: kubectl failed.
            TimeoutError: it took longer than `timeout_seconds`.
        """
        environment = os.environ | {
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
            # The user's kubectl preferences would change what commands do.
            "KUBECTL_KUBERC": "false",
        }
        process = await asyncio.create_subprocess_exec(
            str(self.binaries.kubectl),
            *args,
            env=environment,
            stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            content = input.encode() if input is not None else None
            output, errors = await asyncio.wait_for(process.communicate(content), timeout_seconds)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise KubectlError(
                errors.decode(errors="replace").strip() or f"kubectl exited with {process.returncode}"
            )
        return output.decode()

    async def service_account_kubeconfig(
        self, namespace: str, name: str, *, expiration_seconds: int = 30 * 24 * 3600
    ) -> Path:
        """Write a kubeconfig with a token of an existing ServiceAccount, and so with exactly its rights.

        The token comes from a TokenRequest, and the default namespace is `namespace`. Another call replaces
        the file. The API server accepts an `expiration_seconds` of 600 or more.

        Raises:
            KubectlError: the ServiceAccount does not exist, or the time is too short.
        """
        token = await self.kubectl(
            "create", "token", name, f"--namespace={namespace}", f"--duration={expiration_seconds}s"
        )
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        write_token_kubeconfig(path, self.url, self.ca_file, name, token.strip(), namespace)
        return path

    async def stop_api_server(self, *, kill: bool = False) -> None:
        """Stop the API server, cleanly or (`kill`) at once. Connections are refused until it starts again."""
        await self._api_server.stop(kill=kill)

    async def start_api_server(self) -> None:
        """Start the stopped API server on the same port, and wait until it is ready.

        Raises:
            ProcessFailedError: it did not become ready.
        """
        since = datetime.now(UTC)
        await self._api_server.start()
        await self._wait_for_api_server()
        self._note_start(since)

    async def stop_etcd(self, *, kill: bool = False) -> None:
        """Stop etcd, cleanly (up to 10 s) or (`kill`) at once. The API server goes on and answers errors."""
        await self._etcd.stop(kill=kill)

    async def start_etcd(self) -> None:
        """Start the stopped etcd with its data, and wait until a running API server is ready again.

        Raises:
            ProcessFailedError: one of the two did not become ready.
        """
        await self._etcd.start()
        await self._wait_for_etcd()
        if self._api_server.pid is not None:
            await self._wait_for_api_server()

    async def failure(self) -> ProcessFailedError:
        """Wait until one of the processes ends, and return the error to report.

        Meant for programs that run a control plane for long. Do not combine it with the `stop_…` methods.
        """
        return await first_to_fail(self._etcd.wait(), self._api_server.wait())

    @property
    def process_ids(self) -> dict[str, int]:
        """IDs of the running processes, by the names `etcd` and `kube-apiserver`."""
        return {p.name: p.pid for p in (self._etcd, self._api_server) if p.pid is not None}

    async def _wait_for_etcd(self) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / ETCD_SOCKET))
        async with httpx.AsyncClient(transport=transport, timeout=_PROBE_SECONDS) as client:
            await self._wait_until_ok(self._etcd, client, "http://etcd/health")

    async def _wait_for_api_server(self) -> None:
        async with httpx.AsyncClient(
            verify=self._ssl_context, timeout=_PROBE_SECONDS, trust_env=False
        ) as client:
            await self._wait_until_ok(self._api_server, client, f"{self.url}/readyz")

    async def _wait_until_ok(self, process: ServerProcess, client: httpx.AsyncClient, url: str) -> None:
        await process.until_ready(_poll_until_ok(client, url), self._ready_timeout_seconds)


async def _poll_until_ok(client: httpx.AsyncClient, url: str) -> None:
    while True:
        try:
            if (await client.get(url)).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def _killed_at_exit(*processes: ServerProcess) -> AsyncIterator[None]:
    try:
        yield
    finally:
        # Kill all processes before the first wait, which may be cancelled. They need no clean stop, because
        # the data is removed with the folder.
        for process in processes:
            process.kill()
        for process in processes:
            await process.stop(kill=True)


def _reserved_port() -> socket.socket:
    """Reserve a free port of 127.0.0.1 with a bound socket that never listens.

    A server of this user that also sets SO_REUSEPORT can listen there (--permit-port-sharing). No other
    process can take the port, even while that server is stopped.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def _admin_ssl_context(certificates: CertificateFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(str(certificates.admin_certificate), str(certificates.admin_key))
    return context
