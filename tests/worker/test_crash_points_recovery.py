"""SIGKILL for a worker that recovers sagas, before and after each of its writes and publishes.

Wherever it dies, another worker continues, and the saga ends as if no process had died. Workers
that run bodies do not sweep here, so that a sweeper's death costs no body.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace

import pytest
import redis
from celery.result import AsyncResult

from celery_saga.core.events import PauseRequested, ResumeRequested
from celery_saga.core.ports import Reserved
from celery_saga.runtime import runtime_of
from tests.helpers import wait_for
from tests.worker.apps.crashing_steps import early
from tests.worker.crashes import WAYS, bodies, died, order, whens
from tests.worker.recovering import APP, FRAIL, SOON, STURDY, Forked, Path, row

pytestmark = [pytest.mark.worker, pytest.mark.timeout(400)]

TARGETS = row(queue="target")

#: Path -> how a sweeping worker comes to a write of its own.
PATHS = {
    "a lost step is run again": Path(
        "ClaimVoided f0", "COMPLETED", "a a b", (TARGETS, row()), "killed", {"hold": ["a/f"]}
    ),
    "a lost step turns the saga back": Path(
        "ClaimVoided c0",
        "COMPENSATED",
        "a A",
        (row(early, queue="target"), row()),
        "killed",
        {"hold": ["a/f"]},
    ),
    "a lost step without a compensation ends the saga": Path(
        "ClaimVoided STUCK",
        "STUCK",
        "a",
        (row(early, None, queue="target"), row()),
        "killed",
        {"hold": ["a/f"]},
    ),
    "a lost compensation is run again": Path(
        "ClaimVoided c0",
        "COMPENSATED",
        "a b A A",
        (row(back_queue="target"), row()),
        "killed",
        {"hold": ["a/c"], "fail": ["b/f"]},
    ),
    "a lost step waits for the end of the pause": Path(
        "ClaimVoided nothing",
        "COMPLETED",
        "a a b",
        (TARGETS, row()),
        "paused and killed",
        {"hold": ["a/f"]},
    ),
    "a lost message is sent again": Path(
        "Overdue f0", "COMPLETED", "a b", (row(queue="lost"), row()), "lost"
    ),
    "a message that a dead worker held is sent again": Path(
        "Overdue f0", "COMPLETED", "a b", (row(queue="held"), row()), "held"
    ),
    "a compensation's next attempt is due": Path(
        "Overdue c0",
        "COMPENSATED",
        "a b A A",
        (row(compensation=SOON), row()),
        context={"fail": ["b/f"], "once": {"a/c": "fail"}},
    ),
    "a step's next attempt is due": Path(
        "Overdue f0",
        "COMPLETED",
        "a a b",
        (row(retriable=True, max_attempts=3, **SOON), row()),
        context={"once": {"a/f": "fail"}},
    ),
    "a start is due": Path("Overdue f0", "COMPLETED", "a b", run={"countdown": 0.5}),
    "a task that no worker knew is offered again": Path(
        "Overdue f0", "STUCK", "", (row("unknown.task", None, inputs=[]),), grace=4.0
    ),
    "the deadline of a step that no worker received": Path(
        "Overdue c0", "COMPENSATED", "a A", (row(), row(queue="unconsumed")), "late b"
    ),
    "the deadline of a step that runs": Path(
        "Overdue nothing", "COMPENSATED", "a A", (row(), row()), "late a", {"hold": ["a/f"]}
    ),
    "the deadline before the start": Path(
        "Overdue COMPENSATED", "COMPENSATED", "", trouble="late", run={"countdown": 600}
    ),
}

CASES = {
    way: [(name, at) for name, path in PATHS.items() for at in whens(way, path.place)]
    for way in WAYS
}

#: What happens to sagas whose workers or messages are lost; the others wait for their time.
LOST = ("killed", "paused and killed", "lost", "held")

#: Tables of a way; each is run by sweepers of its own, and so are the ends, two at a time.
LOSSES, TIMES = "losses", "times"


def table_of(name):
    """The table that a path belongs to."""
    return LOSSES if PATHS[name].trouble in LOST else TIMES


#: Where a result that was not published yet is published: the first to die is the body's process.
PUBLISHING = {
    "the check is not saved": "Overdue nothing before save",
    "the check is saved": "Overdue nothing after save",
    "no caller is notified": "COMPLETED before publish",
    "all are notified": "COMPLETED after publish",
    "it is not noted that all are notified": "ResultStored nothing before save",
    "it is noted": "ResultStored nothing after save",
}
END = Path("StepSucceeded COMPLETED", "COMPLETED", "a", (row(queue="publishing"),))


def table_of_end(name):
    """A sweeper's death may cost others' ends a look, and each next look comes later: two each."""
    return f"ends {[*PUBLISHING].index(name) // 2}"


def times_notified(name):
    """How often a caller is notified at least: again if the notification was not saved."""
    return 2 if name in ("all are notified", "it is not noted that all are notified") else 1


#: What a sweeper writes of itself and of others that are dead.
INSTANCES = tuple(
    f"{at} {verb}"
    for verb in ("heartbeat", "register_app", "deregister")
    for at in ("before", "after")
)


class Sweeping:
    """A table of a way: trouble comes to all sagas, then sweepers come and die one by one."""

    def __init__(self, site, way, table):
        self.site, self.store = site, runtime_of(site.app).store
        frail = {"app": APP, "env": {"SAGA_TEST_ROLE": "target "}, **FRAIL}
        targets = [
            site.start("-P", "threads", "-c", "64", "-Q", "target", **frail),
            site.start(
                "-P", "threads", "-c", "1", "-Q", "held", "--prefetch-multiplier", "64", **frail
            ),
        ]
        self.bodies("celery", "-P", "threads", "-c", "4")
        self.bodies("publishing", "-c", "2")
        plug = Path("", "", "", (row(queue="held"),), context={"hold": ["a/f"]}).start(site)
        site.journal.wait(plug.id, "began", timeout=60)
        self.results = {
            (name, at): PATHS[name].start(site, f"sweeper {PATHS[name].place} {at}")
            for name, at in CASES[way]
            if table_of(name) == table
        }
        self.recorded = {
            name: END.start_with_callers(
                site, "bodies COMPLETED before publish", f"sweeper {place}"
            )
            for name, place in PUBLISHING.items()
            if table_of_end(name) == table
        }
        self.trouble()
        for target in targets:
            target.kill()
        for name, result in [*self.each("killed"), *self.each("paused and killed")]:
            site.journal.open(result.id, PATHS[name].context["hold"][0])
        site.journal.open(plug.id, "a/f")
        self.bodies("target,held,lost", "-P", "threads", "-c", "4")
        if table == LOSSES:  # only there are instances that have left something
            order(site, "instances", *(f"sweeper {place}" for place in INSTANCES))
        sweeper = ["-P", "solo", "-Q", "aside"]
        Forked(site, "sweeper ", *[sweeper] * 4, again=True, **FRAIL)
        self.running = [*self.results.values(), *self.recorded.values()]
        with contextlib.suppress(AssertionError):  # each test looks at its own saga
            wait_for(self.settled, 300, interval=0.1)
            wait_for(self.heard, 30, interval=0.1)
        for worker in site.workers:
            worker.kill()
        self.instances_died = died(site, "instances")
        site.journal.client.delete("die:instances")  # they are those of the next table as well

    def bodies(self, queues, *options):
        env = {"SAGA_TEST_ROLE": "bodies "}
        return self.site.start(*options, "-Q", queues, app=APP, env=env, **STURDY)

    def each(self, trouble):
        return [
            (name, result)
            for (name, _), result in self.results.items()
            if PATHS[name].trouble == trouble
        ]

    def ask(self, result, event):
        runtime_of(self.site.app).orchestrator.apply(result.id, event(self.store.now()))

    def trouble(self):
        journal = self.site.journal
        with redis.Redis.from_url(self.site.settings["broker_url"]) as broker:
            broker.delete("lost")
        for name, result in [*self.each("killed"), *self.each("paused and killed")]:
            path = PATHS[name]
            count = 1 + bodies(path.bodies).index(path.context["hold"][0])
            journal.wait(result.id, "began", count, timeout=60)
        for _, result in self.each("paused and killed"):
            self.ask(result, PauseRequested)
        for _, result in self.each("held"):
            wait_for(lambda r=result: self.reserved(f"{r.id}~f0~1"), 60)
        for _, result in self.each("late b"):
            wait_for(lambda r=result: r.progress["b"] == "RUNNING", 60)
        for _, result in self.each("late a"):
            journal.wait(result.id, "began", timeout=60)
        for trouble in ("late b", "late a", "late"):
            for _, result in self.each(trouble):
                self.let_the_deadline_pass(result)

    def reserved(self, task_id):
        """Whether a worker has received a message and not started it."""
        return any(Reserved(task_id) in found for found in self.store.reserved_by().values())

    def let_the_deadline_pass(self, result):
        saved = None
        while saved is None:  # another process was quicker
            execution, at = result.execution, self.store.now() - 1
            late = replace(execution, deadline=at, due_at=at)
            saved = self.store.save(execution, late, uuid.uuid4().hex)

    def settled(self):
        """Whether all is over; what is over is not looked at again."""
        for result in [*self.running]:
            dead = died(self.site, result.id)
            execution = result.execution
            if dead and execution.settled and not execution.result_pending:
                self.running.remove(result)
            elif dead:
                self.help(result, execution)
        return not self.running and died(self.site, "instances")

    def heard(self):
        """Whether all callers' tasks have run: a saga does not wait for them."""
        return all(
            len(self.site.journal.said(result.id, "notified")) >= times_notified(name)
            for name, result in self.recorded.items()
        )

    def help(self, result, execution):
        """A sweeper has died where it was to die: what its saga waits for may come."""
        if execution.status == "PAUSED":
            self.ask(result, ResumeRequested)
        elif execution.rollback_reason and execution.steps[0].claim:
            self.site.journal.open(result.id, "a/f")


