"""The documents name tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def named() -> Iterator[tuple[str, str, str]]:
    """Document, file and name (``test_x`` or ``TestY::test_x``) of each test that is named."""
    for document in sorted((ROOT / "docs").glob("*.md")):
        for file, name in _TEST.findall(document.read_text()):
            yield document.name, file, name


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests that a file defines."""
    path = ROOT / file
    if not path.exists():
        return frozenset()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if hasattr(part, "name")}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@pytest.mark.parametrize(("document", "file", "name"), sorted(set(named())))
def test_a_named_test_exists(document: str, file: str, name: str) -> None:
    assert name in defined_in(file), f"docs/{document} names {file}::{name}"


def test_every_row_of_the_failure_table_names_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| what |")
    ]
    assert len(rows) > 40
    assert [row for row in rows if not _TEST.search(row)] == []
