"""Settings from environment variables with the prefix MANAGED_SESSIONS_."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from managed_session_api import names
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from managed_session_runtime.log import LogFormat, LogLevel

PREFIX = "MANAGED_SESSIONS_"
EXIT_CODE = 2
"""Of a process whose settings are wrong."""


class Settings(BaseSettings):
    """What every process of the installation can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        validate_default=True,
    )

    namespace: str = Field(
        names.RESOURCE_NAMESPACE,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Namespace of the ManagedSession resources.",
    )
    credentials_dir: Path = Field(
        Path("/etc/managed-sessions/credentials"),
        description="Directory with one file per credential; it is read again when a file changes.",
    )
    log_format: LogFormat = Field(LogFormat.JSON, description="Form of a log line on stderr.")
    log_level: LogLevel = Field(LogLevel.INFO, description="Least severe level that is logged.")
    probe_host: str = Field(
        "::",
        min_length=1,
        description="Address that /livez, /readyz and /metrics are served on; `::` is every address.",
    )
    probe_port: int = Field(
        8080, ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 picks a free one."
    )
    kubernetes_connections: int = Field(
        64, ge=1, le=1000, description="Connections to the Kubernetes API server, at most."
    )
    kubernetes_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Longest wait for one answer of the Kubernetes API server."
    )


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


@dataclass(frozen=True)
class SettingDoc:
    """One row of the settings table in the documentation."""

    variable: str
    kind: str
    default: str
    description: str


def describe_settings(cls: type[BaseSettings]) -> list[SettingDoc]:
    """Every variable that `cls` reads: its name, kind and limits, default and meaning."""
    schema = cls.model_json_schema()
    rows = []
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(
            SettingDoc(
                variable=variable_name(cls, name),
                kind=_allowed(schema["properties"].get(name, {}), schema.get("$defs", {})),
                default="" if default is None else str(default),
                description=field.description or "",
            )
        )
    return rows


def variable_name(cls: type[BaseSettings], field: str) -> str:
    """The environment variable that sets `field`."""
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


def explain_invalid_settings(cls: type[BaseSettings], error: ValidationError) -> str:
    """What is wrong with which variable and what is allowed. Values are never repeated."""
    schema = cls.model_json_schema()
    lines = ["the settings are wrong:"]
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        field = str(problem["loc"][0]) if problem["loc"] else ""
        if field not in cls.model_fields:
            lines.append(f"  {problem['msg']}")
            continue
        allowed = _allowed(schema["properties"].get(field, {}), schema.get("$defs", {}))
        description = cls.model_fields[field].description or ""
        lines.append(f"  {variable_name(cls, field)}: {problem['msg']}. Allowed: {allowed}. {description}")
    return "\n".join(lines)


def explain_misspelt_settings(cls: type[BaseSettings], environ: Mapping[str, str]) -> list[str]:
    """A line for each variable with our prefix that nobody reads and that is close to one that `cls` does."""
    known = {variable_name(cls, field) for field in cls.model_fields}
    lines = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.93)
        if close:
            lines.append(f"{name} is not a setting and has no effect; did you mean {close[0]}?")
    return lines


def load_settings(cls: type[AnySettings]) -> AnySettings:
    """Read `cls` from the environment; explain on stderr and exit with code 2 where that fails.

    A variable that is almost one of `cls` is most likely a slip, which stderr says too.
    """
    for line in explain_misspelt_settings(cls, os.environ):
        sys.stderr.write(line + "\n")
    try:
        return cls()
    except ValidationError as error:
        _exit(explain_invalid_settings(cls, error))


def _exit(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(EXIT_CODE)


def _allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A property of a JSON schema in words."""
    for option in schema.get("anyOf", []):
        if option.get("type") != "null":
            return _allowed({**schema, "anyOf": [], **option}, definitions)
    reference = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", [])), None)
    if reference:
        return _allowed(definitions[reference.rsplit("/", 1)[-1]], definitions)
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"])
    kind = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(
        schema.get("type", ""), str(schema.get("type", "text"))
    )
    if schema.get("format") == "path":
        kind = "path"
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "pattern": "matching",
    }
    parts = [f"{words} {schema[key]}" for key, words in limits.items() if key in schema]
    return ", ".join((kind, *parts))
