"""The failure table, first part: what a step's task may do, or may be done to it, that leaves its
worker alive; on every pool. docs/guarantees.md has the whole table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.tiers import POOLS
from tests.worker.apps import bodies as tasks
from tests.worker.harness import Site, Worker
from tests.worker.stage import expect_no_leftovers

pytestmark = pytest.mark.worker

#: A compensation is tried twice, almost at once.
COMPENSATION = {"max_attempts": 2, "retry_backoff": 0.05}

#: Seconds; a body that is "long" takes more than twice as many, one that is "endless" is cut off.
LIMIT = 1.0

DONE, COMPENSATED, STUCK = "COMPLETED", "COMPENSATED", "STUCK"


@dataclass
class Table:
    """One pool's worker, and how to start sagas on it."""

    pool: str
    site: Site
    worker: Worker

    def start(
        self,
        a: Any = tasks.late,
        compensation: Any = tasks.compensation,
        *,
        saga_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        compensation_options: Mapping[str, Any] | None = None,
        **ways: str,
    ) -> SagaResult:
        """A saga of the step ``a`` between two others, all with compensations.

        Args:
            ways: what the bodies do: ``f`` and ``c`` for those of ``a``, ``end`` for the last step.
        """
        saga = Saga("table", app=self.site.app)
        saga.local_step(tasks.late, name="start").on_failure(tasks.compensation)
        step = saga.local_step(a, name="a", **(options or {}))
        step.on_failure(compensation, **{**COMPENSATION, **(compensation_options or {})})
        saga.local_step(tasks.late, name="end").on_failure(tasks.compensation)
        names = {"f": "a/f", "c": "a/c", "end": "end/f"}
        names |= {"before_f": "before a/f", "before_c": "before a/c"}
        context = {"ways": {names[key]: way for key, way in ways.items()}}
        return saga.commit().apply_async(context, saga_id=saga_id)

    def ledger(self, result: SagaResult) -> tuple[str, list[str]]:
        """How the saga ended, and the bodies of ``a`` as ``f`` and ``c``.

        The steps beside it have done what follows from that.
        """
        status = self.site.settled(result)
        began = self.site.journal.began(result.id)
        around = [name for name in began if not name.startswith("a/")]
        forward = ["start/f", "end/f"] if "end/f" in around else ["start/f"]
        assert around == (forward if status == DONE else [*forward, "start/c"])
        return status, [name[2:] for name in began if name.startswith("a/")]

    def log(self, text: str) -> None:
        """Wait until the worker has said that."""
        wait_for(lambda: text in self.worker.text(), description=f"the worker to say {text!r}")

    def consume(self, queue: str) -> None:
        self.site.app.control.add_consumer(queue)


@pytest.fixture(scope="module")
def tables(journal, folder, pools) -> Iterator[dict[str, Table]]:
    """A worker of each pool that is wanted, on a database of its own."""
    with EmbeddedValkey() as server:
        found = {}
        for database, pool in enumerate(pools):
            site = Site(server.url(database), journal, folder)
            # So that the main process, however slow, reports the end of a task before the
            # heartbeat misses it.
            site.settings["saga_heartbeat"] = 1.0
            worker = site.start("-P", pool, app="tests.worker.apps.table")
            found[pool] = Table(pool, site, worker)
        try:
            for one in found.values():
                one.worker.wait_until_ready()
            yield found
        finally:
            for one in found.values():
                one.site.close()


@pytest.fixture(params=POOLS)
def on(request, tables) -> Iterator[Table]:
    found: Table = tables[request.param]
    yield found
    expect_no_leftovers(found.site)
    assert found.worker.process.alive


def only(*pools: str) -> pytest.MarkDecorator:
    """The row concerns these pools."""
    return pytest.mark.parametrize("on", pools, indirect=True)


