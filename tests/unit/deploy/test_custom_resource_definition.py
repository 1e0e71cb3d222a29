"""crds/managedsessions.yaml and the typed model say the same, and every field is bounded and explained."""

import re
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_api import names
from managed_session_api.conditions import ConditionType
from managed_session_api.resource import EffectiveStatus, Model, Spec, Status
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[3]
DEFINITION: dict[str, Any] = yaml.safe_load((ROOT / "crds/managedsessions.yaml").read_text())
VERSION: dict[str, Any] = DEFINITION["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]

WHEN_IT_TAKES_EFFECT = re.compile(
    r"\b(Immutable|Set once|Live|Takes effect with the next (sandbox|worker start))\b"
)
ENUMS_THE_MODEL_READS_AS_TEXT = {
    "spec.routing.scope",
    "spec.worker.logLevel",
    "status.effective.logLevel",
}


def schema_fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field below `schema` with its path; an array's items and a map's values count as fields too."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schema_fields(field, f"{path}.{name}")
    if "items" in schema:
        yield from schema_fields(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from schema_fields(schema["additionalProperties"], f"{path}.*")


FIELDS = dict(schema_fields(SCHEMA["properties"]["spec"], "spec")) | dict(
    schema_fields(SCHEMA["properties"]["status"], "status")
)


def plain_type(annotation: Any) -> Any:
    """The type without `| None` and without validators."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def json_name(name: str, field: FieldInfo) -> str:
    return field.alias or name


def model_schema(annotation: Any) -> dict[str, Any]:
    """What the structural schema has to say about a value of this type, without bounds and words."""
    kind = plain_type(annotation)
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": model_schema(typing.get_args(kind)[0])}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": model_schema(typing.get_args(kind)[1])}
    if issubclass(kind, Model):
        fields = {json_name(name, field): field for name, field in kind.model_fields.items()}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: model_schema(field.annotation) for name, field in fields.items()},
        }
        required = sorted(name for name, field in fields.items() if field.is_required())
        return schema | ({"required": required} if required else {})
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": sorted(kind)}
    if issubclass(kind, datetime):
        return {"type": "string", "format": "date-time"}
    return {"type": {str: "string", bool: "boolean", int: "integer"}[kind]}


def comparable(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The part of a structural schema that `model_schema` speaks about."""
    result: dict[str, Any] = {"type": schema["type"]}
    if "enum" in schema and path not in ENUMS_THE_MODEL_READS_AS_TEXT:
        result["enum"] = sorted(schema["enum"])
    if "required" in schema:
        result["required"] = sorted(schema["required"])
    if schema.get("format") == "date-time":
        result["format"] = "date-time"
    if "properties" in schema:
        result["properties"] = {
            name: comparable(field, f"{path}.{name}") for name, field in schema["properties"].items()
        }
    if "items" in schema:
        result["items"] = comparable(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        result["additionalProperties"] = comparable(schema["additionalProperties"], f"{path}.*")
    return result


@pytest.mark.parametrize(("part", "model"), [("spec", Spec), ("status", Status)])
def test_schema_and_model_have_the_same_fields_types_and_enums(part: str, model: type[Model]) -> None:
    assert comparable(SCHEMA["properties"][part], part) == model_schema(model)


def test_names_are_those_of_the_api_package() -> None:
    spec = DEFINITION["spec"]
    assert DEFINITION["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"
    assert spec["group"] == names.GROUP
    assert spec["scope"] == "Namespaced"
    assert [version["name"] for version in spec["versions"]] == [names.VERSION]
    assert spec["names"] == {
        "kind": names.KIND,
        "listKind": f"{names.KIND}List",
        "plural": names.PLURAL,
        "singular": names.SINGULAR,
        "shortNames": [names.SHORT_NAME],
        "categories": ["managed-sessions"],
    }


def test_session_id_is_what_the_api_package_accepts() -> None:
    assert FIELDS["spec.sessionID"]["pattern"] == names.SESSION_ID_PATTERN


def test_names_that_the_api_package_derives_fit() -> None:
    longest = names.resource_name("a" * FIELDS["spec.sessionID"]["maxLength"])
    assert len(longest) <= SCHEMA["properties"]["metadata"]["properties"]["name"]["maxLength"]


def test_there_is_room_for_every_condition_type() -> None:
    assert FIELDS["status.conditions"]["maxItems"] >= len(ConditionType)
    assert FIELDS["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]


def test_policies_with_an_installation_setting_have_no_default() -> None:
    policies = {json_name(name, field) for name, field in EffectiveStatus.model_fields.items()}
    in_spec = {path for path in FIELDS if path.startswith("spec.") and path.rsplit(".", 1)[1] in policies}
    assert len(in_spec) == len(policies)
    assert [path for path in in_spec if "default" in FIELDS[path]] == []


def test_settings_that_descriptions_name_exist() -> None:
    from managed_session_operator.settings import OperatorSettings
    from managed_session_runtime.settings import variable_name

    known = {variable_name(OperatorSettings, field) for field in OperatorSettings.model_fields}
    named = {
        path: re.findall(r"MANAGED_SESSIONS_[A-Z_]+", field.get("description", ""))
        for path, field in FIELDS.items()
    }
    assert {variable for variables in named.values() for variable in variables} <= known
    assert len([path for path, variables in named.items() if variables]) == len(EffectiveStatus.model_fields)


def test_defaults_are_those_of_the_model() -> None:
    model = Spec(session_id="sesn_1").to_json()
    in_schema = {path: field["default"] for path, field in FIELDS.items() if "default" in field}
    assert in_schema == {
        "spec.routing.scope": model["routing"]["scope"],
        "spec.sandbox.autoResume": model["sandbox"]["autoResume"],
        "spec.sandbox.allowPublicTraffic": model["sandbox"]["allowPublicTraffic"],
        "spec.lifecycle.suspend": model["lifecycle"]["suspend"],
    }


@pytest.mark.parametrize("path", [path for path in FIELDS if path not in {"spec", "status"}])
def test_field_is_described(path: str) -> None:
    description = FIELDS[path].get("description", "")
    assert len(description) > 15, f"{path} needs a description for kubectl explain"
    assert description.endswith((".", "…"))


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith("spec.")])
def test_field_of_the_spec_says_when_a_change_takes_effect(path: str) -> None:
    assert WHEN_IT_TAKES_EFFECT.search(FIELDS[path]["description"])


@pytest.mark.parametrize("path", list(FIELDS))
def test_field_is_bounded(path: str) -> None:
    field = FIELDS[path]
    match field["type"]:
        case "string":
            assert {"maxLength", "enum"} & field.keys() or field.get("format") == "date-time"
        case "array":
            assert "maxItems" in field
            assert "x-kubernetes-list-type" in field
        case "integer":
            assert "minimum" in field
        case "object" if "additionalProperties" in field:
            assert "maxProperties" in field
        case kind:
            assert kind in {"object", "boolean"}


def test_every_rule_has_a_message_that_names_its_field() -> None:
    rules = [
        (f"{path}{rule.get('fieldPath', '')}", rule)
        for path, field in FIELDS.items()
        for rule in field.get("x-kubernetes-validations", [])
    ]
    assert len(rules) >= 12
    for path, rule in rules:
        field = path.removesuffix("[]")
        assert rule["message"].startswith(field)
        assert rule.get("messageExpression", f"'{field}").startswith(f"'{field}")


def test_columns_are_those_that_people_know() -> None:
    columns = [
        (column["name"].upper(), column.get("priority", 0)) for column in VERSION["additionalPrinterColumns"]
    ]
    assert [name for name, priority in columns if priority == 0] == [
        "READY",
        "REASON",
        "SESSION",
        "SANDBOX",
        "TURNS",
        "LAST-ACTIVE",
        "AGE",
    ]
    assert [name for name, priority in columns if priority == 1] == [
        "PHASE",
        "WORK",
        "ENVIRONMENT",
        "AGENT",
        "TEMPLATE",
        "MESSAGE",
    ]


def test_selectable_fields() -> None:
    assert [field["jsonPath"] for field in VERSION["selectableFields"]] == [
        ".spec.sessionID",
        ".status.sandbox.id",
        ".status.phase",
    ]
