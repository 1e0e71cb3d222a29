"""Compares a CRD's schema with the typed model, and lists its fields."""

import types
import typing
from collections.abc import Collection, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from managed_session_api.resource import OPAQUE, Model
from pydantic.fields import FieldInfo

CRDS = Path(__file__).parents[3] / "crds"


def definition(name: str) -> dict[str, Any]:
    """Return the CRD in this file of `crds/`."""
    found: dict[str, Any] = yaml.safe_load((CRDS / name).read_text())
    return found


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the CRD's only version."""
    (version,) = crd["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def fields_of(crd: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each field of spec and status by its path."""
    properties = schema_of(crd)["properties"]
    return {
        path: field for part in ("spec", "status") for path, field in schema_fields(properties[part], part)
    }


def schema_fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field below `schema` with its path. An array's items and a map's values count as fields."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schema_fields(field, f"{path}.{name}")
    if "items" in schema:
        yield from schema_fields(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from schema_fields(schema["additionalProperties"], f"{path}.*")


def plain_type(annotation: Any) -> Any:
    """Return the type without `| None` and without validators."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def json_name(name: str, field: FieldInfo) -> str:
    return field.alias or name


def model_schema(annotation: Any) -> dict[str, Any]:
    """Return the structural schema of a type, without bounds and descriptions."""
    kind = plain_type(annotation)
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": model_schema(typing.get_args(kind)[0])}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": model_schema(typing.get_args(kind)[1])}
    if issubclass(kind, Model):
        fields = {json_name(name, field): field for name, field in kind.model_fields.items()}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {
                name: {"type": "object"} if OPAQUE in field.metadata else model_schema(field.annotation)
                for name, field in fields.items()
            },
        }
        required = sorted(name for name, field in fields.items() if field.is_required())
        return schema | ({"required": required} if required else {})
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": sorted(kind)}
    if issubclass(kind, datetime):
        return {"type": "string", "format": "date-time"}
    return {"type": {str: "string", bool: "boolean", int: "integer"}[kind]}


def left_open(model: dict[str, Any], crd: dict[str, Any]) -> dict[str, Any]:
    """Return the model's schema without what is inside objects whose fields the CRD's leaves open."""
    if crd == {"type": "object"}:
        return crd
    result = dict(model)
    if "properties" in model and "properties" in crd:
        result["properties"] = {
            name: left_open(field, crd["properties"].get(name, {}))
            for name, field in model["properties"].items()
        }
    if "items" in model and "items" in crd:
        result["items"] = left_open(model["items"], crd["items"])
    return result


def comparable(schema: dict[str, Any], path: str, read_as_text: Collection[str]) -> dict[str, Any]:
    """Return the part of a structural schema that `model_schema` covers.

    Args:
        schema: of the CRD.
        path: of the schema.
        read_as_text: paths of enums that the model reads as text.
    """
    result: dict[str, Any] = {"type": schema["type"]}
    if "enum" in schema and path not in read_as_text:
        result["enum"] = sorted(schema["enum"])
    if "required" in schema:
        result["required"] = sorted(schema["required"])
    if schema.get("format") == "date-time":
        result["format"] = "date-time"
    if "properties" in schema:
        result["properties"] = {
            name: comparable(field, f"{path}.{name}", read_as_text)
            for name, field in schema["properties"].items()
        }
    if "items" in schema:
        result["items"] = comparable(schema["items"], f"{path}[]", read_as_text)
    if "additionalProperties" in schema:
        result["additionalProperties"] = comparable(schema["additionalProperties"], f"{path}.*", read_as_text)
    return result