class TestOutOfMemory:
    """On the other pools it ends the worker: test_failure_table_workers.py.

    What else a body may do is in test_bodies.py.
    """

    @only("threads", "gevent")
    def test_of_a_step_and_of_a_compensation(self, on):
        step = on.start(f="out of memory")
        compensation = on.start(c="out of memory", end="declines")
        assert on.ledger(step) == (COMPENSATED, ["f", "c"])
        assert on.ledger(compensation) == (STUCK, ["f", "c", "c"])


class TestBeforeTheBody:
    """What raises before the body begins, and before the wrapper round it: it left nothing.

    No worker has claimed the step, and its message is not taken for a lost one.
    """

    AGAIN: ClassVar = {"retriable": True, "max_attempts": 3, "retry_backoff": 0.05}
    STEPS: ClassVar = {
        "early": ("prepared", "declines", {}, COMPENSATED, ""),
        "late": ("late_prepared", "declines", {}, COMPENSATED, ""),
        "annotation": ("annotated", "declines", {}, COMPENSATED, ""),
        "rejects": ("late_prepared", "rejects", {}, COMPENSATED, ""),
        "autoretry is for bodies": ("retried_prepared", "declines", {}, COMPENSATED, ""),
        "retriable": ("prepared", "declines at first", AGAIN, DONE, "f"),
        "retriable without success": ("prepared", "declines", AGAIN, COMPENSATED, ""),
        "retries": ("prepared", "retries", {}, DONE, "f"),
        "retries without success": (
            "late_prepared",
            "retries without success",
            {},
            COMPENSATED,
            "",
        ),
    }
    COMPENSATIONS: ClassVar = {
        "early": ("prepared", "declines", STUCK, "f"),
        "late": ("late_prepared", "declines", STUCK, "f"),
        "annotation": ("annotated", "declines", STUCK, "f"),
        "at first": ("prepared", "declines at first", COMPENSATED, "fc"),
        "retries": ("late_prepared", "retries", COMPENSATED, "fc"),
    }

    @pytest.fixture(scope="class")
    @classmethod
    def sagas(cls, tables) -> dict[tuple[str, str, str], SagaResult]:
        found = {}
        for pool, on in tables.items():
            for row, (task, way, options, *_) in cls.STEPS.items():
                step = on.start(getattr(tasks, task), options=options, before_f=way)
                found[pool, "step", row] = step
            for row, (task, way, *_) in cls.COMPENSATIONS.items():
                compensation = on.start(
                    compensation=getattr(tasks, task), before_c=way, end="declines"
                )
                found[pool, "compensation", row] = compensation
        return found

    @pytest.mark.parametrize("row", STEPS)
    def test_a_step(self, on, sagas, row):
        result = sagas[on.pool, "step", row]
        _, way, options, status, bodies = self.STEPS[row]
        assert on.ledger(result) == (status, [*bodies])
        step = result.execution.steps[1]
        assert (step.republished, step.lost, step.effect) == (0, 0, status == DONE)
        if status == COMPENSATED:
            assert step.status == "FAILED"
            assert step.attempts == options.get("max_attempts", 1)
            texts = {"declines": "declined", "rejects": "rejected"}
            assert texts.get(way, "not now") in step.error.message

    @pytest.mark.parametrize("row", COMPENSATIONS)
    def test_a_compensation(self, on, sagas, row):
        result = sagas[on.pool, "compensation", row]
        *_, status, bodies = self.COMPENSATIONS[row]
        assert on.ledger(result) == (status, [*bodies])
        step = result.execution.steps[1]
        assert (step.republished, step.lost) == (0, 0)
        if status == STUCK:
            assert step.attempts == COMPENSATION["max_attempts"]
            assert step.compensation_error.message == "declined"


