"""Each check of the doctor, on the facts of installations."""

from __future__ import annotations

from dataclasses import fields

import pytest
from celery import Task
from celery.app.defaults import DEFAULTS as CELERYS
from celery.bin.worker import worker as worker_command

from celery_saga.definition.operations import STEP_OPTIONS
from celery_saga.ops.doctor import examine
from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.ops.doctor.collect.servers import SETTINGS as ASKED
from celery_saga.ops.doctor.findings import Finding, Level, Where, listed
from celery_saga.ops.doctor.printing import lines
from celery_saga.saga import Saga
from celery_saga.settings import DEFAULTS as OURS
from tests.core.scenario import Scenario
from tests.ops.doctor_cases import CASES, READ
from tests.ops.installations import OK, required

IDS = [f"{check}: {case}" for check, case, _, _ in CASES]

#: Every finding of every case.
FOUND = [
    pytest.param(finding, id=f"{check}: {case}: {finding.check}")
    for check, case, facts, _ in CASES
    for finding in examine(facts).findings
]


@pytest.mark.parametrize(("check", "case", "facts", "expected"), CASES, ids=IDS)
def test_the_check_finds_it(check, case, facts, expected):
    found = list(CHECKS[check](facts))

    assert [(finding.level.value, finding.setting) for finding in found] == expected


def test_the_basic_installation_has_no_findings():
    assert examine(OK).findings == ()


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_finds_something(check):
    assert any(name == check and expected for name, _, _, expected in CASES)


@pytest.mark.parametrize("finding", FOUND)
class TestEachFinding:
    def test_says_all_that_it_should(self, finding):
        for name in (field.name for field in fields(Finding) if field.name != "about"):
            assert getattr(finding, name), name
        assert finding.check in CHECKS
        assert not finding.what.endswith(".")

    def test_names_a_setting_that_there_is(self, finding):
        assert finding.setting in SETTINGS_THERE_ARE[finding.where]

    def test_shows_the_setting_and_its_value(self, finding):
        report = examine(OK, {finding.check: lambda facts: [finding]})
        text = " ".join(" ".join(lines(report, lambda text, **style: text)).split())

        assert f"{finding.where} {finding.setting}: {finding.to}" in text
        assert finding.level.value.upper() in text


SETTINGS_THERE_ARE = {
    Where.APP: OURS.keys() | CELERYS.keys(),
    Where.TASK: set(dir(Task)),
    Where.STEP: STEP_OPTIONS | {Saga.local_step.__name__},
    Where.WORKER: {option for param in worker_command.params for option in param.opts},
    # tests/worker/test_doctor_servers.py asks a server for these.
    Where.SERVER: {*ASKED, "dir"},
    Where.USER: {"ACL SETUSER"},
    Where.MACHINE: {"clock"},
    Where.PACKAGE: {"celery-saga-workflow", "celery", "kombu", "python"},
    Where.RECORD: {"saga"},
}


def test_a_lost_step_without_a_compensation_ends_as_the_finding_says():
    lost = Scenario.of("a b!-").play("start, f0 ok, f1 void, c0 ok").execution

    assert [step.status for step in lost.steps] == ["COMPENSATED", "UNKNOWN"]
    assert (lost.status, lost.steps[1].effect) == ("STUCK", True)
    (finding,) = CHECKS["early-ack"](required(READ))
    assert "the step ends UNKNOWN and the rest of the saga is compensated" in finding.leads_to
    assert "the saga ends STUCK" in finding.leads_to


def test_the_worst_comes_first():
    for _, _, facts, _ in CASES:
        ranks = [finding.level.rank for finding in examine(facts).findings]
        assert ranks == sorted(ranks)
    assert [level.rank for level in (Level.ERROR, Level.WARNING, Level.INFO)] == [0, 1, 2]


def test_many_names_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"
