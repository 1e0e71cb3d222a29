from __future__ import annotations

import ast
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
def test_the_committed_page_is_what_the_code_says(page: str) -> None:
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


def test_every_exit_reason_that_the_operator_writes_is_explained() -> None:
    written = set()
    for path in (ROOT / "operator" / "managed_session_operator" / "steps").glob("*.py"):
        written |= written_exit_reasons(ast.parse(path.read_text()))
    assert written == set(GENERATOR.OPERATOR_EXITS)


def written_exit_reasons(tree: ast.Module) -> set[str]:
    """Literal exit reasons: third argument of the calls that end a claim, and values of `exitReason`."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 2:
            if node.func.id in ("give_up", "_write_finished", "_unserved"):
                found.append(node.args[2])
        elif isinstance(node, ast.Dict):
            found += [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "exitReason"
            ]
    either = [side for each in found if isinstance(each, ast.IfExp) for side in (each.body, each.orelse)]
    found += either
    return {each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)}
