"""The message locator, as tables: a snapshot and what earlier ones have shown, and the states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from celery_saga.core.events import MessageState
from celery_saga.core.ports import Backlog, Reserved
from celery_saga.core.recovery.message_locator import Expected, Located, Seen, Snapshot, locate
from celery_saga.core.recovery.policy import POLICY

NOW = 1_000.0
TASK = "s~f0~1"
MESSAGE = Expected(TASK, "queue", NOW - 60)
NOTHING = Seen()
RESERVED, DEFERRED = Reserved(TASK), Reserved(TASK, deferred=True)

WAITING, LOST = MessageState.WAITING, MessageState.LOST_WITH_WORKER
MISSING, BACKLOGGED = MessageState.MISSING, MessageState.BACKLOGGED
POSSIBLY = MessageState.POSSIBLY_QUEUED


def located(
    reserved: Mapping[str, Any], broker: Backlog, before: Seen = NOTHING, at: float = NOW
) -> Located:
    """What is found of one message; the instances ``one`` and ``two`` are alive."""
    found = {instance: frozenset({each}) for instance, each in reserved.items()}
    snapshot = Snapshot(at, found, frozenset({"one", "two"}), broker)
    return locate([MESSAGE], snapshot, before, POLICY)


def contents(*task_ids: str) -> Mapping[str, frozenset[str]]:
    return {"queue": frozenset(task_ids)}


EMPTY, LONG = Backlog(empty=frozenset({"queue"})), Backlog(long=frozenset({"queue"}))
UNKNOWN, THERE, ABSENT = Backlog(), Backlog(waiting=contents(TASK)), Backlog(waiting=contents("x"))


class TestOneSnapshot:
    @pytest.mark.parametrize("broker", [UNKNOWN, EMPTY, LONG, THERE, ABSENT], ids=str)
    @pytest.mark.parametrize(
        ("reserved", "state"),
        [
            pytest.param({"one": RESERVED}, POSSIBLY, id="a live worker"),
            pytest.param({"one": DEFERRED}, WAITING, id="deferred by a live worker"),
            pytest.param({"dead": RESERVED}, LOST, id="a dead worker"),
            pytest.param({"dead": DEFERRED}, LOST, id="deferred by a dead worker"),
            pytest.param({"dead": RESERVED, "lost": RESERVED}, LOST, id="two dead workers"),
            pytest.param({"dead": RESERVED, "one": RESERVED}, POSSIBLY, id="dead and then live"),
            pytest.param({"one": RESERVED, "dead": RESERVED}, POSSIBLY, id="live and then dead"),
            pytest.param({"one": DEFERRED, "dead": RESERVED}, WAITING, id="deferred and a dead"),
            pytest.param({"one": RESERVED, "two": DEFERRED}, WAITING, id="a copy is deferred"),
        ],
    )
    def test_what_a_worker_reports_counts_more_than_its_queue(self, reserved, state, broker):
        copied = state is LOST and broker is THERE  # a copy that a live worker may take
        assert located(reserved, broker).states == {MESSAGE: WAITING if copied else state}

    @pytest.mark.parametrize(
        ("broker", "state"),
        [
            pytest.param(EMPTY, MISSING, id="an empty queue"),
            pytest.param(THERE, WAITING, id="in its queue"),
            pytest.param(ABSENT, POSSIBLY, id="not in its queue, for the first time"),
            pytest.param(LONG, BACKLOGGED, id="a long queue"),
            pytest.param(UNKNOWN, POSSIBLY, id="a queue of which nothing is known"),
            pytest.param(Backlog(empty=frozenset({"x"})), POSSIBLY, id="another queue is empty"),
        ],
    )
    def test_without_a_worker_the_queue_counts(self, broker, state):
        assert located({}, broker).states == {MESSAGE: state}

    def test_a_message_whose_queue_is_not_known_may_wait(self):
        message = MESSAGE._replace(queue="")
        snapshot = Snapshot(NOW, {}, frozenset(), EMPTY)
        assert locate([message], snapshot, Seen(), POLICY).states == {message: POSSIBLY}


Steps = list[tuple[float, Mapping[str, Reserved], Backlog]]


def last_of(steps: Steps) -> Located:
    """What the last of several snapshots shows; each is so many seconds after the one before."""
    at, found = NOW, Located({}, (), Seen())
    for later, reserved, broker in steps:
        at += later
        found = located(reserved, broker, found.seen, at)
    return found


class TestSeveralSnapshots:
    @pytest.mark.parametrize(
        ("steps", "state"),
        [
            pytest.param([(0, {}, ABSENT), (4, {}, ABSENT)], MISSING, id="two heartbeats apart"),
            pytest.param([(0, {}, ABSENT), (3.9, {}, ABSENT)], POSSIBLY, id="too soon"),
            pytest.param(
                [(0, {}, ABSENT), (2, {}, ABSENT), (2, {}, ABSENT)], MISSING, id="at three"
            ),
            pytest.param(
                [(0, {}, ABSENT), (2, {}, THERE), (2, {}, ABSENT)], POSSIBLY, id="there meanwhile"
            ),
            pytest.param(
                [(0, {}, ABSENT), (2, {"one": RESERVED}, ABSENT), (2, {}, ABSENT)],
                POSSIBLY,
                id="at a worker meanwhile",
            ),
            pytest.param(
                [(0, {}, ABSENT), (2, {}, UNKNOWN), (2, {}, ABSENT)],
                POSSIBLY,
                id="unknown meanwhile",
            ),
            pytest.param([(0, {}, ABSENT), (60, {}, ABSENT)], POSSIBLY, id="too long ago"),
            pytest.param(
                [(0, {"one": DEFERRED}, UNKNOWN), (29, {"one": RESERVED}, UNKNOWN)],
                WAITING,
                id="deferred just now",
            ),
            pytest.param(
                [(0, {"one": DEFERRED}, UNKNOWN), (30, {"one": RESERVED}, UNKNOWN)],
                POSSIBLY,
                id="deferred long ago",
            ),
            pytest.param(
                [(0, {"one": DEFERRED}, UNKNOWN), (10, {"dead": RESERVED}, UNKNOWN)],
                LOST,
                id="deferred and then lost",
            ),
            pytest.param(
                [(0, {"one": DEFERRED}, UNKNOWN), (10, {}, EMPTY)],
                MISSING,
                id="deferred and then missing",
            ),
        ],
    )
    def test_what_earlier_ones_have_shown_counts(self, steps, state):
        assert last_of(steps).states == {MESSAGE: state}

    def test_a_message_that_was_sent_again_is_missing_anew(self):
        again = MESSAGE._replace(expected_at=NOW)
        before = located({}, ABSENT).seen
        snapshot = Snapshot(NOW + 4, {}, frozenset(), ABSENT)
        assert locate([again], snapshot, before, POLICY).states == {again: POSSIBLY}


class TestDeliveries:
    TAKEN = Backlog(unacknowledged={"tag 1": TASK, "tag 2": "other"})

    @pytest.mark.parametrize(
        ("reserved", "unowned"),
        [
            pytest.param({}, (TASK, "other"), id="no worker reports them"),
            pytest.param({"one": RESERVED}, ("other",), id="a live worker has one"),
            pytest.param({"dead": RESERVED}, ("other",), id="a dead worker has one"),
        ],
    )
    def test_those_that_no_worker_reports(self, reserved, unowned):
        assert located(reserved, self.TAKEN).unowned == unowned

    def test_each_is_named_once(self):
        steps: Steps = [(0, {}, self.TAKEN), (4, {}, self.TAKEN)]
        assert last_of(steps).unowned == ()
        again = Backlog(unacknowledged={"tag 2": "other", "tag 3": TASK})
        assert last_of([*steps, (4, {}, again)]).unowned == (TASK,)
        assert last_of([*steps, (4, {}, Backlog()), (4, {}, self.TAKEN)]).unowned == (TASK, "other")


def test_what_was_seen_before_is_not_changed():
    """The caller may ask the same twice."""
    before = located({"one": DEFERRED}, ABSENT).seen
    first = located({}, ABSENT, before, NOW + 4)
    assert located({}, ABSENT, before, NOW + 4) == first
    assert before == located({"one": DEFERRED}, ABSENT).seen
