"""A real Prometheus and its promtool: the system's own, or those of Debian's package in the cache."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from managed_session_devkit.control_plane.processes import ServerProcess
from managed_session_devkit.system.ports import free_port

from .debian_packages import run, unpacked
from .waiting import eventually


@cache
def prometheus_folder() -> Path:
    """The folder of both programs."""
    found = shutil.which("promtool")
    if found is not None and shutil.which("prometheus", path=str(Path(found).parent)):
        return Path(found).parent
    return unpacked("prometheus") / "usr" / "bin"


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool in this folder."""
    return run([str(prometheus_folder() / "promtool"), *arguments], folder)


class Prometheus:
    """A running Prometheus that scrapes these addresses each second, by name of the pod.

    Args:
        folder: for its configuration, data and log.
        targets: host and port of each pod's metrics, by the pod's name.
        namespace: the label `namespace` that each series gets, as from a PodMonitor.
        rules: recording and alerting rules, as `spec` of a PrometheusRule has them.
    """

    def __init__(self, folder: Path, targets: dict[str, str], namespace: str, rules: dict[str, Any]) -> None:
        self._pods, port = len(targets), free_port()
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
        jobs = [
            {"targets": [address], "labels": {"namespace": namespace, "pod": pod}}
            for pod, address in targets.items()
        ]
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "managed-sessions", "static_configs": jobs}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self.url = f"http://127.0.0.1:{port}"
        command = [
            str(prometheus_folder() / "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._process = ServerProcess("prometheus", command, folder)
        self._client = httpx.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._process.start()
        await self._process.until_ready(self._answers(), 120)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._process.stop(kill=True)

    async def _answers(self) -> None:
        await eventually("Prometheus is ready", self._ready)

    async def _ready(self) -> bool | None:
        try:
            return (await self._client.get("/-/ready")).is_success
        except httpx.TransportError:
            return None

    async def query(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query; fails with what Prometheus says about an invalid one."""
        return list((await self.get("/query", query=query))["result"])

    async def now(self) -> float:
        """The time of Prometheus."""
        return float((await self.query("vector(time())"))[0]["value"][0])

    async def scraped(self, since: float) -> None:
        """Wait until each pod was scraped after this time."""

        async def look() -> bool:
            times = [float(each["value"][1]) for each in await self.query("timestamp(up == 1)")]
            return len(times) == self._pods and min(times) > since

        await eventually("each pod was scraped", look)

    async def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """The data of an answer of the API."""
        answer = await self._client.get(f"/api/v1{path}", params=parameters)
        assert answer.is_success, answer.text
        data: dict[str, Any] = json.loads(answer.text)["data"]
        return data
