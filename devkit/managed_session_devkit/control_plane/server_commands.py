"""The command lines of etcd and kube-apiserver."""

import json
from dataclasses import dataclass
from pathlib import Path

from managed_session_devkit.control_plane.binaries import ControlPlaneBinaries
from managed_session_devkit.control_plane.certificates import CertificateFiles

ETCD_SOCKET = "etcd-client:0"
"""Name of etcd's client socket in its working directory. etcd requires host:port for sockets too."""

_ETCD_PEER_SOCKET = "etcd-peer:0"


@dataclass(frozen=True)
class AuditLog:
    """What the API server's audit log records."""

    path: Path
    service_accounts_only: bool = False
    """Record only service accounts, not people such as the administrator."""


def etcd_command(binaries: ControlPlaneBinaries, folder: Path) -> list[str]:
    """Return the command of etcd: one member, on Unix sockets that only this user can reach."""
    client, peer = f"unix://{ETCD_SOCKET}", f"unix://{_ETCD_PEER_SOCKET}"
    return [
        str(binaries.etcd),
        "--name=local",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=local={peer}",
        # The data must survive a restart of etcd, but not a power cut.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver_command(
    binaries: ControlPlaneBinaries,
    folder: Path,
    certificates: CertificateFiles,
    port: int,
    audit: AuditLog | None,
) -> list[str]:
    """Return the command of kube-apiserver on 127.0.0.1 with TLS, RBAC and service account tokens.

    Everything else has its defaults. With `audit` it writes a line of JSON per request: user, request and
        response code, without bodies.
    """
    return [
        str(binaries.kube_apiserver),
        f"--etcd-servers=unix://{folder / ETCD_SOCKET}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # This program keeps the port reserved, even while the server is stopped.
        "--permit-port-sharing=true",
        # The default comes from the default route, which a machine without a network does not have.
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={certificates.server_certificate}",
        f"--tls-private-key-file={certificates.server_key}",
        f"--client-ca-file={certificates.ca}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={certificates.service_account_public_key}",
        f"--service-account-signing-key-file={certificates.service_account_key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--profiling=false",
        *(_audit_flags(folder, audit) if audit is not None else []),
    ]


_EVERYBODY = [{"level": "Metadata"}]
_SERVICE_ACCOUNTS = [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]


def _audit_flags(folder: Path, audit: AuditLog) -> list[str]:
    policy = folder / "audit-policy.json"
    policy.write_text(
        json.dumps(
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived"],
                "rules": _SERVICE_ACCOUNTS if audit.service_accounts_only else _EVERYBODY,
            }
        )
    )
    return [f"--audit-policy-file={policy}", f"--audit-log-path={audit.path}"]
