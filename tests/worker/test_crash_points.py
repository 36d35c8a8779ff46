"""SIGKILL between every two writes of a transition, in both ways to write: steps and clients.

One by one: save, push, end of the task. Or one script for the first two. All sagas of a table run
at once; each sets for one process where to die.
"""

from __future__ import annotations

import contextlib
import signal
import uuid
from dataclasses import dataclass

import pytest
import redis

from celery_saga import Saga, SagaManager
from celery_saga.errors import SagaExecutionNotFoundException
from tests.helpers import wait_for
from tests.worker.apps import asking
from tests.worker.apps.steps import compensation, early, late
from tests.worker.crashes import SAVING, SENDING, died, order, run_clients
from tests.worker.crashes import bodies as bodies_of
from tests.worker.deployment import BAD, GOOD
from tests.worker.harness import leftovers
from tests.worker.servers import Monitor

# A table takes 10 seconds, and many times that on a machine that is busy.
pytestmark = [pytest.mark.worker, pytest.mark.timeout(300)]

APP = "tests.worker.apps.crashing"

#: What is done in a task; where nothing is sent there is less.
ONE_BY_ONE = (*SENDING["one by one"], "before the ack")
SETTLING = (*SAVING, "before the ack")
ONE_SCRIPT = SETTLING


@dataclass(frozen=True)
class Case:
    """A saga, the place of its process's death, and what must become of it.

    Args:
        place: see :mod:`tests.worker.apps.crashing`.
        bodies: that run in all, in order; by default none runs twice.
    """

    place: str
    status: str
    bodies: tuple[str, ...] = ()
    task: str = "late"

    @property
    def fails(self):
        return not {"f0", "f1", "f3", "COMPLETED"} & set(self.place.split())

    @property
    def began(self):
        return list(self.bodies) or (BAD if self.fails else GOOD)

    def __str__(self):
        return f"{self.place}, {self.task}"


def case(place, status, bodies="", task="late"):
    """``bodies`` as ``a b c`` forward and ``C B A`` back."""
    return Case(place, status, tuple(bodies_of(bodies)), task)


#: A death before the save leaves the outcome unknown: the body is run again, or compensated.
UNKNOWN = [
    case("StepSucceeded f1 before save", "COMPLETED", "a a b c"),
    case("StepSucceeded f1 before save", "COMPENSATED", "a A", task="early"),
    # It declines a second time, but the first time is unknown: it is compensated as well.
    case("StepFailed c1 before save", "COMPENSATED", "a b c c C B A"),
    case("StepFailed c1 before save", "COMPENSATED", "a b c C B A", task="early"),
    case("StepSucceeded c0 before save", "COMPENSATED", "a b c B B A"),
    case("StepSucceeded c0 before save", "COMPENSATED", "a b c B B A", task="early"),
    case("StepSucceeded COMPLETED before save", "COMPLETED", "a b c c"),
    case("StepSucceeded COMPLETED before save", "COMPENSATED", "a b c C B A", task="early"),
    case("StepSucceeded COMPENSATED before save", "COMPENSATED", "a b c B A A"),
]

#: A claim that was not taken leaves nothing; one that was, and no body, leaves the same as a body.
CLAIMING = [
    case("f0 before claim", "COMPLETED"),
    case("f0 before claim", "COMPLETED", task="early"),
    case("f0 after claim", "COMPLETED"),
    case("f0 after claim", "COMPENSATED", "A", task="early"),
    case("f1 after claim", "COMPENSATED", "a B A", task="early"),
    case("c0 before claim", "COMPENSATED"),
    case("c0 after claim", "COMPENSATED"),
]


def committing(when):
    """The second step has a commit task, which is sent behind the last one."""
    for at in when[1:]:
        yield case(f"StepSucceeded f3 {at}", "COMPLETED", "a b c b.commit", "commits")
    for at in ("before claim", "after claim"):
        yield case(f"f3 {at}", "COMPLETED", "a b c b.commit", "commits")
    for at in SETTLING[1:]:
        yield case(f"StepSucceeded COMPLETED {at}", "COMPLETED", "a b c b.commit", "commits")
    # The outcome of the body is unknown then, and it is run again.
    yield case("StepSucceeded f3 before save", "COMPLETED", "a b c c b.commit", "commits")
    yield case(
        "StepSucceeded COMPLETED before save", "COMPLETED", "a b c b.commit b.commit", "commits"
    )


