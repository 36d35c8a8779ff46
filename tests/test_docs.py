"""What the documents say exists, exists."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import celery_saga
from celery_saga.core.execution import StepStatus
from celery_saga.ops.doctor import examine
from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.ops.doctor.findings import Where
from tests.core.test_decide import TABLE as TRANSITIONS
from tests.ops.ailing import WELL
from tests.ops.doctor_cases import CASES

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
            names = {part.name for part in node.body if hasattr(part, "name")}
            found |= names | {f"{node.name}::{name}" for name in names}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@pytest.mark.parametrize(("document", "file", "name"), sorted(set(named())))
def test_a_named_test_exists(document: str, file: str, name: str) -> None:
    assert name in defined_in(file), f"docs/{document} names {file}::{name}"


def test_every_row_of_the_failure_table_names_a_test() -> None:
    _, _, text = (ROOT / "docs" / "guarantees.md").read_text().partition("## The failure table")
    rows = [
        line
        for line in text.partition("\n## ")[0].splitlines()
        if line.startswith("| ") and not line.startswith("| what |")
    ]
    assert len(rows) > 40
    assert [row for row in rows if not _TEST.search(row)] == []


#: Changes of a step's status that the diagram leaves out.
LEFT_OUT = {
    ("FAILED", "COMPENSATING"): "an effect came late",
    ("PENDING", "COMPENSATING"): "an effect came late",
    ("WAITING", "COMPENSATING"): "as of a step that is running",
    ("WAITING", "FAILED"): "as of a step that is running",
    ("SUCCEEDED", "COMPENSATION_FAILED"): "an input of its undo is missing",
    ("UNKNOWN", "RUNNING"): "an operator's retry, as of one that failed",
}


def happening() -> Iterator[tuple[str, str]]:
    """Each change of a step's status in the table of the state machine."""
    for row in TRANSITIONS:
        seen = row.play().seen
        for before, after in pairwise(seen):
            for old, new in zip(before.steps, after.steps, strict=True):
                if old.status is not new.status or new.epoch > old.epoch > 0:
                    yield old.status.value, new.status.value


def test_the_diagram_of_a_steps_life_is_the_state_machines() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", diagram, re.MULTILINE))
    assert {name for edge in drawn for name in edge} == {status.value for status in StepStatus}
    found = {edge for edge in happening() if edge != ("COMPENSATING", "COMPENSATING")}
    assert drawn == found - LEFT_OUT.keys()
    assert found >= LEFT_OUT.keys()


def migrating() -> str:
    return (ROOT / "docs" / "migrating-from-minos.md").read_text()


def test_the_sample_is_python_and_imports_what_there_is() -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", migrating(), re.DOTALL)
    for node in ast.walk(ast.parse(sample)):
        if isinstance(node, ast.ImportFrom) and node.module == "celery_saga":
            assert all(hasattr(celery_saga, alias.name) for alias in node.names)


def test_the_errors_that_stay_are_there() -> None:
    table = migrating().split("| error in Minos | here |")[1].split("\n\n")[0]
    names = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+Exception)`", row[:600])
    }
    assert len(names) > 12
    assert all(hasattr(celery_saga, name) for name in names)


def doctors_table() -> list[list[str]]:
    """The rows of the doctor's table; one without a name belongs to the check above it."""
    table = (ROOT / "docs" / "doctor.md").read_text().split("| check | finds |")[1].split("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    return [row if len(row) == 4 else ["", *row] for row in rows]


def test_every_check_of_the_doctor_is_listed_in_its_order() -> None:
    named = [row[0].strip("`") for row in doctors_table() if row[0]]

    assert named == list(CHECKS)


def test_the_doctors_levels_and_settings_are_those_of_its_findings() -> None:
    listed: dict[str, set[str]] = {}
    levels: dict[str, set[str]] = {}
    check = ""
    for name, finds, level, settings in doctors_table():
        check = name.strip("`") or check
        listed.setdefault(check, set()).update(re.findall(r"`([^`]+)`", settings))
        said = re.findall(r"an? (error|warning|info) (?:if|while|in) ", finds)
        levels.setdefault(check, set()).update({level, *said})
    found = [(check, finding) for check, _, facts, _ in CASES for finding in CHECKS[check](facts)]

    assert listed == {
        check: {each.setting for name, each in found if name == check} for check in CHECKS
    }
    assert levels == {
        check: {each.level.value for name, each in found if name == check} for check in CHECKS
    }


def test_the_doctors_document_is_as_described() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    (sample,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    described = json.loads(sample)
    real = {**examine(WELL).to_dict(), "exit_code": 0}

    assert described.keys() == real.keys()
    assert described["workers"][0].keys() == real["workers"][0].keys()
    assert described["sagas"].keys() == real["sagas"].keys()
    finding = next(each for _, _, facts, _ in CASES for each in examine(facts).findings)
    assert described["findings"][0].keys() == finding.to_dict().keys()
    assert all(f"`{where}`" in " ".join(text.split()) for where in Where)
