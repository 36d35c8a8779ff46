"""What the documents say exists, exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import celery_saga

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "migrating-from-minos.md"


def named_tests() -> list[tuple[str, str]]:
    """File and test, or an empty text for all of a file."""
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DOCUMENT.read_text())
    assert len(found) >= 12
    return found


@pytest.mark.parametrize(("file", "test"), named_tests())
def test_each_test_that_is_named(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not test or test in names


def test_the_sample_is_python_and_imports_what_there_is() -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for node in ast.walk(ast.parse(sample)):
        if isinstance(node, ast.ImportFrom) and node.module == "celery_saga":
            assert {alias.name for alias in node.names} <= set(celery_saga.__all__)


def test_the_errors_that_stay_are_there() -> None:
    table = DOCUMENT.read_text().split("| error in Minos | here |")[1].split("\n\n")[0]
    names = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+Exception)`", row[:600])
    }
    assert len(names) > 12
    assert names <= set(celery_saga.__all__)
