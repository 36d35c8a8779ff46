"""Broker and result backend behind Sentinels: sagas continue when the master is replaced."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from celery_saga import SetupError
from celery_saga.ops.doctor import diagnose
from celery_saga.stores.redis import RedisStore
from tests.helpers import wait_for
from tests.worker.deployment import GOOD, Deployment
from tests.worker.doctoring import of
from tests.worker.sentinels import Listener, Sentinels
from tests.worker.servers import Monitor

pytestmark = [pytest.mark.worker, pytest.mark.timeout(120)]


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    found = Sentinels()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def deploy(sentinels, journal, folder) -> Iterator[Any]:
    made = []

    def deploy(**settings: Any) -> Deployment:
        given = {**sentinels.settings(), **settings}
        made.append(Deployment(sentinels.master, journal, folder, given))
        return made[-1]

    try:
        yield deploy
    finally:
        for each in made:
            each.close()


def held(site: Deployment, *steps: str) -> Any:
    """A saga that waits in one of these bodies."""
    result = site.abc().delay(hold=[*steps])
    site.journal.wait(result.id, "began", GOOD.index(steps[0]) + 1)
    return result


def replaced(sentinels: Sentinels, site: Deployment) -> None:
    """The master is killed, and its replica takes its place."""
    wait_for(sentinels.in_step, description="the replica has all that was written")
    sentinels.master.process.kill()
    wait_for(lambda: sentinels.leads_to(sentinels.replica), 40)
    site.client = sentinels.replica.admin


@pytest.mark.parametrize("databases", [(0, 0), (0, 1)], ids=str)
def test_checkpoint_and_message_are_one_write(sentinels, deploy, databases):
    """On the master that the Sentinels name, which is one server for broker and store."""
    broker, store = databases
    site = deploy(broker_url=sentinels.url(broker), result_backend=sentinels.url(store))
    site.worker()

    with Monitor(site.client) as monitor:
        good, bad = site.run(site.abc())

    for result in (good, bad):
        assert set().union(*monitor.senders(result.id).values()) == {"lua"}
    recorded = {line["db"] for line in monitor.commands if "saga:execution" in line["command"]}
    assert recorded == {store}


def test_sagas_continue_when_the_master_is_killed(sentinels, deploy):
    """A worker that waits for messages stays, and continues by itself."""
    site = deploy()
    worker = site.worker()
    site.run(site.abc())

    replaced(sentinels, site)

    good, _ = site.run(site.abc())
    assert site.app.AsyncResult(good.id).state == "SUCCESS"
    assert good.context == {}
    assert worker.process.alive


def test_steps_that_run_meanwhile_are_reported_to_the_new_master(sentinels, deploy):
    """Celery 5.7 ends a worker that holds messages then, once its bodies have ended; it is started
    again by its supervisor."""
    site = deploy()
    site.worker("-c", "3")
    forward, last = held(site, "a/f"), held(site, "c/f")
    back = site.abc().delay(hold=["b/c"], fail=["c/f"])
    site.journal.wait(back.id, "began", 4)

    replaced(sentinels, site)
    for result, gate in ((forward, "a/f"), (last, "c/f"), (back, "b/c")):
        site.journal.open(result.id, gate)
    site.worker()

    ended = [site.settled(result, 80) for result in (forward, last, back)]
    assert ended == ["COMPLETED", "COMPLETED", "COMPENSATED"]
    assert site.journal.began(forward.id) == GOOD
    assert site.journal.began(last.id) == GOOD
    assert site.journal.began(back.id) == [*GOOD, "b/c", "a/c"]


def test_a_master_that_comes_back_as_a_replica_is_left(sentinels, deploy):
    """Its connections live on: they lead to a server that takes no writes."""
    site = deploy()
    site.worker()
    result = held(site, "b/f")
    wait_for(sentinels.in_step, description="the replica has all that was written")

    sentinels.sentinels[0].client.sentinel_failover("sagas")
    wait_for(lambda: sentinels.leads_to(sentinels.replica), 40)
    wait_for(lambda: sentinels.master.admin.info("replication")["role"] == "slave", 40)
    site.client = sentinels.replica.admin
    site.journal.open(result.id, "b/f")

    assert site.settled(result, 80) == "COMPLETED"
    assert site.journal.began(result.id) == GOOD
    site.run(site.abc())


def test_the_server_that_no_setting_names_is_not_contacted(sentinels, deploy):
    try:
        listener = Listener(6379)
    except OSError:
        pytest.skip("a process listens on port 6379 here")
    try:
        site = deploy()
        worker = site.worker()
        site.run(site.abc())
        replaced(sentinels, site)
        site.run(site.abc())
        main = psutil.Process(worker.process.pid)
        ours = {os.getpid(), main.pid, *(child.pid for child in main.children(recursive=True))}
        assert not listener.pids & ours
        with socket.create_connection(("127.0.0.1", 6379)):
            wait_for(lambda: os.getpid() in listener.pids, description="clients are recorded")
    finally:
        listener.close()


def test_the_store_is_the_masters_whatever_the_store_url(sentinels, deploy):
    site = deploy(saga_store_url=sentinels.url(3))
    with pytest.raises(
        SetupError, match=r"saga_store_url: .*sentinel:// is taken as result_backend"
    ):
        site.abc().delay()


def test_a_store_that_is_given_finds_the_new_master(sentinels, deploy):
    """As an app does whose result backend is elsewhere."""
    client = deploy().app.backend.client
    store = RedisStore(client)
    before = store.now()
    store.register_app("one")
    wait_for(sentinels.in_step)
    sentinels.master.process.kill()
    wait_for(lambda: sentinels.leads_to(sentinels.replica), 40)
    assert "one" in store.register_app("two")
    assert store.now() > before


def test_the_doctor_looks_at_the_master(sentinels, deploy):
    site = deploy()
    site.worker()

    report = diagnose(site.app, timeout=2.0)

    assert of(report, "store", "broker", "one-write", "workers", "apps") == []
    (server,) = report.facts.servers
    assert server.roles == ("store", "broker")
    assert server.run_id == sentinels.master.admin.info("server")["run_id"]
