"""Checkpoint and message as one script, wherever broker and store are one server; else one by one.

Which of the two it was is asked of the server: MONITOR names the sender of each command.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil

import pytest
import redis

from celery_saga import Saga
from celery_saga.errors import StoreError, StoreUnavailable
from celery_saga.stores.redis import RedisStore
from tests.helpers import wait_for
from tests.worker.apps.queues import QUEUES
from tests.worker.apps.steps import compensation, late
from tests.worker.deployment import BAD, GOOD, Deployment, user
from tests.worker.servers import Authority, Monitor, Server, TlsProxy, serving, tls_server

pytestmark = pytest.mark.worker


def event_of(command):
    """The event that a PUBLISH of Celery's sends."""
    return json.loads(base64.b64decode(json.loads(command.split(" ", 2)[2])["body"]))


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def other_server():
    with serving() as found:
        yield found


@pytest.fixture
def deploy(server, journal, folder):
    """Deployments on the module's server, or another; databases are the test's own."""
    made = []
    server.admin.flushall()

    def deploy(on: Server = server, **settings) -> Deployment:
        made.append(Deployment(on, journal, folder, settings))
        return made[-1]

    try:
        yield deploy
    finally:
        for deployment in made:
            deployment.close()


@pytest.fixture
def users(deploy, server):
    """A deployment whose broker and store are two users; ``rules`` are the store's."""

    def users(*rules, broker_db=0):
        broker, store = user(server.admin, "broker"), user(server.admin, "store", *rules)
        return deploy(broker_url=server.url(broker_db, broker), result_backend=server.url(0, store))

    yield users
    server.admin.execute_command("ACL", "DELUSER", "broker", "store")


def expect_atomic(senders):
    assert set().union(*senders.values()) == {"lua"}, senders


def expect_apart(senders):
    """Published over the broker's own connection: by no script, and each once."""
    assert "lua" not in set().union(*senders.values()), senders


def keys_in(server, database, pattern):
    with redis.Redis(unix_socket_path=server.socket, db=database) as client:
        return list(client.scan_iter(pattern))


class TestPlaces:
    """Where the broker, the result backend and the store are."""

    @pytest.mark.parametrize(("backend", "store"), [(0, None), (1, None), (1, 2), (2, 0)], ids=str)
    def test_databases_of_one_server(self, deploy, server, backend, store):
        settings = {} if store is None else {"saga_store_url": server.url(store)}
        site = deploy(broker_url=server.url(0), result_backend=server.url(backend), **settings)
        site.worker()

        expect_atomic(site.senders())

        databases = {place for place in range(3) if keys_in(server, place, "saga:execution:*")}
        assert databases == {backend if store is None else store}

    def test_another_server_gets_them_one_by_one(self, deploy, server, other_server):
        site = deploy(broker_url=server.url(0), result_backend=other_server.url(0))
        worker = site.worker()

        expect_apart(site.senders())

        assert "the broker is not on the store's server" in worker.text()

    def test_unix_sockets(self, deploy, server):
        url = f"redis+socket://{server.socket}?virtual_host="
        site = deploy(broker_url=f"{url}3", result_backend=f"{url}4")
        site.worker()

        expect_atomic(site.senders())

        assert keys_in(server, 4, "saga:execution:*")

    def test_a_store_at_a_unix_socket_is_named_as_celery_names_a_backend(self, deploy, server):
        url = f"redis+socket://{server.socket}?virtual_host="
        site = deploy(broker_url=server.url(0), result_backend="cache+memory://")
        site.app.conf.saga_store_url = site.settings["saga_store_url"] = f"{url}5"
        site.worker()

        expect_atomic(site.senders())

        assert keys_in(server, 5, "saga:execution:*")


