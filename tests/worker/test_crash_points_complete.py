"""That the crash tables leave nothing out: every event, what its save can do, every write."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

import pytest

from celery_saga.core import events
from celery_saga.core.ports import Publisher, ResultPublisher, Store
from tests.core.scenario import Scenario
from tests.core.test_decide import TABLE as TRANSITIONS
from tests.worker import (
    test_crash_points,
    test_crash_points_operators,
    test_crash_points_recovery,
    test_crash_points_reports,
)
from tests.worker.crashes import SAVING, WAYS, whens
from tests.worker.harness import ROOT

#: What the tables cannot strike, and why.
NEVER = {
    ("Started", "settles"): "a start whose first step lacks an input is refused and not saved",
}

#: Events of sagas that are more than steps: what they do, and where their table is.
OF_TREES = {
    "SignalReceived": "tests/core/test_waits.py",
    "RequestSent": "tests/core/test_requests.py",
    "ReplyReceived": "tests/core/test_requests.py",
}

#: Verbs of a store that change nothing.
READING = {
    "now",
    "load",
    "due",
    "find",
    "wait",
    "reserved_by",
    "alive",
    "claims_of",
    "close",
}
READING |= {"count", "endpoint", "shared", "deliver"}  # what is delivered alone is only a trial
#: Verbs of the publishers that send nothing by themselves.
PREPARING = {"message", "first_message", "encode", "reconsider", "undelivered"}


def places(way: str) -> set[str]:
    """All places of a way at which some process dies."""
    found = {case.place for case in test_crash_points.TABLES[way]}
    found |= {where for _, where in test_crash_points.PLACES[way]}
    recovery, reports = test_crash_points_recovery, test_crash_points_reports
    found |= {f"{recovery.PATHS[name].place} {at}" for name, at in recovery.CASES[way]}
    found |= {f"{reports.MAINS[name].place} {at}" for name, at in reports.MAIN_CASES[way]}
    found |= {f"{reports.path_of(*case).place} {case[1]}" for case in reports.CHILD_CASES[way]}
    found |= {*recovery.PUBLISHING.values(), *recovery.INSTANCES}
    operators = test_crash_points_operators
    found |= {place for _, place in operators.CASES[way]}
    return found | {place for *_, place in (*operators.DROPPED, *operators.TAKEN_IN)}


def kind(what: str) -> str:
    """What a save does, in the words of the state machine's table."""
    if what == "nothing":
        return "saves"
    return "settles" if what.isupper() else "sends"


def transitions() -> set[tuple[str, str]]:
    """What follows from each event, in all rows of the state machine's table."""
    found = set()
    for row in TRANSITIONS:
        for before, event, scenario in steps_of(row):
            after = scenario.execution
            if after.settled and after.status is not before.status:
                found.add((event, "settles"))
            else:
                sends = any(isinstance(each, events.Dispatch) for each in scenario.commands)
                found.add((event, "sends" if sends else "saves"))
    return found


def steps_of(row):
    """Each event of a row that changed something: the execution before, its name, and the rest."""
    scenario = Scenario.of(row.shape, **row.limits)
    for word in row.script.split(", "):
        before, count = scenario.execution, len(scenario.events)
        scenario.play(word)
        if len(scenario.events) > count and not scenario.unchanged:
            yield before, type(scenario.events[-1]).__name__, scenario


@pytest.mark.parametrize("way", WAYS)
class TestNothingIsLeftOut:
    def test_every_event_and_what_follows_from_it(self, way):
        struck = defaultdict(set)
        for place in places(way):
            if place.split()[0] in NAMES:
                event, what, at = place.split(" ", 2)
                struck[event, kind(what)].add((what, at))
        assert set(struck) == transitions() - NEVER.keys() | {("SignalReceived", "saves")}
        for (event, done), found in struck.items():
            wanted = whens(way, "f0" if done == "sends" else "nothing")
            assert {at for _, at in found} >= set(wanted), (event, done)

    def test_every_verb_of_the_store(self, way):
        verbs = {name for name in vars(Store) if not name.startswith("_")} - READING
        struck = {tuple(place.split()[-2:]) for place in places(way)}
        for verb in verbs - {"create"}:
            assert {("before", verb), ("after", verb)} <= struck, verb
        assert {f"Started f0 {at}" for at in SAVING} <= places(way)  # of create

    def test_every_verb_of_the_publishers(self, way):
        for port in (Publisher, ResultPublisher):
            verbs = {name for name in vars(port) if not name.startswith("_")} - PREPARING
            assert verbs == {"publish"}
        struck = {tuple(place.split()[-2:]) for place in places(way)}
        assert {("before", "publish"), ("after", "publish")} <= struck
        if way == "one by one":
            assert {("before", "push"), ("after", "push")} <= struck


NAMES = {event.__name__ for event in get_args(events.Event)}


def test_every_event_comes_about_in_the_table_of_the_state_machine():
    assert {event for event, _ in transitions()} == NAMES - OF_TREES.keys()
    assert all((ROOT / page).exists() for page in OF_TREES.values())
