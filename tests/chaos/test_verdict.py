"""The verdicts of chaos runs, from ledgers with planted damage. No servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.chaos.causes import Faults
from benchmarks.chaos.driver import Options, Outcome
from benchmarks.chaos.injector import Happened
from benchmarks.chaos.ledger import Line
from benchmarks.chaos.orders import Order, make_order
from benchmarks.chaos.report import holds, to_dict
from benchmarks.chaos.shapes import step_number
from benchmarks.chaos.verdict import Reported, verdict_on

COMPLETED = Reported("COMPLETED", "SUCCESS")
COMPENSATED = Reported("COMPENSATED", "FAILURE")

#: The process that runs a body unless a test says otherwise, and its worker.
PID, WORKER = 11, 10


def order(*kinds: str, **more: Any) -> Order:
    return Order("s", kinds or ("late", "late"), **more)


def ledger(*entries: str) -> list[Line]:
    """Lines of ``f0 began effect ended``, one second apart.

    ``@12`` behind the ref names another process, ``@12/20`` its worker too, ``+1`` another round.
    """
    found = []
    for entry in entries:
        place, *whats = entry.split()
        ref, _, process = place.partition("@")
        ref, _, rounds = ref.partition("+")
        pid, _, worker = process.partition("/")
        direction, step = ref[0], int(ref[1:])
        for what in whats:
            keys = (f"s/{step}/{direction}/{rounds or 0}", f"s/{step}/f/0")
            who = (int(pid or PID), int(worker or WORKER))
            found.append(Line("s", step, direction, what, *keys, *who, float(len(found))))
    return found


DONE = ("f0 began effect ended", "f1 began effect ended")
COMPENSATION_RAN = ("f0 began effect ended", "f1 began failed", "c0 began effect ended")


def verdict(reported: Reported, *entries: str, of: Order | None = None, log: Any = ()) -> Any:
    return verdict_on(of or order(), reported, ledger(*entries), Faults(log))


class TestGood:
    def test_completed(self):
        found = verdict(COMPLETED, *DONE)
        assert (found.kind, found.reasons, found.false) == ("completed", [], False)
        assert not found.duplicates

    def test_compensated(self):
        found = verdict(COMPENSATED, *COMPENSATION_RAN)
        assert (found.kind, found.reasons, found.false) == ("compensated", [], False)

    def test_nothing_was_done(self):
        assert verdict(COMPENSATED, "f0 began failed").kind == "compensated"

    def test_an_attempt_that_was_aborted_may_be_compensated(self):
        killed = Happened("child", 0.5, worker=WORKER, pid=PID)
        assert verdict(COMPENSATED, "f0 began", "c0@12 began effect ended", log=[killed]).kind == (
            "compensated"
        )

    def test_a_claim_without_a_body_may_be_compensated(self):
        entries = ("f0 began effect ended", "c1 began effect ended", "c0 began effect ended")
        assert verdict(COMPENSATED, *entries).kind == "inconsistent"
        killed = Happened("child", 2.5, worker=77, pid=78)
        assert verdict(COMPENSATED, *entries, log=[killed]).kind == "compensated"

    def test_a_claim_without_a_body_before_one_that_declines(self):
        killed = Happened("worker", 2.5, worker=77)
        entries = ("f0 began effect ended", "f1 began failed", "c1 began effect ended")
        more = "c0 began effect ended"
        assert verdict(COMPENSATED, *entries, more, log=[killed]).kind == "compensated"

    def test_a_retry_is_one_effect(self):
        found = verdict(COMPLETED, "f0 began retried began effect ended", "f1 began effect ended")
        assert (found.kind, sum(found.duplicates.values())) == ("completed", 0)

    def test_a_pivot_has_no_compensation(self):
        entries = ("f0 began effect ended", "f1 began failed", "c0 began effect ended")
        assert verdict(COMPENSATED, *entries, of=order(pivot=True)).kind == "compensated"


class TestFalse:
    """The status is better than the truth."""

    def test_completed_and_an_effect_is_missing(self):
        found = verdict(COMPLETED, "f0 began effect ended", "f1 began ended")
        assert (found.kind, found.false) == ("inconsistent", True)

    def test_completed_and_an_effect_was_compensated(self):
        found = verdict(COMPLETED, *DONE, "c1 began effect ended")
        assert (found.kind, found.false) == ("inconsistent", True)

    def test_compensated_and_an_effect_exists(self):
        found = verdict(COMPENSATED, "f0 began effect ended", "f1 began failed")
        assert (found.kind, found.false) == ("inconsistent", True)

    def test_compensated_and_an_effect_came_late(self):
        late = "f1@12/20 effect ended"
        stop = Happened("stop", 0.0, worker=20, until=20.0)
        found = verdict(
            COMPENSATED,
            "f0 began effect ended",
            "f1@12/20 began",
            "c1 began effect ended",
            "c0 began effect ended",
            late,
            log=[stop],
        )
        assert (found.kind, found.false, found.late) == ("inconsistent", True, 1)

    def test_the_celery_result_says_something_else(self):
        found = verdict(Reported("COMPENSATED", "SUCCESS"), *COMPENSATION_RAN)
        assert (found.kind, found.false) == ("inconsistent", True)

    def test_the_celery_result_is_missing(self):
        found = verdict(Reported("COMPLETED", "PENDING"), *DONE)
        assert (found.kind, found.false) == ("inconsistent", False)

    def test_completed_although_it_took_a_cancel(self):
        found = verdict(Reported("COMPLETED", "SUCCESS", cancelled=True), *DONE)
        assert (found.kind, found.false) == ("inconsistent", True)


class TestCourse:
    """Nothing is left behind, and the status is right: but a promise was broken before the end."""

    @pytest.mark.parametrize(
        ("entries", "reason"),
        [
            (
                (*DONE, "f2 began failed", "c0 began effect ended", "c1 began effect ended"),
                "a compensation ran before that of a later step",
            ),
            (
                ("f0 began effect ended", "c0 began", "f1@12 began failed", "c0 effect ended"),
                "a step ran while its saga was rolled back",
            ),
            (("f1 began failed",), "a step began before the one before it had its effect"),
            (
                ("f0 began failed", "c0 began effect"),
                "a step was compensated that had left nothing",
            ),
            (
                ("f0 began failed", "c2 began effect"),
                "a step was compensated that had left nothing",
            ),
        ],
    )
    def test_it_was_wrong(self, entries, reason):
        found = verdict(COMPENSATED, *entries, of=order("late", "late", "late"))
        assert found.reasons == [reason]
        assert (found.kind, found.false) == ("inconsistent", False)

    def test_a_stopped_worker_may_run_a_step_of_a_saga_that_is_rolled_back(self):
        entries = ("f0 began effect ended", "f1@12/20 began", "c1 began effect ended")
        more = ("f1@12/20 effect ended", "c1+1 began effect ended", "c0 began effect ended")
        stop = Happened("stop", 3.5, worker=20, until=6.5)
        found = verdict(COMPENSATED, *entries, *more, log=[stop])
        assert (found.kind, found.late) == ("compensated", 1)

    def test_one_that_was_stopped_long_before_may_not(self):
        entries = (*COMPENSATION_RAN, "f1@12/20 began failed")
        stop = Happened("stop", -9.0, worker=20, until=-5.0)
        assert verdict(COMPENSATED, *entries, log=[stop]).kind == "inconsistent"

    def test_the_report_of_a_process_that_died_before_it_was_read(self):
        killed = Happened("child", 1.5, WORKER, PID)
        entries = ("f0 began failed", "c0@12 began effect ended")
        assert verdict(COMPENSATED, *entries, log=[killed]).kind == "compensated"


def test_what_is_wrong_is_written_with_its_ledger():
    """As JSON, and no more than that of the sagas with which something is wrong."""
    lines = ledger(*TestDuplicates.TWICE)
    bad = verdict_on(order(), COMPLETED, lines, Faults(()))
    good = verdict_on(order(), COMPENSATED, ledger(*COMPENSATION_RAN), Faults(()))
    outcome = Outcome(Options(2, 0, 1), [bad, good], [], {"s": lines}, seconds=1.0, waits=[1.0])

    found = json.loads(json.dumps(to_dict(outcome, {})))

    assert [wrong["duplicates"] for wrong in found["wrong"]] == [{"unexplained": 1}]
    assert len(found["wrong"][0]["ledger"]) == len(lines)
    assert found["verdicts"]["duplicate effects: unexplained"] == 1
    assert not holds(outcome)


class TestStuck:
    @pytest.mark.parametrize("status", ["STUCK", "RUNNING", "COMPENSATING", ""])
    def test_it_did_not_settle(self, status):
        found = verdict(Reported(status), "f0 began effect ended")
        assert (found.kind, found.false) == ("stuck", False)


class TestDuplicates:
    """The cause of an effect that came twice."""

    TWICE = ("f0 began effect", "f0@12/20 began effect ended", "f1 began effect ended")

    def causes(self, *log: Happened, entries: Any = TWICE, of: Order | None = None) -> list[str]:
        found = verdict(COMPLETED, *entries, log=log, of=of)
        assert found.kind == "completed", found.reasons
        return list(found.duplicates.elements())

    def test_without_a_fault(self):
        assert self.causes() == ["unexplained"]

    def test_a_killed_child(self):
        assert self.causes(Happened("child", 1.5, WORKER, PID)) == ["killed child"]

    def test_another_child_of_that_worker(self):
        assert self.causes(Happened("child", 1.5, WORKER, 99)) == ["unexplained"]

    def test_a_child_that_was_killed_too_early_or_too_late(self):
        assert self.causes(Happened("child", 0.5, WORKER, PID)) == ["unexplained"]
        assert self.causes(Happened("child", 3.5, WORKER, PID)) == ["unexplained"]

    def test_a_killed_worker(self):
        assert self.causes(Happened("worker", 1.5, WORKER)) == ["killed worker"]
        assert self.causes(Happened("worker", 1.5, 20)) == ["unexplained"]

    def test_a_worker_that_ended_by_itself(self):
        assert self.causes(Happened("ended", 1.5, WORKER)) == ["ended worker"]

    def test_a_stopped_worker(self):
        assert self.causes(Happened("stop", 1.5, WORKER, until=9.0)) == ["stopped worker"]
        assert self.causes(Happened("stop", 3.5, WORKER, until=9.0)) == ["unexplained"]
        assert self.causes(Happened("stop", -9.0, WORKER, until=-5.0)) == ["unexplained"]
        entries = ("f0 began", "f0@12/20 began effect ended", "f0 effect", "f1 began effect ended")
        stop = Happened("stop", 0.5, WORKER, until=3.5)
        assert self.causes(stop, entries=entries) == ["stopped worker"]

    def test_a_stopped_worker_whose_process_does_it_again_later(self):
        entries = ("f0 began effect ended", "f0 began effect ended", "f1 began effect ended")
        stop = Happened("stop", 0.5, WORKER, until=0.9)
        copy = Happened("duplicate", 0.1, refs=("s~f0~1",))
        assert self.causes(stop, copy, entries=entries) == ["stopped worker"]

    def test_a_worker_that_was_stopped_after_the_report_is_not_the_cause(self):
        entries = ("f0 began effect ended", "f0@13/30 began", *self.TWICE[1:])
        copy = Happened("duplicate", 0.1, refs=("s~f0~1",))
        for at, cause in ((2.5, "stopped worker"), (3.5, "duplicated message")):
            stop = Happened("stop", at, WORKER, until=9.0)
            assert self.causes(stop, copy, entries=entries) == [cause]

    def test_a_duplicated_message(self):
        copy = Happened("duplicate", 0.1, refs=("s~f0~1",))
        assert self.causes(copy) == ["duplicated message"]
        assert self.causes(Happened("duplicate", 0.1, refs=("s~f1~1",))) == ["unexplained"]

    def test_a_duplicated_message_is_not_excused_by_a_server(self):
        log = (Happened("duplicate", 0.1, refs=("s~f0~1",)), Happened("server", 1.0, until=2.0))
        assert self.causes(*log) == ["duplicated message"]

    def test_a_server_or_a_connection(self):
        assert self.causes(Happened("server", 1.2, until=1.4)) == ["killed server"]
        assert self.causes(Happened("cut", 1.2)) == ["cut connection"]
        assert self.causes(Happened("server", 0.2, until=0.4)) == ["unexplained"]

    def test_a_step_that_was_recorded_already(self):
        entries = ("f0 began effect ended", "f1 began", "f0@12/20 began effect ended", "f1 effect")
        killed = Happened("worker", 3.5, WORKER)
        assert self.causes(killed, entries=entries) == ["after its record"]

    def test_an_early_step_does_not_run_twice(self):
        log = [Happened("child", 1.5, WORKER, PID)]
        found = verdict(COMPLETED, *self.TWICE, of=order("early", "late"), log=log)
        assert found.reasons == ["an early step ran twice"]

    def test_an_early_pivot_may(self):
        entries = ("f0 began effect ended", "f1 began effect", "f1@12/20 began effect ended")
        causes = self.causes(
            Happened("child", 4.5, WORKER, PID), entries=entries, of=order("late", "early", pivot=1)
        )
        assert causes == ["killed child"]

    def test_a_compensation(self):
        entries = (*COMPENSATION_RAN[:2], "c0 began effect", "c0@12/20 began effect ended")
        killed = Happened("worker", 6.5, WORKER)
        found = verdict(COMPENSATED, *entries, log=[killed])
        assert (found.kind, dict(found.duplicates)) == ("compensated", {"killed worker": 1})


class TestTree:
    """Steps 0, 1 and 2-3 are branches, 4-6 and 7-9 items of loops, 10 and 11 alternatives."""

    DONE = tuple(f"f{step} began effect ended" for step in (*range(11), 12))
    #: A rollback after the parallel step, whose branches ended in the order of their numbers.
    FAILED = (*DONE[:4], "f4 began failed")
    BACK = tuple(f"c{step} began effect ended" for step in (3, 2, 1, 0))

    def verdict(self, reported: Reported, *entries: str, log: Any = ()) -> Any:
        return verdict(reported, *entries, of=order(*["late"] * 13, shape="tree"), log=log)

    def test_completed(self):
        assert self.verdict(COMPLETED, *self.DONE).kind == "completed"

    def test_compensated(self):
        found = self.verdict(COMPENSATED, *self.FAILED, *self.BACK)
        assert (found.kind, found.reasons) == ("compensated", [])

    def test_completed_and_the_effect_of_an_item_is_missing(self):
        found = self.verdict(COMPLETED, *self.DONE[:8], *self.DONE[9:])
        assert "COMPLETED, and an effect is missing" in found.reasons

    def test_a_compensation_is_missing(self):
        found = self.verdict(COMPENSATED, *self.FAILED, *self.BACK[:3])
        assert found.reasons == ["COMPENSATED, and an effect exists"]

    def test_both_alternatives_ran(self):
        found = self.verdict(COMPLETED, *self.DONE[:11], "f11 began effect ended", self.DONE[11])
        assert found.reasons == ["an alternative ran that was not taken"]

    def test_the_loop_began_before_the_last_branch_had_its_effect(self):
        entries = (*self.DONE[:3], "f4 began effect ended", self.DONE[3], *self.DONE[5:])
        found = self.verdict(COMPLETED, *entries)
        assert found.reasons == ["a step began before the one before it had its effect"]

    def test_branches_begin_in_any_order(self):
        entries = (*self.DONE[2:4], *self.DONE[:2], *self.DONE[4:])
        assert self.verdict(COMPLETED, *entries).kind == "completed"

    @pytest.mark.parametrize(
        "back", [(2, 3, 1, 0), (3, 2, 0, 1)], ids=["within a branch", "between branches"]
    )
    def test_compensations_out_of_order(self, back):
        entries = [f"c{step} began effect ended" for step in back]
        found = self.verdict(COMPENSATED, *self.FAILED, *entries)
        assert found.reasons == ["a compensation ran before that of a later step"]

    def test_branches_that_overlapped_are_compensated_in_any_order(self):
        begun = ("f0 began", "f1 began effect ended", "f0 effect ended", *self.FAILED[2:])
        for back in ((3, 2, 1, 0), (3, 2, 0, 1)):
            entries = [f"c{step} began effect ended" for step in back]
            assert self.verdict(COMPENSATED, *begun, *entries).kind == "compensated"

    def test_items_whose_compensations_have_no_order(self):
        forward = (*self.DONE[:10], "f10 began failed")
        back = [f"c{step} began effect ended" for step in (7, 9, 8, 6, 5, 4, 3, 2, 1, 0)]
        assert self.verdict(COMPENSATED, *forward, *back).kind == "compensated"

    def test_a_message_of_a_nested_step_was_duplicated(self):
        copy = Happened("duplicate", 0.1, refs=("s~f0.2.1~1",))
        entries = (*self.DONE[:3], "f3 began effect", "f3@12/20 began effect ended")
        found = self.verdict(COMPLETED, *entries, *self.DONE[4:], log=[copy])
        assert dict(found.duplicates) == {"duplicated message": 1}


def test_a_tree_has_the_same_task_in_all_items_of_a_loop_and_fails_where_it_comes():
    for number in range(200):
        found = make_order(3, number, "tree")
        assert found == make_order(3, number, "tree")
        assert len(set(found.kinds[4:7])) == len(set(found.kinds[7:10])) == 1
        assert found.fails is None or found.fails in found.chosen


@pytest.mark.parametrize(
    ("name", "number"), [("step-12", 12), ("nested.step-3", 3), ("step-7[2]", 9)]
)
def test_the_name_of_a_step_gives_its_number(name, number):
    assert step_number(name) == number