class TestBodiesThatAreCutOff:
    """``SystemExit`` and its like; under solo that ends the worker: test_failure_table_workers.py.

    More often than there are places for prefetched messages, which must not be used up.
    """

    WAYS = ("exits", "is cancelled")
    ROWS: ClassVar = {
        "late": (DONE, "ff"),
        "early": (COMPENSATED, "fc"),
        "compensation": (COMPENSATED, "fcc"),
        "early_compensation": (COMPENSATED, "fcc"),
    }

    @pytest.fixture(scope="class")
    @classmethod
    def sagas(cls, tables) -> dict[tuple[str, str, str, int], SagaResult]:
        found = {}
        for pool in tables.keys() - {"solo"}:
            on = tables[pool]
            for way, row, number in itertools.product(cls.WAYS, cls.ROWS, range(2)):
                task = getattr(tasks, row)
                compensation = "compensation" in row
                found[pool, way, row, number] = (
                    on.start(compensation=task, c=way, end="declines")
                    if compensation
                    else on.start(task, f=way)
                )
        return found

    @only("prefork", "threads", "gevent")
    @pytest.mark.parametrize("row", ROWS)
    @pytest.mark.parametrize("way", WAYS)
    def test_the_outcome_is_unknown(self, on, sagas, way, row):
        status, bodies = self.ROWS[row]
        for number in range(2):
            result = sagas[on.pool, way, row, number]
            assert on.ledger(result) == (status, [*bodies])
            if row == "early":
                assert result.execution.steps[1].error.type == "OutcomeUnknown"


class TestLostChild:
    """A body that takes its process along; SIGKILL from outside: test_03_unknown_outcomes.py."""

    #: Name of the task; what becomes of a step of it, and of a compensation.
    ROWS: ClassVar = {
        "late": ((DONE, "ff"), (COMPENSATED, "fcc")),
        "early": ((COMPENSATED, "fc"), (COMPENSATED, "fcc")),
        "requeued": ((DONE, "ff"), (COMPENSATED, "fcc")),
        "late_resent": ((DONE, "ff"), (COMPENSATED, "fcc")),
        "early_resent": ((DONE, "ff"), (COMPENSATED, "fcc")),
    }

    RERUN = ("late", "requeued", "late_resent", "early_resent")

    @pytest.fixture(scope="class")
    @classmethod
    def lost(cls, tables) -> dict[str, tuple[SagaResult, ...]]:
        """All sagas at once: Celery takes some seconds to notice each death."""
        on = tables["prefork"]
        found = {}
        for name in cls.ROWS:
            task = getattr(tasks, name)
            step = on.start(task, f="dies")
            found[name] = (step, on.start(compensation=task, c="dies", end="declines"))
        for name in cls.RERUN:
            found[f"{name} declines"] = (on.start(getattr(tasks, name), f="dies then declines"),)
        return found

    @only("prefork")
    @pytest.mark.parametrize("name", ROWS)
    def test_it_is_unknown(self, on, lost, name):
        for result, (status, bodies) in zip(lost[name], self.ROWS[name], strict=True):
            assert on.ledger(result) == (status, [*bodies])

    @only("prefork")
    @pytest.mark.parametrize("name", RERUN)
    def test_a_rerun_that_declines_is_compensated(self, on, lost, name):
        """Its clean error does not prove it: the first attempt may be why it declines."""
        (result,) = lost[f"{name} declines"]
        assert on.ledger(result) == (COMPENSATED, ["f", "f", "c"])

    @only("prefork")
    @pytest.mark.parametrize("name", ["late_resent", "early_resent"])
    def test_retry_on_worker_lost_is_a_retry_of_celerys(self, on, lost, name):
        """Celery's countdown is kept, and the engine does not send the step as well."""
        for result, epoch in zip(lost[name], (1, 2), strict=True):
            on.ledger(result)
            step = result.execution.steps[1]
            assert (step.lost, step.epoch) == (0, epoch)


