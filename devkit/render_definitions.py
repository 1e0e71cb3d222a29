"""Copies the session policy of `crds/managedsessions.yaml` into the other CRDs: part of `make manifests`.

Kinds that hold defaults for sessions have the fields `routing`, `sandbox`, `worker` and `lifecycle` of a
session. Their schema has one source: the parts of the ManagedSession's CRD between the comments
`# begin: session policy, …` and `# end: session policy, …`. A kind has the same comments where the parts
belong, at any indentation, and the path of the fields in the comment `begin`:

    # begin: session policy, fields of spec.session
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

CRDS = Path(__file__).resolve().parents[1] / "crds"
SOURCE = CRDS / "managedsessions.yaml"
_PART = re.compile(
    r"^(?P<indent> *)# begin: session policy, (?P<part>\w+)(?: of (?P<path>[\w.]+))?\n"
    r"(?P<text>.*?)"
    r"^ *# end: session policy, (?P=part)\n",
    re.MULTILINE | re.DOTALL,
)
_FIELD_OF_A_SESSION = re.compile(r"\bspec\.(?=(?:routing|sandbox|worker|lifecycle)\b)")


def definitions() -> list[Path]:
    """Return the files of the CRDs, in the order of their application."""
    kustomization = yaml.safe_load((CRDS / "kustomization.yaml").read_text())
    return [CRDS / name for name in kustomization["resources"]]


def rendered_definitions() -> dict[Path, str]:
    """Return each CRD that contains the session policy, with the text that it should have.

    Raises:
        KeyError: a CRD wants a part that the source does not have.
    """
    parts = {found["part"]: textwrap.dedent(found["text"]) for found in _PART.finditer(SOURCE.read_text())}
    return {
        path: _PART.sub(lambda found: _filled(found, parts), path.read_text())
        for path in definitions()
        if path != SOURCE and _PART.search(path.read_text())
    }


def _filled(place: re.Match[str], parts: dict[str, str]) -> str:
    """Return the place with the part of the source, moved to its path and its indentation."""
    first, *_, last = place.group(0).splitlines(keepends=True)
    text = _FIELD_OF_A_SESSION.sub(f"{place['path']}.", parts[place["part"]])
    return first + textwrap.indent(text, place["indent"]) + last