def table(when):
    """After the save nothing is run twice, wherever the process dies."""
    cases = [*UNKNOWN, *CLAIMING, *committing(when)]
    for place in ("StepSucceeded f1", "StepFailed c1", "StepSucceeded c0"):
        status = "COMPLETED" if place.endswith("f1") else "COMPENSATED"
        cases += [case(f"{place} {at}", status) for at in when[1:]]
    for status in ("COMPLETED", "COMPENSATED"):
        cases += [case(f"StepSucceeded {status} {at}", status) for at in SETTLING[1:]]
    return cases


def start(site, case):
    saga = Saga("crashing", app=site.app)
    for name in "abc":
        step = saga.local_step(early if case.task == "early" else late, name=name)
        step.on_failure(compensation)
        if case.task == "commits" and name == "b":
            step.on_commit(late)
    saga_id = uuid.uuid4().hex
    order(site, saga_id, case.place)
    fail = ["c/f"] if case.fails else []
    return saga.commit().apply_async({"fail": fail}, saga_id=saga_id)


def run(site, way, *options):
    """All cases at once; workers that die are followed by others."""
    workers = [site.worker(*options, app=APP), site.worker(*options, app=APP)]
    deaths = []
    with Monitor(site.client) as monitor:
        results = {case: start(site, case) for case in TABLES[way]}

        def settled():
            for number, worker in enumerate(workers):
                if not worker.process.alive:
                    deaths.append(worker)
                    workers[number] = site.start(*options, app=APP)
            # Who settles a saga may be about to die, and who has died to be found out.
            dead = all(died(site, result.id) for result in results.values())
            found_out = "solo" not in options or len(deaths) >= len(results)
            return dead and found_out and all(result.ready() for result in results.values())

        with contextlib.suppress(AssertionError):  # each test looks at its own saga
            wait_for(settled, 200, interval=0.1)
    for worker in workers:
        worker.kill()
    return results, monitor, deaths


def expect_way(way, senders):
    by = set().union(*senders.values())
    assert by == {"lua"} if way == "one script" else "lua" not in by, senders


def check(site, way, case, results, monitor):
    result = results[case]
    assert died(site, result.id), "the process never came by"
    assert site.journal.began(result.id) == case.began
    assert result.status == case.status
    expect_way(way, monitor.senders(result.id))


TABLES = {"one by one": table(ONE_BY_ONE), "one script": table(ONE_SCRIPT)}


@pytest.mark.parametrize(
    ("way", "case"), [(way, case) for way, cases in TABLES.items() for case in cases], ids=str
)
class TestSteps:
    def test_a_process_of_the_pool_dies(self, sites, once, way, case):
        results, monitor, deaths = once(run, sites[way], way)
        check(sites[way], way, case, results, monitor)
        assert deaths == []

    def test_a_worker_dies_with_all_that_it_holds(self, sites, once, way, case):
        results, monitor, deaths = once(run, sites[way], way, "-P", "solo")
        check(sites[way], way, case, results, monitor)
        assert len(deaths) == len(results)


def test_a_process_that_is_forked_while_the_heartbeat_uses_the_broker_can_use_it(sites):
    site = sites["one by one"]
    worker = site.worker("-c", "1", app="tests.worker.apps.forking")
    try:
        result = site.abc().delay(hold=["a/f"])
        line = site.journal.wait(result.id, "began")
        site.journal.client.delete("forking:holds")
        site.journal.client.set("forking:hold", 1)
        wait_for(lambda: site.journal.client.exists("forking:holds"))

        site.kill_child(line)
        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f")

        assert site.settled(result, timeout=20) == "COMPLETED"
    finally:
        worker.kill()
        with redis.Redis.from_url(site.settings["result_backend"]) as client:
            client.flushdb()