class TestLimits:
    SOFT, HARD = {"soft_time_limit": LIMIT}, {"time_limit": LIMIT}
    #: Where Celery enforces which limit.
    CUT: ClassVar = {
        ("prefork", "soft"): (SOFT, "billiard.exceptions.SoftTimeLimitExceeded"),
        ("prefork", "hard"): (HARD, "celery.exceptions.TimeLimitExceeded"),
        ("gevent", "hard"): (HARD, "celery.exceptions.TimeLimitExceeded"),
    }
    NOT_CUT: ClassVar = {"threads": SOFT | HARD, "solo": SOFT | HARD, "gevent": SOFT}

    @pytest.fixture(scope="class")
    @classmethod
    def sagas(cls, tables) -> dict[Any, SagaResult]:
        found = {}
        for pool, kind in [row for row in cls.CUT if row[0] in tables]:
            on, (limit, _) = tables[pool], cls.CUT[pool, kind]
            found[pool, kind, "step"] = on.start(f="endless", options=limit)
            compensation = on.start(c="endless", end="declines", compensation_options=limit)
            found[pool, kind, "compensation"] = compensation
        for pool in cls.NOT_CUT.keys() & tables.keys():
            found[pool] = tables[pool].start(f="long", options=cls.NOT_CUT[pool])
        return found

    @pytest.mark.parametrize(("on", "kind"), CUT, indirect=["on"])
    def test_a_step_over_its_limit_may_have_happened(self, on, sagas, kind):
        result = sagas[on.pool, kind, "step"]
        assert on.ledger(result) == (COMPENSATED, ["f", "c"])
        assert result.execution.error.type == self.CUT[on.pool, kind][1]

    @pytest.mark.parametrize(("on", "kind"), CUT, indirect=["on"])
    def test_a_compensation_over_its_limit_is_tried_again(self, on, sagas, kind):
        result = sagas[on.pool, kind, "compensation"]
        assert on.ledger(result) == (STUCK, ["f", "c", "c"])
        assert result.execution.steps[1].compensation_error.type == self.CUT[on.pool, kind][1]

    @only("prefork")
    @pytest.mark.parametrize(
        ("task", "error"),
        [
            (tasks.over_its_soft_limit, "SoftTimeLimitExceeded"),
            (tasks.over_its_hard_limit, "TimeLimitExceeded"),
        ],
        ids=["soft", "hard"],
    )
    def test_a_limit_of_the_task_itself(self, on, task, error):
        result = on.start(task)
        assert on.ledger(result) == (COMPENSATED, ["f", "c"])
        assert error in result.execution.error.type

    @only("prefork")
    @pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")
    def test_a_compensation_that_needs_the_answer_which_the_limit_cut_off(self, on):
        options = {"inputs": ["receipt"]}
        result = on.start(
            tasks.over_its_hard_limit,
            compensation="tests.worker.apps.bodies.compensation_needs",
            options={"returns": "receipt"},
            compensation_options=options,
        )
        assert on.ledger(result) == (STUCK, ["f"])
        assert "'receipt'" in result.execution.steps[1].compensation_error.message

    @only("prefork")
    def test_a_retry_after_the_soft_limit_that_declines_is_compensated(self, on):
        """Autoretry takes the limit for an error like any other; the first body may have acted."""
        result = on.start(tasks.retried, f="endless then declines", options=self.SOFT)
        assert on.ledger(result) == (COMPENSATED, ["f", "f", "c"])

    @pytest.mark.parametrize("on", NOT_CUT, indirect=True)
    def test_limits_that_the_pool_does_not_enforce(self, on, sagas):
        assert on.ledger(sagas[on.pool]) == (DONE, ["f"])


