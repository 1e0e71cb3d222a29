"""crds/managedsessions.yaml agrees with the typed model."""

import re
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import ConditionType
from managed_session_api.resource import EffectiveStatus, Model, PolicyField, Spec, Status
from managed_session_operator.settings import OperatorSettings

from .schemas import comparable, definition, fields_of, json_name, left_open, model_schema, schema_of

DEFINITION = definition("managedsessions.yaml")
VERSION: dict[str, Any] = DEFINITION["spec"]["versions"][0]
SCHEMA = schema_of(DEFINITION)
FIELDS = fields_of(DEFINITION)
POLICIES = [
    json_name(name, field)
    for name, field in EffectiveStatus.model_fields.items()
    if field.is_required() or name in OperatorSettings.model_fields
]
"""The policies with an installation setting."""

ENUMS_THE_MODEL_READS_AS_TEXT = {
    "spec.worker.logLevel",
    "status.effective.logLevel",
}


@pytest.mark.parametrize(("part", "model"), [("spec", Spec), ("status", Status)])
def test_schema_and_model_have_the_same_fields_types_and_enums(part: str, model: type[Model]) -> None:
    schema = comparable(SCHEMA["properties"][part], part, ENUMS_THE_MODEL_READS_AS_TEXT)
    assert schema == left_open(model_schema(model), schema)


def test_session_id_is_what_the_api_package_accepts() -> None:
    assert FIELDS["spec.sessionID"]["pattern"] == names.SESSION_ID_PATTERN


def test_derived_names_fit_into_their_fields() -> None:
    longest = names.resource_name("a" * FIELDS["spec.sessionID"]["maxLength"])
    assert len(longest) <= SCHEMA["properties"]["metadata"]["properties"]["name"]["maxLength"]


def test_every_condition_type_fits_into_the_status() -> None:
    assert FIELDS["status.conditions"]["maxItems"] >= len(ConditionType)
    assert FIELDS["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]


def test_policies_with_an_installation_setting_have_no_default() -> None:
    policies = set(POLICIES)
    in_spec = {
        path for path in FIELDS if path.startswith("spec.") and "".join(path.split(".")[2:]) in policies
    }
    assert len(in_spec) == len(policies)
    assert [path for path in in_spec if "default" in FIELDS[path]] == []


def test_settings_that_descriptions_name_exist() -> None:
    from managed_session_runtime.settings import variable_name

    known = {variable_name(OperatorSettings, field) for field in OperatorSettings.model_fields}
    named = {
        path: re.findall(r"MANAGED_SESSIONS_[A-Z_]+", field.get("description", ""))
        for path, field in FIELDS.items()
    }
    assert {variable for variables in named.values() for variable in variables} <= known
    assert len([path for path, variables in named.items() if variables]) == len(POLICIES)


def test_no_field_has_a_default_that_would_take_precedence_over_a_class() -> None:
    assert [path for path, field in FIELDS.items() if "default" in field] == []


def test_printed_columns_are_unchanged() -> None:
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
        "CLASS",
        "COST",
        "SANDBOX-SECONDS",
        "TEMPLATE",
        "MESSAGE",
    ]


def test_selectable_fields() -> None:
    assert [field["jsonPath"] for field in VERSION["selectableFields"]] == [
        ".spec.sessionID",
        ".status.sandbox.id",
        ".status.phase",
        ".status.class.name",
    ]


def test_every_policy_of_the_spec_has_an_origin() -> None:
    sections = ("routing", "sandbox", "worker", "lifecycle")
    fields = [
        name for each in sections for name in SCHEMA["properties"]["spec"]["properties"][each]["properties"]
    ]
    assert [name for name in fields if name != "suspend"] == [field.value for field in PolicyField]
    assert set(PolicyField) == {
        json_name(name, field) for name, field in EffectiveStatus.model_fields.items()
    } - {"origins"}
    assert FIELDS["status.effective.origins"]["maxProperties"] >= len(PolicyField)
    assert FIELDS["status.sandbox.createdWith"]["maxProperties"] >= len(PolicyField)
