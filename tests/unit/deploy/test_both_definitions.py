"""What holds for the CRDs of all kinds: their names, and that every field is bounded and described."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from managed_session_api import names

from .schemas import definition, fields_of


@dataclass(frozen=True)
class Kind:
    """A CRD, and what its names and texts have to be."""

    kind: str
    plural: str
    singular: str
    short_name: str
    takes_effect: str
    """Pattern of the words that say when a change of a field takes effect."""
    shortest_description: int
    fewest_rules: int

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The CRD."""
        return definition(f"{self.plural}.yaml")

    @cached_property
    def fields(self) -> dict[str, dict[str, Any]]:
        """Each field of spec and status by its path."""
        return fields_of(self.definition)


KINDS = (
    Kind(
        names.KIND,
        names.PLURAL,
        names.SINGULAR,
        names.SHORT_NAME,
        takes_effect=r"\b(Immutable|Set once|Live|Takes effect with the next (sandbox|worker start|setup))\b",
        shortest_description=16,
        fewest_rules=12,
    ),
    Kind(
        names.CLASS_KIND,
        names.CLASS_PLURAL,
        names.CLASS_SINGULAR,
        names.CLASS_SHORT_NAME,
        takes_effect=(
            r"\b(Live|Takes effect with (the next (sandbox|worker start|setup)|each session's next turn))\b"
        ),
        shortest_description=8,
        fewest_rules=16,
    ),
    Kind(
        names.SHARED_KIND,
        names.SHARED_PLURAL,
        names.SHARED_SINGULAR,
        names.SHARED_SHORT_NAME,
        takes_effect=r"\bImmutable\b",
        shortest_description=16,
        fewest_rules=1,
    ),
)
FIELDS = [pytest.param(kind, path, id=f"{kind.singular}-{path}") for kind in KINDS for path in kind.fields]
BELOW_SPEC_AND_STATUS = [each for each in FIELDS if each.values[1] not in {"spec", "status"}]
OF_THE_SPEC = [each for each in FIELDS if str(each.values[1]).startswith("spec.")]

of_both_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.singular)


@of_both_kinds
def test_names_are_those_of_the_api_package(kind: Kind) -> None:
    spec = kind.definition["spec"]
    assert kind.definition["metadata"]["name"] == f"{kind.plural}.{names.GROUP}"
    assert spec["group"] == names.GROUP
    assert spec["scope"] == "Namespaced"
    assert [version["name"] for version in spec["versions"]] == [names.VERSION]
    assert spec["names"] == {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.singular,
        "shortNames": [kind.short_name],
        "categories": ["managed-sessions"],
    }


@pytest.mark.parametrize(("kind", "path"), BELOW_SPEC_AND_STATUS)
def test_field_is_described(kind: Kind, path: str) -> None:
    description = kind.fields[path].get("description", "")
    assert len(description) >= kind.shortest_description, f"{path} needs a description for kubectl explain"
    assert description.endswith(".")


@pytest.mark.parametrize(("kind", "path"), OF_THE_SPEC)
def test_field_of_the_spec_says_when_a_change_takes_effect(kind: Kind, path: str) -> None:
    assert re.search(kind.takes_effect, kind.fields[path]["description"])


@pytest.mark.parametrize(("kind", "path"), FIELDS)
def test_field_is_bounded(kind: Kind, path: str) -> None:
    field = kind.fields[path]
    match field["type"]:
        case "string":
            assert {"maxLength", "enum"} & field.keys() or field.get("format") == "date-time"
        case "array":
            assert "maxItems" in field
            assert "x-kubernetes-list-type" in field
        case "integer":
            assert "minimum" in field
            assert "maximum" in field or path.startswith("status.")
        case "object" if "additionalProperties" in field:
            assert "maxProperties" in field
        case other:
            assert other in {"object", "boolean"}


@of_both_kinds
def test_every_rule_has_a_message_that_names_its_field(kind: Kind) -> None:
    rules = [
        # A rule of a list's entries names the list.
        (path.removesuffix("[]") if path.endswith("[]") else f"{path}{rule.get('fieldPath', '')}", rule)
        for path, schema in kind.fields.items()
        for rule in schema.get("x-kubernetes-validations", [])
    ]
    assert len(rules) >= kind.fewest_rules
    for field, rule in rules:
        assert rule["message"].startswith(field)
        assert rule.get("messageExpression", f"'{field}").startswith(f"'{field}")
