"""Reads and changes the cluster of the current kubeconfig, as plain objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from managed_session_api.names import MANAGED_BY

from managed_session_cli.api_server import PATIENT, ApiServerError, api_client
from managed_session_cli.errors import ClusterError, CommandError, NotFoundError

Object = dict[str, Any]

FIELD_MANAGER = MANAGED_BY
"""Owns the fields that `install` applies."""

_PAGE = 500
QUICK = (1.0, 2.0)
"""Seconds to connect, and to wait for an answer, while somebody waits for a completion."""
_WATCH_SECONDS = 240
_SILENCE_SECONDS = 270.0
_NO_CACHE = f"{os.devnull}/discovery"
"""Can be neither read nor written. By default the library caches what it discovers in a file of the shared
temporary folder, which is out of date after an upgrade, and which another user may have written."""

_MALFORMED = (TypeError, AttributeError, LookupError)
"""What the library raises for a file or an answer that is well-formed and of another kind."""


@dataclass(frozen=True)
class Reference:
    """Names one object of the cluster; `namespace` is empty for a cluster-scoped one."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    @classmethod
    def to(cls, manifest: Object) -> Reference:
        """Return the reference to a manifest's object."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata["name"], metadata.get("namespace", ""))

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.kind} {self.name}{where}"


@dataclass(frozen=True)
class Permission:
    """One permission, as a SelfSubjectAccessReview asks for it."""

    verb: str
    group: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


class Cluster:
    """Calls to one API server; each has a time limit, and its errors never quote a Secret.

    Args:
        kubeconfig: file; by default KUBECONFIG or `~/.kube/config`.
        context: of the kubeconfig; by default its current one.
        timeout: seconds to connect, and to wait for an answer.

    Raises:
        CommandError: there is no usable kubeconfig.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        context: str | None = None,
        timeout: tuple[float, float] = PATIENT,
    ) -> None:
        try:
            self._api = api_client(kubeconfig, context, timeout=timeout)
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError, *_MALFORMED) as error:
            named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            problem = "it is not a kubeconfig" if isinstance(error, _MALFORMED) else str(error).rstrip(".")
            raise CommandError(
                f"cannot use the kubeconfig {named}: {problem}. Choose another one with --kubeconfig or "
                "KUBECONFIG, or another context with --context."
            ) from None
        self._api.user_agent = "managed-sessions-cli"

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def version(self) -> str:
        """Return the API server's version, such as `v1.37.2`."""
        with self._explained("read the cluster's version"):
            return str(self._client.version["kubernetes"]["gitVersion"])

    def may(self, permission: Permission) -> bool:
        """Return whether the kubeconfig's user has this permission."""
        review = {"spec": {"resourceAttributes": asdict(permission)}}
        with self._explained("check permissions"):
            kind = self._resource("authorization.k8s.io/v1", "SelfSubjectAccessReview")
            return bool(kind.create(body=review, serializer=_plain)["status"]["allowed"])

    def account_may(self, account: str, permission: Permission) -> bool:
        """Return whether a ServiceAccount, given as `NAMESPACE:NAME`, has this permission."""
        namespace = account.partition(":")[0]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{account}",
                "groups": [
                    "system:authenticated",
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{namespace}",
                ],
                "resourceAttributes": asdict(permission),
            },
        }
        return bool(self.create_answered(review)["status"]["allowed"])

    def get(self, reference: Reference) -> Object | None:
        """Return the object; None if it does not exist, or the server does not know its kind."""
        with suppress(NotFoundError), self._explained(f"read {reference}"):
            found: Object = self._resource_of(reference).get(**_names(reference), serializer=_plain)
            return found
        return None

    def list(
        self,
        api_version: str,
        kind: str,
        namespace: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """Return all objects of a kind, in one namespace or in all; none if the server does not know it."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        field_selector = ",".join(f"{key}={value}" for key, value in (fields or {}).items())
        found: list[Object] = []
        following = None
        where = f" in {namespace}" if namespace else ""
        with suppress(NotFoundError), self._explained(f"list {kind}s{where}"):
            resource = self._resource(api_version, kind)
            while True:
                page = resource.get(
                    namespace=namespace,
                    label_selector=selector or None,
                    field_selector=field_selector or None,
                    limit=_PAGE,
                    _continue=following,
                    serializer=_plain,
                )
                found += page["items"]
                following = page["metadata"].get("continue")
                if not following:
                    return found
        return []

    def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Apply a manifest on the server as our field manager, and take over fields that others have set.

        Args:
            manifest: what is wanted.
            dry_run: let the server validate and complete it without storing it.
        """
        reference = Reference.to(manifest)
        with self._explained(f"apply {reference}", quote=reference.kind != "Secret"):
            applied: Object = self._resource_of(reference).server_side_apply(
                body=manifest,
                **_names(reference),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
                dry_run="All" if dry_run else None,
                query_params=[("fieldValidation", "Strict")],
                serializer=_plain,
            )
        return applied

    def create(self, manifest: Object) -> None:
        """Create an object."""
        reference = Reference.to(manifest)
        with self._explained(f"create {reference}", quote=reference.kind != "Secret"):
            self._resource_of(reference).create(
                body=manifest, namespace=reference.namespace, field_manager=FIELD_MANAGER
            )

    def merge(self, reference: Reference, patch: Object, *, subresource: str = "") -> None:
        """Apply a JSON merge patch."""
        with self._explained(f"change {reference}", quote=reference.kind != "Secret"):
            resource = self._resource_of(reference)
            target = resource.subresources[subresource] if subresource else resource
            target.patch(
                body=patch,
                **_names(reference),
                field_manager=FIELD_MANAGER,
                content_type="application/merge-patch+json",
            )

    def delete(self, reference: Reference) -> bool:
        """Request an object's deletion, with its dependents; return whether it existed."""
        with suppress(NotFoundError), self._explained(f"delete {reference}"):
            self._resource_of(reference).delete(**_names(reference), propagation_policy="Background")
            return True
        return False

    def create_answered(self, manifest: Object) -> Object:
        """Create an object that the server only answers, such as a review, and return its answer."""
        with self._explained(f"ask the API server for a {manifest['kind']}"):
            kind = self._resource(manifest["apiVersion"], manifest["kind"])
            answer: Object = kind.create(body=manifest, serializer=_plain)
        return answer

    def read(self, path: str, query: Mapping[str, str], *, accept: str, what: str) -> Object:
        """Return the JSON answer to a GET, without asking first which kinds the server has.

        Args:
            path: of the API.
            query: parameters.
            accept: the media type.
            what: what is read, for errors.
        """
        with self._explained(f"read {what}"):
            answer = self._api.call_api(*self._request(path, query, accept))
            found: Object = json.loads(answer.data or b"")
        return found

    def read_text(self, path: str, query: Mapping[str, str], *, what: str) -> str:
        """Return the text that answers a GET, such as a pod's log."""
        with self._explained(f"read {what}"):
            answer = self._api.call_api(*self._request(path, query, "*/*"))
            return (answer.data or b"").decode(errors="replace")

    def watch(self, path: str, query: Mapping[str, str], *, accept: str, what: str) -> Iterator[Object]:
        """Yield the events of a watch until the API server ends it, after some minutes (as `read`)."""
        watching = {**query, "watch": "1", "timeoutSeconds": str(_WATCH_SECONDS)}
        with self._explained(f"watch {what}"):
            request = self._request(path, watching, accept)
            for line in self._api.lines(*request, silence=_SILENCE_SECONDS):
                yield json.loads(line)

    def _request(self, path: str, query: Mapping[str, str], accept: str) -> tuple[Any, ...]:
        serialized: tuple[Any, ...] = self._api.param_serialize(
            "GET",
            path,
            query_params=list(query.items()),
            header_params={"Accept": accept},
            auth_settings=["BearerToken"],
        )
        return serialized

    def proxied(self, namespace: str, service: str, port: str, path: str) -> tuple[int, str]:
        """Return what a Service's pod answers through the API server: status and text.

        The status is 404 without the Service, and 503 if it has no ready endpoint. Before Kubernetes 1.37, an
        API server also answers 404 for a Service that has never had an endpoint.
        """
        proxy = f"/api/v1/namespaces/{namespace}/services/http:{service}:{port}/proxy{path}"
        try:
            with self._explained(f"call {service} through it"):
                answer = self._client.request("get", proxy, serialize=False)
        except ClusterError as error:
            if error.status is None:
                raise
            status = error.status
            if status == 404 and self._exists(Reference("v1", "Service", service, namespace)):
                status = 503
            return status, str(error)
        return 200, answer.data.decode(errors="replace")

    def _exists(self, reference: Reference) -> bool:
        """Return whether the object exists; False if the user may not read it."""
        with suppress(ClusterError):
            return self.get(reference) is not None
        return False

    @cached_property
    def _client(self) -> Any:
        """The dynamic client, which reads the server's version and API groups when it is made."""
        return DynamicClient(self._api, cache_file=_NO_CACHE)  # type: ignore[no-untyped-call]

    def _resource_of(self, reference: Reference) -> Any:
        return self._resource(reference.api_version, reference.kind)

    def _resource(self, api_version: str, kind: str) -> Any:
        # Without the prefix, the library would read every group that has a version of the core group's name.
        prefix = "apis" if "/" in api_version else "api"
        return self._client.resources.get(prefix=prefix, api_version=api_version, kind=kind)

    @contextmanager
    def _explained(self, operation: str, *, quote: bool = True) -> Iterator[None]:
        """Turn every failure of the block into a ClusterError that names the operation."""
        try:
            yield
        except ApiServerError as error:
            if error.status is None:
                raise ClusterError(
                    f"cannot {operation}: the API server {self.server} cannot be reached ({error.detail}). "
                    "Is it the right cluster? See --kubeconfig and --context."
                ) from None
            detail = f": {error.detail}" if quote and error.detail else ""
            kind = NotFoundError if error.status == 404 else ClusterError
            raise kind(
                f"cannot {operation}: the API server answered with HTTP {error.status}{detail}", error.status
            ) from None
        except ResourceNotFoundError:
            raise NotFoundError(f"cannot {operation}: the cluster does not have its kind", 404) from None
        except (*_MALFORMED, ValueError) as error:
            raise ClusterError(
                f"cannot {operation}: {self.server} does not answer like a Kubernetes API server"
            ) from error


def _plain(_: object, answer: Object) -> Object:
    """Keep an answer as it is, instead of the library's object with attributes."""
    return answer


def _names(reference: Reference) -> dict[str, str]:
    return {"name": reference.name, "namespace": reference.namespace}