class TestKeys:
    """How the broker and the backend name their keys, and which of them a message goes to."""

    def test_the_brokers_key_prefix(self, deploy, server):
        expect_atomic(self.prefixed_broker(deploy, server))

    def test_sagas_run_under_the_brokers_key_prefix(self, deploy, server):
        self.prefixed_broker(deploy, server)

        assert keys_in(server, 0, "shop:_kombu*")
        assert not keys_in(server, 0, "_kombu*")

    def prefixed_broker(self, deploy, server):
        site = deploy(
            broker_url=server.url(0),
            result_backend=server.url(0),
            broker_transport_options={"global_keyprefix": "shop:"},
        )
        site.worker()
        return site.senders()

    @pytest.mark.parametrize(("given", "prefix"), [("shop:", "shop:"), ("shop", "shop_")])
    def test_the_backends_key_prefix_is_the_stores(self, deploy, server, given, prefix):
        """Otherwise apps that it keeps apart would sweep each other's sagas."""
        options = {"global_keyprefix": given}
        site = deploy(
            broker_url=server.url(0),
            result_backend=server.url(1),
            result_backend_transport_options=options,
            task_ignore_result=False,
            saga_store_step_results=True,
        )
        site.worker()

        expect_atomic(site.senders())

        keys = {key.decode() for key in keys_in(server, 1, "*")}
        assert any(key.startswith(f"{prefix}celery-task-meta-") for key in keys)
        assert any(key.startswith(f"{prefix}saga:execution:") for key in keys)
        assert not any(key.startswith("saga:") for key in keys)

    def test_priorities(self, deploy, server):
        site = deploy(
            broker_url=server.url(0),
            result_backend=server.url(0),
            broker_transport_options={
                "priority_steps": [0, 3, 6],
                "sep": ":",
                "queue_order_strategy": "priority",
            },
        )
        saga = Saga("priorities", app=site.app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(late, name="b", priority=4).on_failure(compensation, priority=9)
        saga.local_step(late, name="c", priority=2)
        saga.commit()
        site.worker()

        with Monitor(site.client) as monitor:
            good, bad = site.run(saga)

        expect_atomic(monitor.senders(good.id))
        pushed = {**monitor.pushes(bad.id), **monitor.pushes(good.id)}
        keys = {ref: {line["command"].split(" ")[1] for line in pushed[ref]} for ref in pushed}
        assert keys == {
            "f0": {"celery"},
            "f1": {"celery:3"},
            "f2": {"celery"},
            "c1": {"celery:6"},
            "c0": {"celery"},
        }

    def test_the_priority_of_a_run(self, deploy, server):
        site = deploy(broker_url=server.url(0), result_backend=server.url(0))
        site.worker()

        with Monitor(site.client) as monitor:
            good, _ = site.run(site.abc(), priority=6)

        expect_atomic(monitor.senders(good.id))
        for lines in monitor.pushes(good.id).values():
            assert [line["command"].split(" ")[1] for line in lines] == ["celery\\x06\\x166"]

    def test_a_queue_of_a_topic_exchange_that_expires(self, deploy, server):
        """Such a publish is several commands."""
        site = self.routed(deploy, server)
        site.worker(app="tests.worker.apps.routed")

        with Monitor(site.client) as monitor:
            good, _ = site.run(site.abc(queue="orders"))

        expect_atomic(monitor.senders(good.id))
        expiries = [
            line
            for line in monitor.commands
            if line["command"].lower().startswith("pexpire orders")
        ]
        assert expiries
        assert {line["client_type"] for line in expiries} >= {"lua"}

    def routed(self, deploy, server, **settings):
        site = deploy(broker_url=server.url(0), result_backend=server.url(0), **settings)
        site.app.conf.task_queues = QUEUES
        return site

    @pytest.mark.parametrize(
        "options", [{}, {"fanout_prefix": False, "fanout_patterns": False}], ids=str
    )
    def test_a_fanout_exchange_gives_each_worker_a_copy_and_one_runs_it(
        self, deploy, server, options
    ):
        site = self.routed(deploy, server, broker_transport_options=options)
        site.start(app="tests.worker.apps.routed")
        site.worker(app="tests.worker.apps.routed")
        site.workers[0].wait_until_ready()

        saga = site.abc(queue="all")

        def both_get_it():  # once both have subscribed
            with Monitor(site.client) as monitor:
                good, _ = site.run(saga)
            expect_atomic(monitor.senders(good.id))
            return all(f"{good.id}~f0~1] received" in worker.text() for worker in site.workers)

        wait_for(both_get_it, 30)

    def test_events_of_sent_tasks_go_along(self, deploy, server):
        site = deploy(
            broker_url=server.url(0), result_backend=server.url(0), task_send_sent_event=True
        )
        site.worker()

        with Monitor(site.client) as monitor:
            good, _ = site.run(site.abc())

        expect_atomic(monitor.senders(good.id))
        events = [
            line
            for line in monitor.commands
            if re.match(r"publish \S*celeryev/task\.sent ", line["command"], re.IGNORECASE)
        ]
        # A busy machine may have sent a message again, with its id.
        assert len({event_of(line["command"])["uuid"] for line in events}) == len(GOOD) + len(BAD)
        assert {line["client_type"] for line in events} == {"lua"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Authority(tmp_path_factory.mktemp("authority"))


class TestTls:
    def settings(self, authority, port):
        query = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={authority.ca}"
        return {
            "broker_url": f"rediss://127.0.0.1:{port}/0?{query}",
            "result_backend": f"rediss://127.0.0.1:{port}/1?{query}",
        }

    @pytest.mark.parametrize("named", [False, True], ids=["backend", "saga_store_url"])
    def test_behind_a_proxy_that_ends_tls(self, deploy, server, authority, named):
        proxy = TlsProxy(authority, server.socket)
        try:
            settings = self.settings(authority, proxy.port)
            if named:
                settings["saga_store_url"] = settings["result_backend"]
            site = deploy(**settings)
            site.worker()
            expect_atomic(site.senders())
            assert proxy.connections > 3
        finally:
            proxy.close()

    def test_on_a_server_that_speaks_tls(self, deploy, authority):
        server = tls_server(authority)
        if server is None:
            pytest.skip("no server program with TLS on PATH: apt-get install redis-server")
        try:
            site = deploy(server, **self.settings(authority, server.port))
            site.worker()
            expect_atomic(site.senders())
        finally:
            server.close()


class TestUsers:
    """What broker and store may do on their server."""

    def test_one_password(self, deploy):
        with serving(requirepass="of-all") as server:
            url = server.url(0, ":of-all@")
            site = deploy(server, broker_url=url, result_backend=url)
            site.worker()
            expect_atomic(site.senders())

    def test_two_users_that_may_both_push(self, users):
        site = users()
        site.worker()
        expect_atomic(site.senders())

    @pytest.mark.parametrize(
        ("rules", "database"),
        [
            pytest.param(("resetkeys", "~saga:*"), 0, id="no keys of the broker's"),
            pytest.param(("-lpush",), 0, id="no LPUSH"),
            pytest.param(("-lpush",), 1, id="no LPUSH in another database"),
            pytest.param(("-select",), 1, id="no SELECT"),
            pytest.param(("resetdbs", "db=0"), 1, id="no other database"),
        ],
    )
    def test_a_store_that_may_not_push_saves_first_and_publishes_after(
        self, users, rules, database
    ):
        site = users(*rules, broker_db=database)
        worker = site.worker("-c", "1")

        expect_apart(site.senders())
        site.run(site.abc())

        # Once for the heartbeat and once for the process of the pool.
        recorded = [line for line in worker.text().splitlines() if "after their checkpoint" in line]
        assert 1 <= len(recorded) <= 2, recorded
        assert len({line.partition("]")[0].rpartition("/")[2] for line in recorded}) == len(
            recorded
        )

    def test_a_store_that_may_not_run_scripts_is_refused_at_the_start(self, users):
        site = users("-@scripting")

        with pytest.raises(StoreError, match="no permissions to run the 'evalsha' command"):
            site.abc().delay()


class TestWhileItRuns:
    """What changes under a worker that is at it."""

    def held(self, site, *steps):
        """A saga that waits in each of these bodies until it is released."""
        result = site.abc().delay(hold=list(steps))
        site.journal.wait(result.id, "began")
        return result

    def expect_done(self, site, result):
        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == GOOD

    def test_a_right_that_is_revoked_in_the_middle_of_a_saga(self, users, server):
        site = users()
        worker = site.worker("-c", "1")
        result = self.held(site, "a/f")

        user(server.admin, "store", "-lpush")
        with Monitor(site.client) as monitor:
            site.journal.open(result.id, "a/f")
            self.expect_done(site, result)

        expect_apart(monitor.senders(result.id))
        assert sorted(monitor.senders(result.id)) == ["f1", "f2"]
        expect_apart(site.senders())
        assert "after their checkpoint" in worker.text()

    def test_a_right_that_is_granted_again_is_used_by_each_new_process(self, users, server):
        site = users("-lpush")
        site.worker("-c", "1")
        first = self.held(site, "a/f")
        user(server.admin, "store")

        with Monitor(site.client) as monitor:
            site.kill_child(site.journal.said(first.id, "began")[0])
            site.journal.wait(first.id, "began", 2)
            site.journal.open(first.id, "a/f")
            assert site.settled(first) == "COMPLETED"

        assert {*monitor.senders(first.id)} >= {"f1", "f2"}
        senders = monitor.senders(first.id)
        assert (senders["f1"], senders["f2"]) == ({"lua"}, {"lua"})

    def test_a_right_that_is_granted_again_is_used_once_the_old_probe_has_expired(
        self, users, server
    ):
        site = users("-lpush")
        site.worker("-c", "1", app="tests.worker.apps.trusting")
        site.run(site.abc())
        user(server.admin, "store")

        def by_script():
            with Monitor(site.client) as monitor:
                good, _ = site.run(site.abc())
            senders = monitor.senders(good.id)
            return senders["f1"] == senders["f2"] == {"lua"}  # f0 is not the worker's

        wait_for(by_script)

    def test_a_queue_that_the_store_may_not_push_to_although_it_may_push(self, users, server):
        """The trial passes, each message is refused: it goes out after its checkpoint."""
        site = users("resetkeys", "~saga:*", "~celery_saga-probe*")
        site.worker("-c", "1")

        expect_apart(site.senders())

    def test_the_servers_scripts_are_flushed_at_each_step(self, deploy, server):
        site = deploy(broker_url=server.url(0), result_backend=server.url(1))
        site.worker("-c", "1")
        saga = site.abc()

        with Monitor(site.client) as monitor:
            result = saga.delay(hold=BAD, fail=["c/f"])
            for count, body in enumerate(BAD, start=1):
                site.journal.wait(result.id, "began", count)
                server.admin.script_flush()
                site.journal.open(result.id, body)
            assert site.settled(result) == "COMPENSATED"

        assert site.journal.began(result.id) == BAD
        expect_atomic(monitor.senders(result.id))

    def test_a_script_is_flushed_as_soon_as_it_is_loaded(self, server):
        """It would fail a step whose body has ended."""

        class Flushed(redis.Redis):
            def script_load(self, script):
                answer = super().script_load(script)
                self.script_flush()
                return answer

        server.admin.script_flush()
        with Flushed(unix_socket_path=server.socket) as client:
            assert RedisStore(client).heartbeat("instance", 1.0, []).at > 0

    def test_all_connections_are_cut_while_bodies_run(self, deploy, server):
        site = deploy(broker_url=server.url(0), result_backend=server.url(1))
        site.worker()
        held = [self.held(site, "a/f", "b/f"), self.held(site, "a/f", "b/f")]

        for step, count in (("a/f", 1), ("b/f", 2)):
            for result in held:
                site.journal.wait(result.id, "began", count)
            assert server.admin.client_kill_filter(_type="normal", skipme=True) > 3
            for result in held:
                site.journal.open(result.id, step)

        for result in held:
            wait_for(lambda result=result: settled_somehow(result), 40)
            self.expect_done(site, result)
        expect_atomic(site.senders())


def settled_somehow(result):
    """A client whose connections were cut gets one error."""
    with contextlib.suppress(StoreUnavailable):
        return result.ready()
