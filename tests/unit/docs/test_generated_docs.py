from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ...faults import document

ROOT = Path(__file__).parents[3]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()


@pytest.mark.parametrize("page", GENERATOR.PAGES)
def test_the_committed_page_is_up_to_date(page: str) -> None:
    committed = (ROOT / "docs" / page).read_text()
    assert committed == GENERATOR.PAGES[page](), f"docs/{page} is out of date. Run: python docs/generate.py"


def test_the_page_of_the_fault_matrix_has_every_row() -> None:
    assert document.PAGE.read_text() == document.page(), "docs/fault-matrix.md is out of date. Run: make docs"


def test_every_setting_has_a_description_in_its_table() -> None:
    rows = [
        line for line in GENERATOR.settings_page().splitlines() if line.startswith("| `MANAGED_SESSIONS_")
    ]
    assert len(rows) > 30
    for row in rows:
        assert len(row.rstrip(" |").split(" | ")[-1]) > 10, row