class TestRevoked:
    def test_before_it_started(self, on):
        result_id = f"revoked-{on.pool}"
        on.site.app.control.revoke(f"{result_id}~f1~1")
        on.log(f"flagged as revoked: {result_id}")

        assert on.ledger(on.start(saga_id=result_id)) == (COMPENSATED, [])

    def test_a_compensation_before_it_started(self, on):
        result_id = f"revoked-compensation-{on.pool}"
        on.site.app.control.revoke(f"{result_id}~c1~2")
        on.log(f"flagged as revoked: {result_id}")

        result = on.start(saga_id=result_id, end="declines")
        assert on.ledger(result) == (COMPENSATED, ["f", "c"])
        assert result.execution.steps[1].epoch == 3

    @only("prefork", "gevent")
    @pytest.mark.parametrize("task", [tasks.late, tasks.early])
    def test_terminated_while_it_runs(self, on, task):
        result = on.start(task, f="held")
        on.site.journal.wait(result.id, "began", 2)

        on.site.app.control.revoke(f"{result.id}~f1~1", terminate=True)

        assert on.ledger(result) == (COMPENSATED, ["f", "c"])
        assert result.execution.error.type == "celery.exceptions.TaskRevokedError"

    @only("prefork", "gevent")
    def test_a_compensation_terminated_while_it_runs(self, on):
        result = on.start(c="held once", end="declines")
        on.site.journal.wait(result.id, "began", 4)

        on.site.app.control.revoke(f"{result.id}~c1~2", terminate=True)

        assert on.ledger(result) == (COMPENSATED, ["f", "c", "c"])

    @only("threads", "solo")
    def test_pools_that_cannot_terminate_let_it_run(self, on):
        result = on.start(f="held")
        on.site.journal.wait(result.id, "began", 2)

        on.site.app.control.revoke(f"{result.id}~f1~1", terminate=True)
        if on.pool == "threads":
            on.log(f"Terminating {result.id}")
        on.site.journal.open(result.id, "a/f")

        assert on.ledger(result) == (DONE, ["f"])


class TestMessages:
    def test_a_step_that_expired(self, on):
        options = {"queue": f"expired-{on.pool}", "expires": 0.3}
        result = on.start(options=options)
        wait_for(lambda: on.site.client.llen(options["queue"]) == 1, description="the message")
        on.site.pass_time(0.4)
        on.consume(options["queue"])

        assert on.ledger(result) == (COMPENSATED, [])
        assert "expired" in result.execution.error.message

    def test_a_queue_without_a_worker(self, on):
        """The saga waits, and continues when a worker comes."""
        result = on.start(options={"queue": f"nobodys-{on.pool}"})
        waiting = f"nobodys-{on.pool}"
        wait_for(lambda: on.site.client.llen(waiting) == 1, description="the message")
        on.site.pass_time(1)
        assert result.status.value == "RUNNING"
        assert on.site.client.llen(waiting) == 1

        on.consume(waiting)

        assert on.ledger(result) == (DONE, ["f"])

    def test_a_task_that_no_worker_knows(self, on):
        on.site.app.conf.saga_unknown_task_grace = 0
        try:
            options = {"inputs": []}
            step = on.start("table.unknown", options=options)
            compensation = on.start(
                compensation="table.unknown", compensation_options=options, end="declines"
            )
            assert on.site.settled(step) == STUCK
            assert on.ledger(compensation) == (STUCK, ["f"])
        finally:
            on.site.app.conf.saga_unknown_task_grace = 600
        assert "no worker knows task 'table.unknown'" in step.execution.error.message
        assert "no worker knows" in compensation.execution.steps[1].compensation_error.message


LEAVES = ["alone", "group 1", "group 2", "first", "second", "header 1", "header 2", "body"]


@pytest.mark.parametrize("direction", ["f", "c"])
def test_canvases_that_a_body_launches(on, direction):
    """They run under the saga's root id; the saga does not wait for them."""
    result = on.start(f="launches") if direction == "f" else on.start(c="launches", end="declines")
    assert on.ledger(result) == ((DONE, ["f"]) if direction == "f" else (COMPENSATED, ["f", "c"]))
    assert on.site.journal.said(result.id, "leaf") == []

    on.consume(f"leaves-{direction}")
    on.site.journal.wait(result.id, "leaf", len(LEAVES))

    leaves = {line["leaf"]: line for line in on.site.journal.said(result.id, "leaf")}
    assert sorted(leaves) == sorted(LEAVES)
    assert all(line["known"] is None for line in leaves.values())
    me = f"{result.id}~f1~1" if direction == "f" else f"{result.id}~c1~2"
    for name in ("alone", "group 1", "group 2", "first", "header 1", "header 2"):
        assert leaves[name]["parent"] == me
