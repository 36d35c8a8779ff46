"""The page that leads a reader through the code names files and functions that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "follow-one-saga.md").read_text()

ROWS = [
    (match["file"], name)
    for match in re.finditer(
        r"^\| `(?P<file>celery_saga/[^`]+\.py)` \| (?P<names>[^|]+) \|", PAGE, flags=re.M
    )
    for name in re.findall(r"`(\w+)`", match["names"])
]

#: Lines of code that a reader has to read at most; docstrings say what they do and come on top.
MAX_LINES = 600


def functions(file: str) -> dict[str, int]:
    """Name -> lines of code, of all functions of a file; of two with one name the longer one."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            found[node.name] = max(lines, found.get(node.name, 0))
    return found


@pytest.mark.parametrize(("file", "name"), sorted(set(ROWS)))
def test_each_function_is_there(file: str, name: str) -> None:
    assert name in functions(file)


def test_it_is_short() -> None:
    assert len(ROWS) > 30
    assert len({file for file, _ in ROWS}) <= 8
    assert sum(functions(file)[name] for file, name in set(ROWS)) <= MAX_LINES


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:celery_saga|tests)/[^`]+)`", PAGE))))
def test_what_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()