class Clients:
    """Processes that start or cancel a saga and die at it; a worker lives on meanwhile."""

    def __init__(self, site, places):
        self.site = site
        self.worker = site.worker("-c", "4", app="tests.worker.apps.crashing")
        self.sagas = {case: self.saga(*case) for case in places}
        words = {WAITS: "cancel", RUNS: "cancel"}
        asked = [(words.get(verb, verb), self.sagas[verb, where]) for verb, where in places]
        self.codes = dict(zip(places, run_clients(site, asked), strict=True))
        for (verb, _), saga_id in self.sagas.items():
            if verb == RUNS:
                site.journal.open(saga_id, "a/f")

    def saga(self, verb, where):
        saga_id = uuid.uuid4().hex
        if verb in (WAITS, RUNS):
            self.prepare(verb, saga_id)
        order(self.site, saga_id, f"client {where}")
        return saga_id

    def prepare(self, verb, saga_id):
        """A saga whose second step waits in an unconsumed queue, or whose first one runs."""
        waits = verb == WAITS
        saga = Saga("crashing", app=self.site.app)
        saga.local_step(late, name="a").on_failure(compensation)
        step = saga.local_step(late, name="b", queue="unconsumed" if waits else "celery")
        step.on_failure(compensation, queue="celery")
        saga.local_step(late, name="c").on_failure(compensation)
        result = saga.commit().apply_async({"hold": [] if waits else ["a/f"]}, saga_id=saga_id)
        self.site.journal.wait(saga_id, "ended" if waits else "began")
        wait_for(lambda: not waits or result.progress["b"] == "RUNNING")

    def result(self, verb, where):
        assert self.codes[verb, where] == -signal.SIGKILL
        return SagaManager(self.site.app).get(self.sagas[verb, where])


WAITS, RUNS = "cancel while a step waits", "cancel while a step runs"
PLACES = {
    way: tuple(
        [("start", f"Started f0 {at}") for at in whens]
        + [("start later", f"Started nothing {at}") for at in SAVING]
        + [(WAITS, f"CancelRequested c0 {at}") for at in whens]
        + [(RUNS, f"CancelRequested nothing {at}") for at in SAVING]
    )
    for way, whens in SENDING.items()
}


def at(*verbs, saved):
    """Ways, verbs and places: before the save, or after it."""
    return pytest.mark.parametrize(
        ("way", "verb", "where"),
        [
            (way, verb, where)
            for way, places in PLACES.items()
            for verb, where in places
            if verb in verbs and ("before save" not in where) is saved
        ],
    )


@pytest.fixture
def clients(sites, once, way):
    return once(Clients, sites[way], PLACES[way])


class TestClients:
    @at("start", "start later", saved=False)
    def test_a_start_that_was_not_saved_has_not_happened(self, clients, verb, where):
        site, saga_id = clients.site, clients.sagas[verb, where]
        with pytest.raises(SagaExecutionNotFoundException):
            clients.result(verb, where)
        assert site.journal.of(saga_id) == []

        again = site.abc().apply_async({}, saga_id=saga_id)

        assert again.created
        assert site.settled(again) == "COMPLETED"
        assert site.journal.began(saga_id) == GOOD

    @at("start", "start later", saved=True)
    def test_a_start_that_was_saved_continues_by_itself(self, clients, verb, where):
        site, result = clients.site, clients.result(verb, where)

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == GOOD
        assert not asking.start(site.app, result.id).created, "the caller tries again"

    @at(WAITS, saved=False)
    def test_a_cancel_that_was_not_saved_has_not_happened(self, clients, verb, where):
        site, result = clients.site, clients.result(verb, where)
        assert result.status == "RUNNING"

        assert result.cancel()

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]

    @at(WAITS, saved=True)
    def test_a_cancel_that_was_saved_continues_by_itself(self, clients, verb, where):
        site, result = clients.site, clients.result(verb, where)

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]
        assert not result.cancel()

    @at(RUNS, saved=False)
    def test_a_cancel_of_a_running_step_that_was_not_saved(self, clients, verb, where):
        site, result = clients.site, clients.result(verb, where)

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == GOOD

    @at(RUNS, saved=True)
    def test_a_cancel_of_a_running_step_that_was_saved(self, clients, verb, where):
        site, result = clients.site, clients.result(verb, where)

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]


@pytest.mark.parametrize("way", PLACES)
def test_nothing_is_left_behind(clients):
    """After all of the above."""
    url = clients.site.settings["result_backend"]
    with redis.Redis.from_url(url) as client:
        wait_for(lambda: not leftovers(client), description="no keys without an expiry")
