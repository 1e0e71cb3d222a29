"""The whole system on one machine: control plane, clouds, webhook and operator."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from managed_session_api.credentials import Credential
from managed_session_api.names import PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

from managed_session_devkit.control_plane import (
    ControlPlane,
    ControlPlaneBinaries,
    KubectlError,
    ProcessFailedError,
)
from managed_session_devkit.control_plane.processes import first_to_fail
from managed_session_devkit.control_plane.started_block import StartedBlock
from managed_session_devkit.control_plane.working_folder import working_folder
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator, WebhookEndpoint
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_devkit.system.clouds import SIMULATED_E2B_KEY, Clouds, simulated_clouds
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.gather_or_cancel import gather_or_cancel
from managed_session_devkit.system.manifests import install, write_kubeconfig
from managed_session_devkit.system.pod import Pod
from managed_session_devkit.system.pods import OPERATOR, WEBHOOK, Pods
from managed_session_devkit.system.simulator_process import SimulatorProcess
from managed_session_devkit.system.source_tree import SourceTree

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_DELETE_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_PREFIX = "MANAGED_SESSIONS_"


class LocalSystem(StartedBlock):
    """The whole system. It runs while the `async with` block lasts.

    Webhook and operator are the real processes. Each has only what its pod would have: a kubeconfig with a
    token of its own ServiceAccount, a directory with its own credentials, and the environment variables that
    it needs. When the block ends, the system first deletes the sessions' resources, which kills their
    sandboxes, and then stops everything. All processes also end when this process does.

    Args:
        control_plane: a running control plane to use, which keeps running. Default: the system starts its
            own.
        binaries: binaries for its own control plane. Default: `resolve_binaries()` finds them.
        clouds: clouds to use. Default: the system starts two simulators.
        namespace: namespace of the resources.
        system_namespace: namespace of the pods.
        installation_id: marks the sandboxes. Default: a new ID.
        operators: how many operators to start.
        webhook_settings: `MANAGED_SESSIONS_…` settings of the webhook, in lower case without the prefix.
        operator_settings: the same for every operator.
        anthropic_settings: settings of the Anthropic simulator, fields of its `settings.Settings`.
        e2b_settings: settings of the E2B simulator, fields of its `settings.Settings`.
        anthropic_host: another name of 127.0.0.1, by which the Anthropic simulator is reached.
        register_webhook: whether to register the webhook in the simulator and give it the signing key.
        delete_sessions_at_exit: whether to delete the resources at the end. Otherwise the sandboxes end with
            the simulator.
        api_server_urls: by pod name (`webhook`, `operator-1`, …), the URL of a proxy through which the pod
            reaches the API server. Default: no proxy.
        restart_pods: whether to restart a webhook or operator that ended by itself, as Kubernetes does.
        fork_server: starts webhook, operators and simulators. Default: each is executed.
        version: another version, whose manifests, worker template and pods to use. Default: this one.
        report: called with a line of text for each part that is ready.
        environ: environment variables to use. Default: those of this process.

    Raises:
        BinariesUnavailableError: when the block starts, like the others: no control plane is available.
        ProcessFailedError: a process ended or was not ready in time; the text shows its last lines.
        KubectlError: the API server refused the manifests.
        TemplateError: the worker template could not be found or built.
    """

    kubeconfig: Path
    """An administrator's kubeconfig with `namespace` as its default namespace."""
    webhook_url: str
    """The webhook's local URL. The Claude Console needs a public address that leads to it."""
    clouds: Clouds
    webhook: Pod
    operators: list[Pod]
    control_plane: ControlPlane
    folder: Path
    """The temporary folder with logs, credentials and kubeconfigs."""

    def __init__(
        self,
        *,
        control_plane: ControlPlane | None = None,
        binaries: ControlPlaneBinaries | None = None,
        clouds: Clouds | None = None,
        namespace: str = RESOURCE_NAMESPACE,
        system_namespace: str = SYSTEM_NAMESPACE,
        installation_id: str | None = None,
        operators: int = 1,
        webhook_settings: Mapping[str, str] | None = None,
        operator_settings: Mapping[str, str] | None = None,
        anthropic_settings: Mapping[str, Any] | None = None,
        e2b_settings: Mapping[str, Any] | None = None,
        anthropic_host: str = "127.0.0.1",
        register_webhook: bool = True,
        delete_sessions_at_exit: bool = True,
        api_server_urls: Mapping[str, str] | None = None,
        restart_pods: bool = False,
        fork_server: ForkServer | None = None,
        version: SourceTree | None = None,
        report: Callable[[str], None] = lambda _: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__()
        self.namespace = namespace
        self.system_namespace = system_namespace
        self.installation_id = installation_id or f"local-{uuid.uuid4()}"
        self.simulated = clouds is None
        self.operators = []
        self._more_webhooks: list[Pod] = []
        self._shared_control_plane = control_plane
        self._binaries = binaries
        self._given_clouds = clouds
        self._operator_count = operators
        self._webhook_settings = dict(webhook_settings or {})
        self._operator_settings = dict(operator_settings or {})
        self._anthropic_settings = AnthropicSettings.model_validate(anthropic_settings or {})
        self._anthropic_host = anthropic_host
        self._e2b_settings = {"api_keys": [SIMULATED_E2B_KEY], **(e2b_settings or {})}
        self._register_webhook = register_webhook
        self._delete_sessions_at_exit = delete_sessions_at_exit
        self._api_server_urls = dict(api_server_urls or {})
        self._restart_pods = restart_pods
        self._fork_server = fork_server
        self._version = version
        self._report = report
        self._environ = environ
        self._keepers: list[asyncio.Task[None]] = []
        self._user: AsyncAnthropic | None = None

    @property
    def operator(self) -> Pod:
        """The first operator."""
        return self.operators[0]

    @property
    def base_url(self) -> str:
        """The webhook's address without a path."""
        return self.webhook_url.removesuffix("/webhook")

    @property
    def logs(self) -> dict[str, Path]:
        """The log files by process name."""
        processes = [pod.process for pod in (self.webhook, *self._more_webhooks, *self.operators)]
        if self.simulated:
            processes += [self._anthropic.process, self._e2b.process]
        return {process.name: process.log for process in processes}

    @property
    def agent_id(self) -> str:
        """The agent that the Anthropic simulator starts with."""
        return self._anthropic_settings.agent_id

    @property
    def api_key(self) -> str:
        """The API key of the Anthropic simulator, to act as the user."""
        return self._anthropic_settings.api_key

    @property
    def user(self) -> "AsyncAnthropic":
        """A client with the simulator's API key, to act as the user."""
        if self._user is None:
            from anthropic import AsyncAnthropic  # noqa: PLC0415 - takes a second; systems start without it

            self._user = AsyncAnthropic(
                base_url=self.clouds.environment["ANTHROPIC_BASE_URL"], api_key=self.api_key
            )
            self._exit_stack.push_async_callback(self._user.close)
        return self._user

    async def kubectl(self, *args: str, input: str | None = None) -> str:  # noqa: A002 - as ControlPlane.kubectl
        """Run kubectl as administrator in `namespace` (raises as `ControlPlane.kubectl`)."""
        return await self.control_plane.kubectl(
            f"--namespace={self.namespace}", *args, input=input, kubeconfig=self.kubeconfig
        )

    async def add_signing_key(self) -> WebhookEndpoint:
        """Register the webhook in the simulator and give it the signing key, without a restart."""
        endpoint = await self.anthropic_admin.add_webhook(self.webhook_url)
        self.webhook.set_credential(Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY, endpoint.secret)
        return endpoint

    async def webhook_status(self) -> int:
        """Return the webhook's answer to an unsigned event: 503 without a signing key, else 401."""
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            return (await client.post(self.webhook_url, content=b"{}")).status_code

    async def start_operator(self, **settings: str) -> Pod:
        """Start one more operator and wait until it is ready.

        Raises:
            ProcessFailedError: it did not become ready.
        """
        pod = self._new_operator()
        pod.change_settings(**settings)
        self.operators.append(pod)
        await pod.start()
        await pod.wait_ready()
        return pod

    async def start_webhook(self, **settings: str) -> tuple[Pod, str]:
        """Start one more webhook like the first one. Return it and its URL (raises as `start_operator`)."""
        pod, url = self._pods.webhook(self._webhook_kubeconfig, self._webhook_settings)
        pod.change_settings(**settings)
        pod.take_credentials_of(self.webhook)
        self._exit_stack.push_async_callback(pod.process.stop)
        self._more_webhooks.append(pod)
        await pod.start()
        await pod.wait_ready()
        return pod, url

    async def delete_sessions(self, timeout_seconds: float = _DELETE_SECONDS) -> bool:
        """Delete all resources and wait for their finalizers; return whether all of them are gone."""
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            with suppress(KubectlError, TimeoutError):
                await self.control_plane.kubectl(
                    f"--namespace={self.namespace}", "delete", PLURAL, "--all", "--wait",
                    f"--timeout={max(1, round(left))}s", timeout_seconds=left + 5,
                )  # fmt: skip
                if not await self.kubectl("get", PLURAL, "--output=name"):
                    return True
            await asyncio.sleep(_RETRY_SECONDS)
        return False

    async def failure(self) -> ProcessFailedError:
        """Wait until a process that cannot be restarted ends by itself, and return the error to report."""
        simulators = (self._anthropic, self._e2b) if self.simulated else ()
        return await first_to_fail(
            self.control_plane.failure(), *(simulator.process.wait() for simulator in simulators)
        )

    async def _start(self) -> None:
        stack = self._exit_stack
        self.folder = stack.enter_context(working_folder())
        # They stop in the opposite order.
        control_plane_stack = await stack.enter_async_context(AsyncExitStack())
        simulators_stack = await stack.enter_async_context(AsyncExitStack())
        pods_stack = await stack.enter_async_context(AsyncExitStack())
        self._clouds_ready: asyncio.Future[Clouds] = asyncio.get_running_loop().create_future()
        await gather_or_cancel(
            self._start_pods(control_plane_stack, pods_stack),
            self._start_clouds(simulators_stack),
        )

    async def _start_clouds(self, stack: AsyncExitStack) -> None:
        if self._given_clouds is not None:
            self.clouds = self._given_clouds
        else:
            await self._start_simulators(stack)
        self._clouds_ready.set_result(self.clouds)
        began = time.monotonic()
        # Import the SDK, which takes a second, while the control plane starts.
        ensure_template = await asyncio.to_thread(_import_ensure_template)
        name = self._operator_settings.get("template") or self._environ.get(f"{_PREFIX}TEMPLATE")
        if self._version is not None:
            await self._version.build_template(name, self.clouds.e2b_variables)
        built = await ensure_template(name, **self.clouds.e2b_options)
        self._report_part("worker template built" if built else "worker template found", began)

    async def _start_simulators(self, stack: AsyncExitStack) -> None:
        began = time.monotonic()
        environment = base_environment(self._environ)
        self._anthropic = SimulatorProcess(
            "anthropic",
            self.folder,
            self._anthropic_settings.model_dump(mode="json"),
            environment,
            fork_server=self._fork_server,
        )
        self._e2b = SimulatorProcess(
            "e2b",
            self.folder,
            self._e2b_settings,
            environment,
            f"--state-dir={self.folder}",
            fork_server=self._fork_server,
        )
        for simulator in (self._anthropic, self._e2b):
            stack.push_async_callback(simulator.stop)
        await gather_or_cancel(self._anthropic.start(), self._e2b.start())
        self.anthropic_admin = await stack.enter_async_context(AnthropicSimulator(self._anthropic.url))
        self.e2b_admin = await stack.enter_async_context(E2BSimulatorClient(self._e2b.url))
        anthropic_url = self._anthropic.url.replace("127.0.0.1", self._anthropic_host)
        self.clouds = simulated_clouds(anthropic_url, self._e2b.url, self._anthropic_settings)
        self._report_part("simulators of Anthropic and E2B ready", began)

    async def _start_pods(self, control_plane_stack: AsyncExitStack, stack: AsyncExitStack) -> None:
        began = time.monotonic()
        if self._shared_control_plane is not None:
            self.control_plane = self._shared_control_plane
        else:
            self.control_plane = await control_plane_stack.enter_async_context(ControlPlane(self._binaries))
            self._report_part("control plane ready", began)
        self.kubeconfig = self.folder / "kubeconfig"
        write_kubeconfig(self.control_plane, self.namespace, self.kubeconfig)
        began = time.monotonic()
        await install(self.control_plane, self.namespace, self.system_namespace, version=self._version)
        self._webhook_kubeconfig, self._operator_kubeconfig = await asyncio.gather(
            self.control_plane.service_account_kubeconfig(self.system_namespace, WEBHOOK),
            self.control_plane.service_account_kubeconfig(self.system_namespace, OPERATOR),
        )
        self._report_part("manifests applied", began)
        began = time.monotonic()
        await self._clouds_ready
        self._pods = Pods(
            self.folder,
            clouds=self.clouds,
            namespace=self.namespace,
            system_namespace=self.system_namespace,
            installation_id=self.installation_id,
            environ=self._environ,
            api_server_urls=self._api_server_urls,
            fork_server=self._fork_server,
            version=self._version,
        )
        self.webhook, self.webhook_url = self._pods.webhook(self._webhook_kubeconfig, self._webhook_settings)
        self.operators = [self._new_operator() for _ in range(self._operator_count)]
        stack.push_async_callback(self._stop_pods)
        pods = [self.webhook, *self.operators]
        await asyncio.gather(*(pod.start() for pod in pods))
        if self.simulated and self._register_webhook:
            await self.add_signing_key()
        await gather_or_cancel(*(pod.wait_ready() for pod in pods))
        if self._restart_pods:
            self._keepers = [asyncio.create_task(self._keep_running(pod)) for pod in pods]
        self._report_part("webhook and operator ready", began)

    def _new_operator(self) -> Pod:
        return self._pods.operator(self._operator_kubeconfig, self._operator_settings)

    async def _keep_running(self, pod: Pod) -> None:
        delay = 0.5
        while True:
            failure = await pod.process.wait()
            self._report(f"{failure} Restarting it in {delay:g} s.")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30.0)
            await pod.process.stop(kill=True)
            await pod.start()

    async def _stop_pods(self) -> None:
        try:
            # Stop the webhook first, so that no event creates another resource.
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.gather(*self._keepers, return_exceptions=True)
            await self.webhook.process.stop()
            if self._delete_sessions_at_exit and self._can_delete():
                for pod in self.operators:
                    pod.process.thaw()
                if not await self.delete_sessions():
                    self._report("Some sessions could not be deleted in time.")
        finally:
            await asyncio.gather(*(pod.process.stop() for pod in (self.webhook, *self.operators)))
            if not self.simulated and self._delete_sessions_at_exit:
                await self._kill_sandboxes()

    def _can_delete(self) -> bool:
        """Return whether the API server runs and an operator can remove the finalizers."""
        return len(self.control_plane.process_ids) > 1 and any(pod.running for pod in self.operators)

    async def _kill_sandboxes(self) -> None:
        from managed_session_devkit.system import orphaned_sandboxes  # noqa: PLC0415 - E2B's SDK takes a second

        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                left = await orphaned_sandboxes.kill_sandboxes(
                    self.installation_id, **self.clouds.e2b_options
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest has to stop too
            self._report(f"Cannot check E2B for leftover sandboxes: {type(error).__name__}")
        else:
            if left:
                self._report(f"Killed {left} leftover sandboxes.")

    def _report_part(self, what: str, began: float) -> None:
        self._report(f"{what} ({time.monotonic() - began:.1f} s)")


def _import_ensure_template() -> Callable[..., Awaitable[bool]]:
    from managed_session_cli.worker_template import ensure_template  # noqa: PLC0415 - E2B's SDK takes a second

    return ensure_template
