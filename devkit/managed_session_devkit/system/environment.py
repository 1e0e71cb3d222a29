"""The environment of the local system's processes."""

from collections.abc import Mapping

_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
"""Variables that a process needs to find its libraries and to trust certificates."""


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every process of the local system gets from this machine."""
    return {name: environ[name] for name in _PASSED_ON if name in environ}
