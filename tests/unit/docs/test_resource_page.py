"""The output of `kubectl describe` on the resource's page is what the operator writes."""

from __future__ import annotations

import re
from pathlib import Path

from managed_session_api import names

PAGE = (Path(__file__).parents[3] / "docs/resource.md").read_text()
DESCRIPTIONS = re.findall(r"(?ms)^\$ kubectl describe managedsession \S+\n(.*?)^```", PAGE)


def test_each_described_resource_has_the_annotation_of_its_identity_and_the_finalizer() -> None:
    assert DESCRIPTIONS
    for described in DESCRIPTIONS:
        (uid,) = re.findall(r"^  UID: +(\S+)$", described, re.MULTILINE)
        assert f"\nAnnotations:  {names.ANNOTATION_IDENTITY}: {uid}\n" in described
        assert f"\n  Finalizers:\n    {names.FINALIZER}\n" in described
