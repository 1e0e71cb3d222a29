"""A real Kubernetes control plane on one machine: etcd, kube-apiserver and kubectl, without containers.

Resources, validation, watches, RBAC and tokens are real. There is no controller manager and no kubelet, so
pods do not run, nothing is collected by owner reference, a namespace has no `default` ServiceAccount, a
deleted namespace stays Terminating, and the aggregated roles (view, edit, admin) are empty.
"""

from managed_session_devkit.control_plane.binaries import ControlPlaneBinaries, resolve_binaries
from managed_session_devkit.control_plane.control_plane import ControlPlane, KubectlError
from managed_session_devkit.control_plane.crds import established
from managed_session_devkit.control_plane.errors import BinariesUnavailableError, ProcessFailedError
from managed_session_devkit.control_plane.settings import ControlPlaneSettings

__all__ = [
    "BinariesUnavailableError",
    "ControlPlane",
    "ControlPlaneBinaries",
    "ControlPlaneSettings",
    "KubectlError",
    "ProcessFailedError",
    "established",
    "resolve_binaries",
]
