"""The whole system on one machine: control plane, clouds, webhook and operator."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx
from managed_session_api.names import PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

from managed_session_local.clouds import (
    SIGNING_KEY,
    SIMULATED_E2B_KEY,
    Clouds,
    simulated_clouds,
)
from managed_session_local.control_plane import (
    ControlPlane,
    ControlPlaneBinaries,
    KubectlError,
    ProcessFailedError,
)
from managed_session_local.control_plane.working_folder import working_folder
from managed_session_local.manifests import install, write_kubeconfig
from managed_session_local.pod import Pod, base_environment
from managed_session_local.pods import OPERATOR, WEBHOOK, Pods
from managed_session_local.side_by_side import side_by_side
from managed_session_local.simulator_process import SimulatorProcess
from managed_session_local.simulators.anthropic.client import AnthropicSimulator, WebhookEndpoint
from managed_session_local.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_local.simulators.e2b.client import E2BSimulatorClient

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_DELETE_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_PREFIX = "MANAGED_SESSIONS_"


class LocalSystem:
    """The whole system, for as long as the `async with` block lasts.

    Webhook and operator are the real processes; each has a kubeconfig with a token of exactly its own
    ServiceAccount, a directory with exactly its own credentials, and only the environment variables that it
    needs. At the block's end the sessions' resources are deleted first (which kills their sandboxes), then
    everything stops. All processes also end when this process does.

    Args:
        control_plane: a running one, which is left as it is; by default one of its own.
        binaries: for a control plane of its own; by default they are looked for.
        clouds: what to talk to; by default two simulators of its own.
        namespace: of the resources.
        system_namespace: of the pods.
        installation_id: marks the sandboxes; by default a new one.
        operators: how many operators to start.
        webhook_settings: `MANAGED_SESSIONS_…` of the webhook, in lower case without the prefix.
        operator_settings: the same of every operator.
        anthropic_settings: of the simulator, as its `settings.Settings`.
        e2b_settings: of the simulator, as its `settings.Settings`.
        register_webhook: register the webhook in the simulator and give it the signing key.
        delete_sessions_at_exit: see above; without it the sandboxes end with the simulator.
        api_server_urls: by pod name (`webhook`, `operator-1`, …), where a pod reaches the API server through
            something between them; by default directly.
        restart_pods: start a webhook or operator again that ended by itself, as Kubernetes does.
        report: gets a line of text for each part that is ready.
        environ: the environment variables of this process, or a test's own.
    """

    kubeconfig: Path
    """Kubeconfig of an administrator, whose namespace is `namespace`."""
    webhook_url: str
    """What to register in the Claude Console, or rather a public address that leads to it."""
    clouds: Clouds
    webhook: Pod
    operators: list[Pod]
    control_plane: ControlPlane
    folder: Path
    """Temporary folder with logs, credentials and kubeconfigs."""

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
        register_webhook: bool = True,
        delete_sessions_at_exit: bool = True,
        api_server_urls: Mapping[str, str] | None = None,
        restart_pods: bool = False,
        report: Callable[[str], None] = lambda _: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
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
        self._e2b_settings = {"api_keys": [SIMULATED_E2B_KEY], **(e2b_settings or {})}
        self._register_webhook = register_webhook
        self._delete_sessions_at_exit = delete_sessions_at_exit
        self._api_server_urls = dict(api_server_urls or {})
        self._restart_pods = restart_pods
        self._report = report
        self._environ = environ
        self._exit_stack = AsyncExitStack()
        self._keepers: list[asyncio.Task[None]] = []
        self._user: AsyncAnthropic | None = None

    async def __aenter__(self) -> Self:
        """Start everything and return when webhook and operators are ready.

        Raises:
            BinariesUnavailableError: no control plane can be had.
            ProcessFailedError: a process ended or was not ready in time; the text shows its last lines.
            KubectlError: the manifests were refused.
            TemplateError: the worker template could not be looked up or built.
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
        """Log files by process name."""
        processes = [pod.process for pod in (self.webhook, *self._more_webhooks, *self.operators)]
        if self.simulated:
            processes += [self._anthropic.process, self._e2b.process]
        return {process.name: process.log for process in processes}

    @property
    def agent_id(self) -> str:
        """The agent that the Anthropic simulator has from the start."""
        return self._anthropic_settings.agent_id

    @property
    def api_key(self) -> str:
        """The Anthropic simulator's API key, for playing the user."""
        return self._anthropic_settings.api_key

    @property
    def user(self) -> "AsyncAnthropic":
        """A client with the simulator's API key, for playing the user."""
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
        self.webhook.set_credential(SIGNING_KEY, endpoint.secret)
        return endpoint

    async def webhook_status(self) -> int:
        """What the webhook answers to an unsigned event: 503 without a signing key, else 401."""
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
        """Start one more webhook like the first one; returns it and its URL (raises as `start_operator`)."""
        pod, url = self._pods.webhook(self._webhook_kubeconfig, self._webhook_settings)
        pod.change_settings(**settings)
        pod.take_credentials_of(self.webhook)
        self._exit_stack.push_async_callback(pod.process.stop)
        self._more_webhooks.append(pod)
        await pod.start()
        await pod.wait_ready()
        return pod, url

    async def delete_sessions(self, timeout_seconds: float = _DELETE_SECONDS) -> bool:
        """Delete every session's resource and wait until the operator has let go of all; whether it has."""
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
        """Wait until a process ends by itself that cannot be started again; returns what to say about it."""
        waits = [asyncio.ensure_future(self.control_plane.failure())]
        if self.simulated:
            waits += [asyncio.ensure_future(each.process.wait()) for each in (self._anthropic, self._e2b)]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def _start(self) -> None:
        stack = self._exit_stack
        self.folder = stack.enter_context(working_folder())
        # In the order of their ends, last first.
        control_plane_stack = await stack.enter_async_context(AsyncExitStack())
        simulators_stack = await stack.enter_async_context(AsyncExitStack())
        pods_stack = await stack.enter_async_context(AsyncExitStack())
        self._clouds_ready: asyncio.Future[Clouds] = asyncio.get_running_loop().create_future()
        await side_by_side(
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
        # The SDK takes a second to import, the control plane a few to start.
        from_e2b = await asyncio.to_thread(_import_worker_template)
        name = self._operator_settings.get("template") or self._environ.get(f"{_PREFIX}TEMPLATE")
        built = await from_e2b.ensure_template(name, **self.clouds.e2b_options)
        self._say("worker template built" if built else "worker template found", began)

    async def _start_simulators(self, stack: AsyncExitStack) -> None:
        began = time.monotonic()
        environment = base_environment(self._environ)
        self._anthropic = SimulatorProcess(
            "anthropic", self.folder, self._anthropic_settings.model_dump(mode="json"), environment
        )
        self._e2b = SimulatorProcess(
            "e2b", self.folder, self._e2b_settings, environment, f"--state-dir={self.folder}"
        )
        for simulator in (self._anthropic, self._e2b):
            stack.push_async_callback(simulator.stop)
        await side_by_side(self._anthropic.start(), self._e2b.start())
        self.anthropic_admin = await stack.enter_async_context(AnthropicSimulator(self._anthropic.url))
        self.e2b_admin = await stack.enter_async_context(E2BSimulatorClient(self._e2b.url))
        self.clouds = simulated_clouds(self._anthropic.url, self._e2b.url, self._anthropic_settings)
        self._say("simulators of Anthropic and E2B ready", began)

    async def _start_pods(self, control_plane_stack: AsyncExitStack, stack: AsyncExitStack) -> None:
        began = time.monotonic()
        if self._shared_control_plane is not None:
            self.control_plane = self._shared_control_plane
        else:
            self.control_plane = await control_plane_stack.enter_async_context(ControlPlane(self._binaries))
            self._say("control plane ready", began)
        self.kubeconfig = self.folder / "kubeconfig"
        write_kubeconfig(self.control_plane, self.namespace, self.kubeconfig)
        began = time.monotonic()
        await install(self.control_plane, self.namespace, self.system_namespace)
        self._webhook_kubeconfig, self._operator_kubeconfig = await asyncio.gather(
            self.control_plane.service_account_kubeconfig(self.system_namespace, WEBHOOK),
            self.control_plane.service_account_kubeconfig(self.system_namespace, OPERATOR),
        )
        self._say("manifests applied", began)
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
        )
        self.webhook, self.webhook_url = self._pods.webhook(self._webhook_kubeconfig, self._webhook_settings)
        self.operators = [self._new_operator() for _ in range(self._operator_count)]
        stack.push_async_callback(self._stop_pods)
        pods = [self.webhook, *self.operators]
        await asyncio.gather(*(pod.start() for pod in pods))
        if self.simulated and self._register_webhook:
            await self.add_signing_key()
        await side_by_side(*(pod.wait_ready() for pod in pods))
        if self._restart_pods:
            self._keepers = [asyncio.create_task(self._keep_running(pod)) for pod in pods]
        self._say("webhook and operator ready", began)

    def _new_operator(self) -> Pod:
        return self._pods.operator(self._operator_kubeconfig, self._operator_settings)

    async def _keep_running(self, pod: Pod) -> None:
        delay = 0.5
        while True:
            failure = await pod.process.wait()
            self._report(f"{failure} Starting it again in {delay:g} s.")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30.0)
            await pod.process.stop(kill=True)
            await pod.start()

    async def _stop_pods(self) -> None:
        try:
            # First the door, then what is inside.
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.gather(*self._keepers, return_exceptions=True)
            await self.webhook.process.stop()
            if self._delete_sessions_at_exit and self._can_delete():
                for pod in self.operators:
                    pod.process.thaw()
                if not await self.delete_sessions():
                    self._report("not every session could be deleted in time")
        finally:
            await asyncio.gather(*(pod.process.stop() for pod in (self.webhook, *self.operators)))
            if not self.simulated and self._delete_sessions_at_exit:
                await self._kill_sandboxes()

    def _can_delete(self) -> bool:
        """Whether there is an API server and somebody who lets go of the finalizers."""
        return len(self.control_plane.process_ids) > 1 and any(pod.running for pod in self.operators)

    async def _kill_sandboxes(self) -> None:
        from_e2b = _import_worker_template()
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                left = await from_e2b.kill_sandboxes(self.installation_id, **self.clouds.e2b_options)
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest still has to stop
            self._report(f"E2B could not be asked for left sandboxes: {type(error).__name__}")
        else:
            if left:
                self._report(f"killed {left} sandboxes that were left")

    def _say(self, what: str, began: float) -> None:
        self._report(f"{what} ({time.monotonic() - began:.1f} s)")


def _import_worker_template() -> Any:
    from managed_session_local import worker_template  # noqa: PLC0415 - E2B's SDK takes a second

    return worker_template
