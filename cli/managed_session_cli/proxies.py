"""Keeps calls to this machine away from a proxy that the user's environment names."""

from collections.abc import Mapping

_LOOPBACK = "127.0.0.1,localhost"


def proxy_bypass(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that exempt this machine from the user's proxy."""
    present = environ.get("no_proxy") or environ.get("NO_PROXY")
    bypassed = ",".join(filter(None, (present, _LOOPBACK)))
    return {"no_proxy": bypassed, "NO_PROXY": bypassed}
