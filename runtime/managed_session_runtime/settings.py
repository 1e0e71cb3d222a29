"""Reads settings from environment variables with the prefix MANAGED_SESSIONS_."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from managed_session_api import names
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from managed_session_runtime.log import LogFormat, LogLevel

PREFIX = "MANAGED_SESSIONS_"
EXIT_CODE = 2
"""Exit code of a process whose settings are invalid."""


class Settings(BaseSettings):
    """Settings of every process."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Variables of the version before, without the prefix, each with the field that it set. Still read."""

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
        description="Directory with one file per credential. A file is read again when it changes.",
    )
    log_format: LogFormat = Field(LogFormat.JSON, description="Format of log lines on stderr.")
    log_level: LogLevel = Field(LogLevel.INFO, description="Lowest severity that is logged.")
    probe_host: str = Field(
        "::",
        min_length=1,
        description="Address that serves /livez, /readyz and /metrics; `::` means all addresses.",
    )
    probe_port: int = Field(
        8080,
        ge=0,
        le=65535,
        description="Port that serves /livez, /readyz and /metrics; 0 picks a free port.",
    )
    kubernetes_connections: int = Field(
        64, ge=1, le=1000, description="Maximum number of connections to the Kubernetes API server."
    )
    kubernetes_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Timeout of one call to the Kubernetes API server, in seconds."
    )
    kubernetes_proxy_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="HTTP proxy for the Kubernetes API server. By default the connection is direct; "
        "HTTPS_PROXY is ignored.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read old names after new ones, so that a new name wins where both are set."""
        renamed = RenamedVariables(settings_cls, cls.renamed)
        return init_settings, env_settings, renamed, dotenv_settings, file_secret_settings


class RenamedVariables(PydanticBaseSettingsSource):
    """Reads settings from the names that their variables had in the version before."""

    def __init__(self, settings_cls: type[BaseSettings], renamed: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._old_names = {field: old for old, field in renamed.items()}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return the value of one field's old variable, or None."""
        old = self._old_names.get(field_name)
        value = os.environ.get(f"{PREFIX}{old}") if old is not None else None
        return value or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values of all old variables that are set, by field."""
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in values.items() if value is not None}


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


@dataclass(frozen=True)
class SettingDoc:
    """A row of the settings table in the documentation."""

    variable: str
    kind: str
    default: str
    description: str


def describe_settings(cls: type[BaseSettings]) -> list[SettingDoc]:
    """Describe every variable that `cls` reads."""
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
    """Return the environment variable that sets `field`."""
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


def explain_invalid_settings(cls: type[BaseSettings], error: ValidationError) -> str:
    """Explain what is wrong with which variable, and what is allowed. Never repeats a value."""
    schema = cls.model_json_schema()
    lines = ["invalid settings:"]
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
    """Return a warning for each variable with our prefix that looks like a misspelt setting."""
    known = {variable_name(cls, field) for field in cls.model_fields}
    renamed = _renamed(cls)
    lines = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name in renamed:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.93)
        if close:
            lines.append(f"{name} is not a setting and has no effect; did you mean {close[0]}?")
    return lines


def explain_renamed_settings(cls: type[BaseSettings], environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that is set under its old name."""
    lines = []
    for old, new in sorted(_renamed(cls).items()):
        if not environ.get(old):
            continue
        effect = "has no effect, because both are set" if environ.get(new) else "still works in this version"
        lines.append(f"{old} is now called {new}. The old name {effect}; set {new} and remove {old}.")
    return lines


def _renamed(cls: type[BaseSettings]) -> dict[str, str]:
    """Return the old variables of `cls`, each with the new one."""
    renamed: Mapping[str, str] = getattr(cls, "renamed", {})
    return {f"{PREFIX}{old}": variable_name(cls, field) for old, field in renamed.items()}


def load_settings(cls: type[AnySettings]) -> AnySettings:
    """Read `cls` from the environment. If a value is invalid, explain it on stderr and exit with code 2.

    Also warns on stderr about old names, and about variables that look like misspelt settings.
    """
    for line in (*explain_renamed_settings(cls, os.environ), *explain_misspelt_settings(cls, os.environ)):
        sys.stderr.write(line + "\n")
    try:
        return cls()
    except ValidationError as error:
        _exit(explain_invalid_settings(cls, error))


def _exit(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(EXIT_CODE)


def _allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Describe in words what a property of a JSON schema accepts."""
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
