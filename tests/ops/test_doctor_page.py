"""The page of the doctor lists its checks, with their levels and settings, and its document."""

from __future__ import annotations

import json
import re
from pathlib import Path

from celery_saga.ops.doctor import examine
from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.ops.doctor.findings import Where
from tests.ops.doctor_cases import CASES
from tests.ops.installations import OK

ROOT = Path(__file__).resolve().parents[2]


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
    real = {**examine(OK).to_dict(), "exit_code": 0}

    assert described.keys() == real.keys()
    assert described["workers"][0].keys() == real["workers"][0].keys()
    assert described["sagas"].keys() == real["sagas"].keys()
    finding = next(each for _, _, facts, _ in CASES for each in examine(facts).findings)
    assert described["findings"][0].keys() == finding.to_dict().keys()
    assert all(f"`{where}`" in " ".join(text.split()) for where in Where)