@pytest.mark.parametrize(
    ("way", "name", "at"), [(way, *case) for way, cases in CASES.items() for case in cases]
)
def test_a_sweeper_dies(sites, once, way, name, at):
    sweeping = once(Sweeping, sites[way], way, table_of(name))
    path, result = PATHS[name], sweeping.results[name, at]
    assert died(sweeping.site, result.id), "no process came by"
    assert sweeping.site.journal.began(result.id) == bodies(path.bodies)
    assert result.status == path.status


@pytest.mark.parametrize("way", WAYS)
class TestPublishing:
    @pytest.mark.parametrize("name", PUBLISHING)
    def test_an_end_is_published(self, sites, once, way, name):
        sweeping = once(Sweeping, sites[way], way, table_of_end(name))
        site, result = sweeping.site, sweeping.recorded[name]
        assert died(site, result.id), "no process came by"
        assert site.journal.began(result.id) == bodies(END.bodies)
        assert result.status == END.status
        assert AsyncResult(result.id, app=site.app).state == "SUCCESS"
        # At least: other sagas' sweepers die as well, some of them in the midst of publishing this.
        assert len(site.journal.said(result.id, "notified")) >= times_notified(name)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_sweeper_writes_of_instances(sites, once, way):
    sweeping = once(Sweeping, sites[way], way, LOSSES)
    assert sweeping.instances_died
