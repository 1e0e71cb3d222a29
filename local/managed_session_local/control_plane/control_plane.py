"""Run etcd and kube-apiserver as child processes."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from managed_session_local.control_plane.binaries import ControlPlaneBinaries, resolve_binaries
from managed_session_local.control_plane.certificates import CertificateFiles, issue_certificates
from managed_session_local.control_plane.errors import ProcessFailedError
from managed_session_local.control_plane.kubeconfig import write_admin_kubeconfig, write_token_kubeconfig
from managed_session_local.control_plane.processes import ServerProcess
from managed_session_local.control_plane.server_commands import (
    ETCD_SOCKET,
    AuditLog,
    etcd_command,
    kube_apiserver_command,
)
from managed_session_local.control_plane.settings import ControlPlaneSettings
from managed_session_local.control_plane.working_folder import working_folder

STARTS_SUFFIX = ".starts"
"""Of the file beside an audit log in `audit_folder` which says when the API server was started again."""

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 5.0


class KubectlError(Exception):
    """kubectl failed; the text is its standard error. Its arguments are left out on purpose."""


class ControlPlane:
    """A Kubernetes API server with its own etcd, for as long as the `async with` block lasts.

    The two processes end with the block, and (on Linux) when this process or the thread that entered the
    block ends in any other way. Nothing is kept: each one starts with an empty cluster.

    Args:
        binaries: what to run; by default `resolve_binaries()`, in a thread. A command-line program had better
            call that first, where Ctrl-C stops a download or a build at once.
        audit_log: file to which the API server appends its audit log at level Metadata; by default none, or,
            with the setting `audit_folder`, a file of that folder with the service accounts' requests.
        ready_timeout_seconds: how long each process may take until it serves.
    """

    kubeconfig: Path
    """Kubeconfig of an administrator, readable by this user only."""
    url: str
    """Address of the API server; stays the same while it is stopped and started."""
    ca_file: Path
    """PEM certificate of the authority that signed the API server's."""
    audit_log: Path | None
    """The audit log's file, or None when there is none."""
    binaries: ControlPlaneBinaries
    """What runs."""
    folder: Path
    """Temporary folder with everything of this control plane, the processes' logs included."""

    def __init__(
        self,
        binaries: ControlPlaneBinaries | None = None,
        *,
        audit_log: Path | None = None,
        ready_timeout_seconds: float = 60.0,
    ) -> None:
        self.audit_log = audit_log.absolute() if audit_log is not None else None
        self._binaries = binaries
        self._ready_timeout_seconds = ready_timeout_seconds
        self._exit_stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start both processes and return when the API server is ready.

        Raises:
            BinariesUnavailableError: as `resolve_binaries`.
            ProcessFailedError: one of the processes ended or did not serve in time; the text says which and
                shows its log.
        """
        try:
            await self._start()
        except BaseException:
            await self._exit_stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit_stack.aclose()

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
        # Side by side: the API server needs etcd only after a while.
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
        # Beside the time, the name of this control plane's own folder, which no other one has.
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.folder.name}.jsonl"
        return AuditLog(audit_folder.absolute() / name, service_accounts_only=True)

    def _note_start(self, since: datetime) -> None:
        """Beside the audit log: while an API server starts, it refuses what its roles allow."""
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
        """Run kubectl and return its standard output; as administrator unless `kubeconfig` says otherwise.

        Pass secrets by `input`, not by arguments, which every process of the machine can see.

        Raises:
            KubectlError: it failed.
            TimeoutError: it took longer than `timeout_seconds`.
        """
        environment = os.environ | {
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
            # The user's own preferences would change what commands do.
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
        """Write a kubeconfig with a token of an existing ServiceAccount, which has exactly its rights.

        The token is from a TokenRequest; the default namespace is `namespace`. A repeated call replaces the
        file. The API server's minimum for `expiration_seconds` is 600.

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
        """Stop the API server, orderly or (`kill`) at once; connections are refused until it starts again."""
        await self._api_server.stop(kill=kill)

    async def start_api_server(self) -> None:
        """Start the stopped API server on the same port and wait until it is ready.

        Raises:
            ProcessFailedError: it did not become ready.
        """
        since = datetime.now(UTC)
        await self._api_server.start()
        await self._wait_for_api_server()
        self._note_start(since)

    async def stop_etcd(self, *, kill: bool = False) -> None:
        """Stop etcd, orderly (up to 10 s) or (`kill`) at once; the API server stays, answering errors."""
        await self._etcd.stop(kill=kill)

    async def start_etcd(self) -> None:
        """Start the stopped etcd with its data; wait until it serves and a running API server is ready again.

        Raises:
            ProcessFailedError: one of them did not come back.
        """
        await self._etcd.start()
        await self._wait_for_etcd()
        if self._api_server.pid is not None:
            await self._wait_for_api_server()

    async def failure(self) -> ProcessFailedError:
        """Wait until one of the processes ends, and return what is to be said about it.

        For a program that runs a control plane for long; not to be combined with the `stop_…` methods.
        """
        waits = [asyncio.ensure_future(process.wait()) for process in (self._etcd, self._api_server)]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def process_ids(self) -> dict[str, int]:
        """Process IDs of what runs, by the names `etcd` and `kube-apiserver`."""
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
        polling = asyncio.ensure_future(_poll_until_ok(client, url))
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait(
                (polling, ended), timeout=self._ready_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if polling.done():
                polling.result()
            elif ended.done():
                raise ended.result()
            else:
                raise ProcessFailedError(
                    f"{process.name} was not ready after {self._ready_timeout_seconds:g} s. "
                    f"{process.last_lines()}"
                )
        finally:
            polling.cancel()
            ended.cancel()
            await asyncio.gather(polling, ended, return_exceptions=True)


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
        # All at once and before the first wait, which may be cancelled. Nothing is worth an orderly stop: the
        # data goes with the folder.
        for process in processes:
            process.kill()
        for process in processes:
            await process.stop(kill=True)


def _reserved_port() -> socket.socket:
    """A free port of 127.0.0.1, held by a bound socket that never listens.

    A server of this user that sets SO_REUSEPORT too can listen there (--permit-port-sharing); nobody else can
    take it, also not while that server is stopped.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def _admin_ssl_context(certificates: CertificateFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(str(certificates.admin_certificate), str(certificates.admin_key))
    return context
