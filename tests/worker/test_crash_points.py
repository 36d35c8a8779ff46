"""SIGKILL between every two writes of a transition, in both ways to write.

One by one: save, push, the event of the push, end of the task. Or one script for the first two. All
sagas of a table run at once; each tells one process where to die.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass

import pytest
import redis

from celery_saga import Saga, SagaManager
from celery_saga.errors import SagaExecutionNotFoundException
from tests.helpers import wait_for
from tests.worker.apps.steps import early, late, undo
from tests.worker.deployment import BAD, GOOD, Deployment
from tests.worker.harness import ROOT, leftovers
from tests.worker.servers import Monitor, serving

# A table takes 10 seconds, and many times that on a machine that is busy.
pytestmark = [pytest.mark.worker, pytest.mark.timeout(300)]

APP = "tests.worker.apps.crashing"

#: The whole of what is done one by one; where nothing is sent there is less.
ONE_BY_ONE = (
    "before save",
    "after save",
    "before its push",
    "after its push",
    "after publish",
    "before the ack",
)
SETTLING = ("before save", "after save", "before the ack")
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
        return not self.place.startswith(("f1", "COMPLETED"))

    @property
    def began(self):
        return list(self.bodies) or (BAD if self.fails else GOOD)

    def __str__(self):
        return f"{self.place}, {self.task}"


def case(place, status, bodies="", task="late"):
    """``bodies`` as ``a b c`` forward and ``C B A`` back."""
    began = (f"{x.lower()}/{'c' if x.isupper() else 'f'}" for x in bodies.split())
    return Case(place, status, tuple(began), task)


#: A death before the save leaves the outcome unknown: the body is run again, or undone.
UNKNOWN = [
    case("f1 before save", "COMPLETED", "a a b c"),
    case("f1 before save", "COMPENSATED", "a A", task="early"),
    # It declines a second time, but the first time is unknown: it is undone as well.
    case("c1 before save", "COMPENSATED", "a b c c C B A"),
    case("c1 before save", "COMPENSATED", "a b c C B A", task="early"),
    case("c0 before save", "COMPENSATED", "a b c B B A"),
    case("c0 before save", "COMPENSATED", "a b c B B A", task="early"),
    case("COMPLETED before save", "COMPLETED", "a b c c"),
    case("COMPLETED before save", "COMPENSATED", "a b c C B A", task="early"),
    case("COMPENSATED before save", "COMPENSATED", "a b c B A A"),
]


def table(when):
    """After the save nothing is run twice, wherever the process dies."""
    cases = list(UNKNOWN)
    for place in ("f1", "c1", "c0"):
        status = "COMPLETED" if place == "f1" else "COMPENSATED"
        cases += [case(f"{place} {at}", status) for at in when[1:]]
    for status in ("COMPLETED", "COMPENSATED"):
        cases += [case(f"{status} {at}", status) for at in SETTLING[1:]]
    return cases


@pytest.fixture(scope="module")
def servers():
    with serving() as one, serving() as other:
        yield one, other


@pytest.fixture(scope="module")
def sites(servers, journal, folder):
    """A deployment for each way to write."""
    broker, other = servers
    urls = {
        "one by one": {"broker_url": broker.url(0), "result_backend": other.url(0)},
        "one script": {"broker_url": broker.url(1), "result_backend": broker.url(2)},
    }
    found = {
        way: Deployment(broker, journal, folder, {**given, "task_send_sent_event": True})
        for way, given in urls.items()
    }
    try:
        yield found
    finally:
        for site in found.values():
            site.close()


@pytest.fixture(scope="module")
def once():
    """Calls of one kind share their answer: each is a table of sagas that run at once."""
    answers = {}

    def once(call, site, *args):
        key = (call, site, *args)
        if key not in answers:
            answers[key] = call(site, *args)
        return answers[key]

    return once


def start(site, case):
    saga = Saga("crashing", app=site.app)
    for name in "abc":
        saga.local_step(late if case.task == "late" else early, name=name).on_failure(undo)
    saga_id = uuid.uuid4().hex
    site.journal.client.set(f"die:{saga_id}", case.place)
    fail = ["c/f"] if case.fails else []
    return saga.commit().apply_async({"fail": fail}, saga_id=saga_id)


def died(site, result):
    return not site.journal.client.exists(f"die:{result.id}")


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
            return all(result.ready() for result in results.values())

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
    assert died(site, result), "the process never came by"
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


def test_a_process_that_is_forked_while_the_heart_is_at_the_broker_can_go_there(sites):
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

        assert site.settled(result, timeout=12) == "COMPLETED"
    finally:
        worker.kill()
        with redis.Redis.from_url(site.settings["result_backend"]) as client:
            client.flushdb()


class Clients:
    """Processes that start or cancel a saga and die at it; a worker lives on meanwhile."""

    def __init__(self, site, places):
        self.site = site
        self.worker = site.worker("-c", "4", app="tests.worker.apps.crashing")
        self.sagas = {}
        clients = {case: self.client(*case) for case in places}
        try:
            self.codes = {case: client.wait(100) for case, client in clients.items()}
        finally:
            for client in clients.values():
                client.kill()
        for (verb, _), saga_id in self.sagas.items():
            if verb == RUNS:
                site.journal.open(saga_id, "a/f")

    def client(self, verb, where):
        saga_id = uuid.uuid4().hex
        if verb != "start":
            self.prepare(verb, saga_id)
        self.sagas[verb, where] = saga_id
        self.site.journal.client.set(f"die:{saga_id}", f"client {where}")
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.site.environment()}
        command = [sys.executable, "-m", "tests.worker.apps.crashing_client", verb, saga_id]
        return subprocess.Popen(command, env=env, cwd=ROOT)

    def prepare(self, verb, saga_id):
        """A saga whose second step waits in a queue of nobody, or whose first one runs."""
        waits = verb == "cancel while a step waits"
        saga = Saga("crashing", app=self.site.app)
        saga.local_step(late, name="a").on_failure(undo)
        saga.local_step(late, name="b", queue="nobody" if waits else "celery").on_failure(undo)
        saga.local_step(late, name="c").on_failure(undo)
        result = saga.commit().apply_async({"hold": [] if waits else ["a/f"]}, saga_id=saga_id)
        self.site.journal.wait(saga_id, "ended" if waits else "began")
        wait_for(lambda: not waits or result.progress["b"] == "RUNNING")

    def result(self, verb, where):
        assert self.codes[verb, where] == -signal.SIGKILL
        return SagaManager(self.site.app).get(self.sagas[verb, where])


WAITS, RUNS = "cancel while a step waits", "cancel while a step runs"
SENDING = ("before save", "after save", "before its push", "after its push", "after publish")
PLACES = {
    way: tuple(
        [("start", f"f0 {at}") for at in whens]
        + [(WAITS, f"c0 {at}") for at in whens]
        + [(RUNS, f"f0 {at}") for at in SENDING[:2]]
    )
    for way, whens in (("one by one", SENDING), ("one script", SENDING[:2]))
}


def at(verb, *, saved):
    """Ways and places of a verb: before its save, or after it."""
    return pytest.mark.parametrize(
        ("way", "where"),
        [
            (way, where)
            for way, places in PLACES.items()
            for kind, where in places
            if kind == verb and ("before save" not in where) is saved
        ],
    )


@pytest.fixture
def clients(sites, once, way):
    return once(Clients, sites[way], PLACES[way])


class TestClients:
    @at("start", saved=False)
    def test_a_start_that_was_not_saved_has_not_happened(self, clients, where):
        site, saga_id = clients.site, clients.sagas["start", where]
        with pytest.raises(SagaExecutionNotFoundException):
            clients.result("start", where)
        assert site.journal.of(saga_id) == []

        again = site.abc().apply_async({}, saga_id=saga_id)

        assert again.created
        assert site.settled(again) == "COMPLETED"
        assert site.journal.began(saga_id) == GOOD

    @at("start", saved=True)
    def test_a_start_that_was_saved_goes_on_by_itself(self, clients, where):
        site, result = clients.site, clients.result("start", where)

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == GOOD
        assert not site.abc().apply_async({}, saga_id=result.id).created

    @at(WAITS, saved=False)
    def test_a_cancel_that_was_not_saved_has_not_happened(self, clients, where):
        site, result = clients.site, clients.result(WAITS, where)
        assert result.status == "RUNNING"

        assert result.cancel()

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]

    @at(WAITS, saved=True)
    def test_a_cancel_that_was_saved_goes_on_by_itself(self, clients, where):
        site, result = clients.site, clients.result(WAITS, where)

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]
        assert not result.cancel()

    @at(RUNS, saved=False)
    def test_a_cancel_of_a_running_step_that_was_not_saved(self, clients, where):
        site, result = clients.site, clients.result(RUNS, where)

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == GOOD

    @at(RUNS, saved=True)
    def test_a_cancel_of_a_running_step_that_was_saved(self, clients, where):
        site, result = clients.site, clients.result(RUNS, where)

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]


@pytest.mark.parametrize("way", PLACES)
def test_nothing_is_left_behind(clients):
    """After all of the above."""
    url = clients.site.settings["result_backend"]
    with redis.Redis.from_url(url) as client:
        wait_for(lambda: not leftovers(client), description="no keys without an expiry")
