"""The releases of Kubernetes that the cluster tests run on, each with its etcd.

Both can be downloaded, and are checked against the checksum that is published beside the file. Both are
pinned in `go/` beside this module, for a build. To add one, run `devkit/pin_release.py` and name it here.
"""

from dataclasses import dataclass


def _minor(version: str) -> str:
    return ".".join(version.removeprefix("v").split(".")[:2])


@dataclass(frozen=True)
class Release:
    """Exact versions, with a leading v: of kube-apiserver and kubectl, and of the etcd below them."""

    kubernetes: str
    etcd: str

    @property
    def minor(self) -> str:
        """The short version, such as `1.37`."""
        return _minor(self.kubernetes)


DEFAULT = Release("v1.37.2", etcd="v3.6.16")
"""What the control plane is unless a setting says otherwise."""

RELEASES = {
    release.minor: release
    for release in (
        Release("v1.32.13", etcd="v3.5.24"),
        Release("v1.33.5", etcd="v3.6.16"),
        Release("v1.34.9", etcd="v3.6.16"),
        Release("v1.36.4", etcd="v3.6.16"),
        DEFAULT,
    )
}
"""The releases by short version, oldest first."""


def release_of(version: str) -> Release:
    """Return the release that `version` names: `1.32`, `1.32.13` or `v1.32.13`.

    An exact version need not be one of `RELEASES`; its etcd is that of its minor version there, or else the
    default's.

    Raises:
        ValueError: it is neither a known short version nor an exact one. The text says which there are.
    """
    bare = version.removeprefix("v")
    if bare in RELEASES:
        return RELEASES[bare]
    numbers = bare.split(".")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(
            f"name one of {', '.join(RELEASES)}, or an exact version such as {DEFAULT.kubernetes}"
        )
    return Release(f"v{bare}", etcd=RELEASES.get(_minor(bare), DEFAULT).etcd)
