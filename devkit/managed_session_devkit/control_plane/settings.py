"""Settings of the local control plane, from environment variables."""

import platform
import sys
from pathlib import Path

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from managed_session_devkit.control_plane.errors import BinariesUnavailableError
from managed_session_devkit.control_plane.releases import DEFAULT, Release, release_of

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class ControlPlaneSettings(BaseSettings):
    """Where the control plane's binaries come from. The variables are `MANAGED_SESSIONS_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="MANAGED_SESSIONS_", env_ignore_empty=True, populate_by_name=True
    )

    kubernetes_version: str = Field(
        default=DEFAULT.kubernetes,
        description="Kubernetes release of kube-apiserver and kubectl: short, such as 1.32, or exact.",
    )
    kubernetes_download_url: str = Field(
        default="https://dl.k8s.io",
        description="Base address of Kubernetes release files: <base>/<version>/bin/linux/<arch>/<binary>.",
    )
    etcd_download_url: str = Field(
        default="https://github.com/etcd-io/etcd/releases/download",
        description="Base address of etcd releases: <base>/<version>/etcd-<version>-linux-<arch>.tar.gz.",
    )
    download_connect_seconds: float = Field(
        default=3.0,
        gt=0,
        description="How long a download server may take to accept a connection, name lookup included.",
    )
    control_plane_cache: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("managed-sessions") / "control-plane",
        description="Folder that keeps the binaries of each version.",
    )
    audit_folder: Path | None = Field(
        default=None,
        description="Folder in which every API server leaves an audit log of the service accounts' requests.",
    )
    kubebuilder_assets: Path | None = Field(
        default=None,
        validation_alias="KUBEBUILDER_ASSETS",
        description="Folder with kube-apiserver, etcd and kubectl to use instead of anything else.",
    )

    @field_validator("kubernetes_version", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        return release_of(value).kubernetes if isinstance(value, str) else value

    @property
    def release(self) -> Release:
        """The exact versions of Kubernetes and etcd."""
        return release_of(self.kubernetes_version)

    @property
    def cache_folder(self) -> Path:
        """The folder for these versions on this platform, `…/<version>-<os>-<arch>`."""
        name = f"{self.release.kubernetes}-etcd-{self.release.etcd}-{operating_system()}-{architecture()}"
        return self.control_plane_cache / name


def operating_system() -> str:
    """Return Go's name of this machine's operating system.

    Raises:
        BinariesUnavailableError: it is neither Linux nor macOS.
    """
    if sys.platform in ("linux", "darwin"):
        return sys.platform
    raise BinariesUnavailableError(f"the local control plane runs on Linux and macOS, not on {sys.platform}")


def architecture() -> str:
    """Return Go's name of this machine's processor architecture.

    Raises:
        BinariesUnavailableError: it is neither x86-64 nor ARM64.
    """
    machine = platform.machine().lower()
    if machine in _ARCHITECTURES:
        return _ARCHITECTURES[machine]
    raise BinariesUnavailableError(f"the local control plane runs on x86-64 and ARM64, not on {machine}")
