"""Reads from the standard variables whether traces are on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def traces_on(environ: Mapping[str, str]) -> bool:
    """Return whether the `OTEL_*` variables ask for traces, in a way that the operator supports.

    They do if an OTLP endpoint is set, `OTEL_SDK_DISABLED` is not true, and `OTEL_TRACES_EXPORTER` is unset
    or `otlp`. The SDK reads all other variables itself. A value that is not supported turns traces off with a
    warning, because no session should suffer from a wrong value.
    """
    if not any(_value(environ, name) for name in _ENDPOINTS) or _is_disabled(environ):
        return False
    exporter = _value(environ, "OTEL_TRACES_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        logger.warning("no traces: OTEL_TRACES_EXPORTER must be otlp or none")
    protocol = next((value for name in _PROTOCOLS if (value := _value(environ, name))), _PROTOCOL)
    if protocol != _PROTOCOL:
        logger.warning(
            "no traces: the OTLP protocol must be http/protobuf, usually on port 4318",
            extra={"protocol": protocol},
        )
    return exporter == "otlp" and protocol == _PROTOCOL


def _is_disabled(environ: Mapping[str, str]) -> bool:
    return _value(environ, "OTEL_SDK_DISABLED").lower() == "true"


def _value(environ: Mapping[str, str], name: str) -> str:
    """Return a variable's value. An empty one counts as unset, as the specification says."""
    return environ.get(name, "").strip()
