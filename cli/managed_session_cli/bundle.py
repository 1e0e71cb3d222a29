"""`managed-sessions bundle`: an archive for support, with all about an installation but its secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.names import API_VERSION, CLASS_KIND, KIND, SHARED_KIND
from rich.console import Console

from managed_session_cli.bundle_objects import harmless, suspicious
from managed_session_cli.cluster import Cluster, Object
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import CRDS, OPERATOR, WEBHOOK, Installation
from managed_session_cli.keys import lines, values_of
from managed_session_cli.redaction import Scrubber
from managed_session_cli.wording import counted

_LOG_LINES = 20_000
_METRICS_PORT = 8080
_LIBRARIES = ("managed-sessions", "kubernetes", "e2b", "anthropic", "typer", "rich")
_README = """Support archive of managed-sessions

objects/     resources, classes, Events, Deployments, pods, settings, the Lease, definitions
logs/        of the operator's and the webhook's pods; `previous` is of the container before a restart
metrics/     of each pod
doctor.json  the checks of `managed-sessions doctor`
versions.json
missing.txt  what could not be read, and why

Secrets are listed with the names of their keys alone. Of objects, only fields that are known to be harmless
have their text. Values of Secrets, annotations, labels and environment variables, and whatever looks like a
credential, are replaced by [redacted] everywhere. Read the archive before you pass it on.
"""


def bundle(cluster: Cluster, installation: Installation, file: Path | None, console: Console) -> Path:
    """Write the archive, and return where.

    Raises:
        CommandError: the cluster cannot be reached, or the file exists or cannot be written.
    """
    at = datetime.now(UTC)
    path = file or Path(f"managed-sessions-{at:%Y%m%d-%H%M%S}.tar.gz")
    if path.exists():
        raise CommandError(f"{path} exists already. Choose another one with --file.")
    version = cluster.version()
    gathering = _Gathering(cluster, installation)
    for progress, part in gathering.parts(version):
        console.print(f"{progress} …", style="dim")
        part()
    content = gathering.scrubbed()
    _write(path, f"managed-sessions-{at:%Y%m%d-%H%M%S}", content, at)
    console.print(f"Wrote {path}: {counted(len(content), 'file')}.", markup=False)
    if gathering.missing:
        console.print(f"{counted(len(gathering.missing), 'part')} could not be read: see missing.txt in it.")
    return path


@dataclass
class _Gathering:
    """What is gathered, still with secrets in free text; it is written only after it is scrubbed."""

    cluster: Cluster
    installation: Installation
    files: dict[str, str] = field(default_factory=dict)
    objects: dict[str, list[Object]] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=lambda: _secret_values(credentials_in(os.environ)))

    def parts(self, version: str) -> list[tuple[str, Callable[[], None]]]:
        """Return what there is to do, each with what to say meanwhile."""
        return [
            ("Reading Secrets, to know what to leave out", self._secrets),
            ("Reading objects", self._objects),
            ("Reading pods, their logs and metrics", self._pods),
            ("Running the checks of doctor", self._doctor),
            ("Reading versions", lambda: self._versions(version)),
        ]

    def scrubbed(self) -> dict[str, str]:
        """Return the files' contents without secrets."""
        scrubber = Scrubber({part for each in self.known for part in (each, *lines(each))})
        shown = {
            name: scrubber.log(text) if name.startswith("logs/") else scrubber.text(text)
            for name, text in self.files.items()
        }
        for name, found in self.objects.items():
            # Text by text: the form of the file must not suffer from what is taken out.
            shown[name] = yaml.safe_dump_all(scrubber.all(found), sort_keys=False, allow_unicode=True)
        for name, report in self.reports.items():
            shown[name] = json.dumps(scrubber.all(report), indent=2)
        shown["missing.txt"] = scrubber.text("\n".join(self.missing) or "Nothing.") + "\n"
        return {"README.txt": _README, **dict(sorted(shown.items()))}

    @contextmanager
    def _attempt(self, what: str) -> Iterator[None]:
        try:
            yield
        except CommandError as error:
            self.missing.append(f"{what}: {error}")

    def _secrets(self) -> None:
        for namespace in (self.installation.system_namespace, self.installation.namespace):
            with self._attempt(f"Secrets in {namespace}"):
                found = self.cluster.list("v1", "Secret", namespace)
                for each in found:
                    self.known |= _secret_values(values_of(each))
                self._keep(f"secrets-{namespace}", "Secret", found)

    def _objects(self) -> None:
        system, own = self.installation.system_namespace, self.installation.namespace
        for name, version, kind, namespace in (
            ("managedsessions", API_VERSION, KIND, own),
            ("managedsessionclasses", API_VERSION, CLASS_KIND, own),
            ("managedsandboxes", API_VERSION, SHARED_KIND, own),
            ("events", "v1", "Event", own),
            ("events-system", "v1", "Event", system),
            ("deployments", "apps/v1", "Deployment", system),
            ("settings", "v1", "ConfigMap", system),
            ("leases", "coordination.k8s.io/v1", "Lease", system),
            ("endpoints", "discovery.k8s.io/v1", "EndpointSlice", system),
        ):
            with self._attempt(name):
                self._keep(name, kind, self.cluster.list(version, kind, namespace))
        with self._attempt("definitions"):
            found = [self.cluster.get(each) for each in CRDS]
            self._keep("definitions", "CustomResourceDefinition", [each for each in found if each])

    def _keep(self, name: str, kind: str, found: list[Object]) -> None:
        for each in found:
            self.known |= suspicious(each, kind)
        self.objects[f"objects/{name}.yaml"] = [harmless(each, kind) for each in found]

    def _pods(self) -> None:
        where = self.installation.system_namespace
        pods: list[Object] = []
        with self._attempt("pods"):
            for name in (OPERATOR, WEBHOOK):
                pods += self.cluster.list("v1", "Pod", where, labels={"app.kubernetes.io/name": name})
            self._keep("pods", "Pod", pods)
        for pod in pods:
            name = pod["metadata"]["name"]
            path = f"/api/v1/namespaces/{where}/pods/{name}"
            query = {"tailLines": str(_LOG_LINES), "timestamps": "false"}
            with self._attempt(f"log of {name}"):
                self.files[f"logs/{name}.log"] = self._text(f"{path}/log", query, f"the log of {name}")
            if _has_restarted(pod):
                with self._attempt(f"previous log of {name}"):
                    previous = self._text(f"{path}/log", {**query, "previous": "true"}, f"the log of {name}")
                    self.files[f"logs/{name}.previous.log"] = previous
            with self._attempt(f"metrics of {name}"):
                metrics = f"/api/v1/namespaces/{where}/pods/http:{name}:{_METRICS_PORT}/proxy/metrics"
                self.files[f"metrics/{name}.txt"] = self._text(metrics, {}, f"the metrics of {name}")

    def _text(self, path: str, query: dict[str, str], what: str) -> str:
        return self.cluster.read_text(path, query, what=what)

    def _doctor(self) -> None:
        from managed_session_cli.doctor import Examination  # noqa: PLC0415 - the SDKs of both clouds

        with self._attempt("doctor"):
            checks = Examination(self.cluster, self.installation).all(self.cluster.version())
            self.reports["doctor.json"] = [each.to_json() for each in checks]

    def _versions(self, kubernetes: str) -> None:
        images: set[str] = set()
        with self._attempt("images"):
            for name in (OPERATOR, WEBHOOK):
                images |= _images(self.cluster.get(self.installation.deployment(name)))
        self.reports["versions.json"] = {
            "kubernetes": kubernetes,
            "images": sorted(images),
            "python": platform.python_version(),
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "namespace": self.installation.namespace,
            "systemNamespace": self.installation.system_namespace,
        }


def _secret_values(values: dict[str, str]) -> set[str]:
    """Return the values, but for the environment's ID, which is stored beside the secrets and is none."""
    return {value for key, value in values.items() if key != Credential.ANTHROPIC_ENVIRONMENT_ID}


def _images(deployment: Object | None) -> set[str]:
    spec = deployment["spec"]["template"]["spec"] if deployment else {"containers": []}
    return {str(each["image"]) for each in spec["containers"]}


def _has_restarted(pod: Object) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any(each.get("restartCount") for each in statuses)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "unknown"


def _write(path: Path, folder: str, content: dict[str, str], at: datetime) -> None:
    """Write the archive, readable by its owner alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in content.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(at.timestamp()), 0o600
            archive.addfile(entry, io.BytesIO(data))
