"""The cluster of the current kubeconfig, as plain objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import config
from kubernetes.client.exceptions import ApiException

from managed_session_cli.errors import ClusterError, CommandError

Object = dict[str, Any]

FIELD_MANAGER = "managed-sessions"
"""Owns the fields that `install` applies."""

_SECONDS = 30.0
_PAGE = 500
_MALFORMED = (TypeError, AttributeError, LookupError)
"""What the Kubernetes client raises for a file that is YAML and something else."""


@dataclass(frozen=True)
class Reference:
    """Names one object of the cluster; `namespace` is empty for what belongs to the whole cluster."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    @classmethod
    def to(cls, manifest: Object) -> Reference:
        """The reference to a manifest's object."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata["name"], metadata.get("namespace", ""))

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.kind} {self.name}{where}"


@dataclass(frozen=True)
class Access:
    """One right, as a SelfSubjectAccessReview asks for it."""

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

    Raises:
        CommandError: there is no usable kubeconfig.
    """

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None) -> None:
        try:
            self._api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None, context=context, persist_config=False
            )
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError, *_MALFORMED) as error:
            named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            said = "it is no kubeconfig" if isinstance(error, _MALFORMED) else str(error).rstrip(".")
            raise CommandError(
                f"the kubeconfig {named} cannot be used: {said}. Name one with --kubeconfig or KUBECONFIG, "
                "and its context with --context."
            ) from None
        self._api.user_agent = "managed-sessions-cli"
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def version(self) -> str:
        """The API server's version, such as `v1.37.2`."""
        return str(self._call("GET", "/version", "the version")["gitVersion"])

    def may(self, access: Access) -> bool:
        """Whether the kubeconfig's user has this right."""
        asked = {
            "verb": access.verb,
            "group": access.group,
            "resource": access.resource,
            "namespace": access.namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._call("POST", path, "a question about its rights", body=review)
        return bool(answer["status"]["allowed"])

    def get(self, reference: Reference) -> Object | None:
        """The object; None where there is none, or where its kind is unknown to the server."""
        try:
            return self._call("GET", self._path(reference), f"reading {reference}")
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, api_version: str, kind: str, namespace: str = "", *, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """All objects of a kind, of one namespace or of all; none where the kind is unknown to the server."""
        query: list[tuple[str, str]] = [("limit", str(_PAGE))]
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items())))
        found: list[Object] = []
        following = ""
        while True:
            try:
                page = self._call(
                    "GET",
                    self._collection(api_version, kind, namespace),
                    f"listing {kind}s" + (f" in {namespace}" if namespace else ""),
                    query=[*query, *([("continue", following)] if following else [])],
                )
            except ClusterError as error:
                if error.status == 404:
                    return []
                raise
            found += page["items"]
            following = page["metadata"].get("continue", "")
            if not following:
                return found

    def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply as our field manager, taking over fields that others have set.

        Args:
            manifest: what is wanted.
            dry_run: let the server check and complete it without storing it.
        """
        reference = Reference.to(manifest)
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), ("fieldValidation", "Strict")]
        if dry_run:
            query.append(("dryRun", "All"))
        return self._call(
            "PATCH",
            self._path(reference),
            f"applying {reference}",
            query=query,
            body=manifest,
            content_type="application/apply-patch+yaml",
            quote=reference.kind != "Secret",
        )

    def create(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object."""
        reference = Reference.to(manifest)
        return self._call(
            "POST",
            self._collection(reference.api_version, reference.kind, reference.namespace),
            f"creating {reference}",
            query=[("fieldManager", FIELD_MANAGER), *([("dryRun", "All")] if dry_run else [])],
            body=manifest,
            quote=reference.kind != "Secret",
        )

    def merge(
        self, reference: Reference, patch: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        """Apply a JSON merge patch."""
        return self._call(
            "PATCH",
            self._path(reference) + (f"/{subresource}" if subresource else ""),
            f"changing {reference}",
            query=[("fieldManager", FIELD_MANAGER), *([("dryRun", "All")] if dry_run else [])],
            body=patch,
            content_type="application/merge-patch+json",
            quote=reference.kind != "Secret",
        )

    def delete(self, reference: Reference) -> bool:
        """Ask for an object's deletion, its dependents with it; whether there was one."""
        try:
            self._call(
                "DELETE",
                self._path(reference),
                f"deleting {reference}",
                query=[("propagationPolicy", "Background")],
            )
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def proxied(self, namespace: str, service: str, port: str, path: str) -> tuple[int, str]:
        """What a Service's pod answers through the API server: status and text."""
        proxy = f"/api/v1/namespaces/{namespace}/services/http:{service}:{port}/proxy{path}"
        try:
            return 200, self._text("GET", proxy, f"asking {service} through the API server")
        except ClusterError as error:
            if error.status is None:
                raise
            return error.status, str(error)

    def _path(self, reference: Reference) -> str:
        collection = self._collection(reference.api_version, reference.kind, reference.namespace)
        return f"{collection}/{reference.name}"

    def _collection(self, api_version: str, kind: str, namespace: str) -> str:
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        if kind not in self._kinds.get(api_version, {}):
            # Asked again for an unknown kind: it may have been added since.
            self._kinds[api_version] = dict(self._discover(root))
        if kind not in self._kinds[api_version]:
            raise ClusterError(f"{self.server} knows no {kind} of {api_version}", 404)
        plural, namespaced = self._kinds[api_version][kind]
        return f"{root}/namespaces/{namespace}/{plural}" if namespaced and namespace else f"{root}/{plural}"

    def _discover(self, root: str) -> Iterator[tuple[str, tuple[str, bool]]]:
        for resource in self._call("GET", root, "which kinds it has")["resources"]:
            if "/" not in resource["name"]:
                yield resource["kind"], (resource["name"], resource["namespaced"])

    def _call(self, method: str, path: str, operation: str, **options: Any) -> Object:
        answer: Object = json.loads(self._text(method, path, operation, **options) or "{}")
        return answer

    def _text(
        self,
        method: str,
        path: str,
        operation: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        content_type: str = "application/json",
        quote: bool = True,
    ) -> str:
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=_SECONDS)
            text = (response.read() or b"").decode(errors="replace")
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(
                f"the API server {self.server} cannot be reached for {operation} ({type(error).__name__}). "
                "Is it the right cluster? See --kubeconfig and --context."
            ) from None
        if 200 <= response.status < 300:
            return text
        said = f": {_message(text)}" if quote and _message(text) else ""
        raise ClusterError(
            f"the API server answered {operation} with HTTP {response.status}{said}", response.status
        )


def _message(text: str) -> str:
    """What a Status object says; other answers may be anything, and are not repeated."""
    with suppress(ValueError, AttributeError):
        return str(json.loads(text).get("message", ""))[:500]
    return ""
