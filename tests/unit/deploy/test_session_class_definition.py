"""crds/managedsessionclasses.yaml agrees with the typed model and with the CRD of ManagedSession."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from managed_session_api.resource import Model, PolicyField
from managed_session_api.session_class import ClassSpec, ClassStatus

from .schemas import CRDS, comparable, definition, fields_of, model_schema, schema_of

DEFINITION = definition("managedsessionclasses.yaml")
SESSIONS = definition("managedsessions.yaml")
VERSION: dict[str, Any] = DEFINITION["spec"]["versions"][0]
SCHEMA = schema_of(DEFINITION)
FIELDS = fields_of(DEFINITION)
RENDER = Path(__file__).parents[3] / "devkit/render_definitions.py"

ENUMS_THE_MODEL_READS_AS_TEXT = {
    "spec.session.worker.logLevel",
    "spec.locked[]",
}


def with_path(value: Any) -> Any:
    """Return a session's schema with the messages that the class has for the same fields."""
    if isinstance(value, dict):
        return {name: with_path(each) for name, each in value.items()}
    if isinstance(value, list):
        return [with_path(each) for each in value]
    if isinstance(value, str):
        return re.sub(r"\bspec\.(routing|sandbox|worker|lifecycle)\b", r"spec.session.\1", value)
    return value


def read_as_text(part: str) -> set[str]:
    """Return the enums that the model reads as text; a condition's type is one of a longer enum."""
    return ENUMS_THE_MODEL_READS_AS_TEXT | ({f"{part}.conditions[].type"} if part == "status" else set())


@pytest.mark.parametrize(("part", "model"), [("spec", ClassSpec), ("status", ClassStatus)])
def test_schema_and_model_have_the_same_fields_types_and_enums(part: str, model: type[Model]) -> None:
    expected = model_schema(model)
    if part == "status":
        del expected["properties"]["conditions"]["items"]["properties"]["type"]["enum"]
    assert comparable(SCHEMA["properties"][part], part, read_as_text(part)) == expected


def test_the_session_policy_has_the_same_schema_as_in_a_session() -> None:
    ours = SCHEMA["properties"]["spec"]["properties"]["session"]
    theirs = schema_of(SESSIONS)["properties"]["spec"]
    for section in ("routing", "sandbox", "worker", "lifecycle"):
        assert ours["properties"][section] == with_path(theirs["properties"][section])
    assert ours["properties"].keys() == {"routing", "sandbox", "worker", "lifecycle"}
    of_policy = [
        rule
        for rule in theirs["x-kubernetes-validations"]
        if "self.worker" in rule["rule"] or "self.lifecycle" in rule["rule"]
    ]
    assert ours["x-kubernetes-validations"] == with_path(of_policy)
    assert len(of_policy) == 4


def test_the_session_policy_is_rendered_from_the_crd_of_sessions() -> None:
    rendered = runpy.run_path(str(RENDER))["rendered_definitions"]()
    assert {path.name for path in rendered} == {"managedsessionclasses.yaml"}
    for path, text in rendered.items():
        assert path.parent == CRDS
        assert path.read_text() == text, "run `make manifests`"


def test_fields_that_can_be_locked_are_those_with_an_origin() -> None:
    assert FIELDS["spec.locked[]"]["enum"] == [field.value for field in PolicyField]
    assert FIELDS["spec.locked"]["maxItems"] >= len(PolicyField)


def test_ids_are_those_of_a_session() -> None:
    of_sessions = fields_of(SESSIONS)
    for ours, theirs in (("agentIDs[]", "agentID"), ("environmentID", "environmentID")):
        for limit in ("pattern", "minLength", "maxLength"):
            assert FIELDS[f"spec.selector.{ours}"][limit] == of_sessions[f"spec.{theirs}"][limit]


def test_name_of_a_class_fits_where_it_is_recorded() -> None:
    longest = SCHEMA["properties"]["metadata"]["properties"]["name"]["maxLength"]
    of_sessions = fields_of(SESSIONS)
    assert of_sessions["status.class.name"]["maxLength"] >= longest
    assert FIELDS["status.outrankedBy[]"]["maxLength"] >= longest
    origins = "+".join(["session", f"class/{'a' * longest}@{2**63}", f"environment/{'a' * 253}@{2**63}"])
    assert of_sessions["status.effective.origins.*"]["maxLength"] >= len(origins)


def test_defaults_are_those_of_the_model() -> None:
    model = ClassSpec().to_json()
    in_schema = {path: field["default"] for path, field in FIELDS.items() if "default" in field}
    assert in_schema == {
        "spec.precedence": model["precedence"],
        "spec.limits": {},
        "spec.limits.guaranteedSlots": model["limits"]["guaranteedSlots"],
        "spec.limits.weight": model["limits"]["weight"],
    }


def test_printed_columns() -> None:
    columns = [(column["name"], column.get("priority", 0)) for column in VERSION["additionalPrinterColumns"]]
    assert [name for name, priority in columns if priority == 0] == [
        "Ready",
        "Reason",
        "Precedence",
        "Weight",
        "Sessions",
        "Active",
        "Waiting",
        "Age",
    ]
    assert [name for name, priority in columns if priority == 1] == [
        "Guaranteed",
        "Maximum",
        "Today",
        "Template",
        "Message",
    ]


def test_selectable_fields() -> None:
    assert [field["jsonPath"] for field in VERSION["selectableFields"]] == [
        ".spec.selector.environmentID",
        ".spec.precedence",
    ]
