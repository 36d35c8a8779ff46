"""The doctor and real servers, in the states that it is for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import _state

from celery_saga import Saga
from celery_saga.ops.doctor import diagnose
from celery_saga.ops.doctor.collect import broker as gathering_broker
from celery_saga.ops.doctor.collect import store as gathering_store
from celery_saga.ops.doctor.collect.servers import SETTINGS, gather_server
from tests.helpers import wait_for
from tests.worker.deployment import user
from tests.worker.doctoring import app_on, examined, of, said
from tests.worker.servers import Server, free_port, serving

pytestmark = pytest.mark.worker

GOOD: dict[str, str] = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server whose settings the tests change while it runs."""
    with serving(**GOOD) as found:
        yield found


@pytest.fixture
def set_up(server: Server) -> Iterator[Any]:
    """Changes settings of the server, for one test."""
    before = {name: server.admin.config_get(name)[name] for name in SETTINGS}

    def change(**settings: str) -> Server:
        for name, value in settings.items():
            server.admin.config_set(name.replace("_", "-"), value)
        return server

    try:
        yield change
    finally:
        for name, value in before.items():
            server.admin.config_set(name, value)


def test_a_server_that_keeps_everything_is_well(server):
    report = examined(server.url(1), server.url(0))

    checks = ("store", "broker", "persistence", "eviction", "disk", "replication", "cluster")
    assert of(report, *checks, "server-settings", "one-write") == []
    (found,) = report.facts.servers
    assert found.roles == ("store", "broker")
    assert report.facts.broker.one_write


def test_the_settings_that_findings_name_are_settings_of_a_server(server):
    assert {name for name in (*SETTINGS, "dir") if not server.admin.config_get(name)} == set()


class TestPersistence:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"appendonly": "no"}, ("error", "appendonly")),
            ({"appendonly": "no", "save": "900 1"}, ("warning", "appendonly")),
            ({"appendfsync": "no"}, ("warning", "appendfsync")),
            ({"appendfsync": "everysec"}, ("info", "appendfsync")),
        ],
        ids=["none", "snapshots", "fsync no", "everysec"],
    )
    def test_what_a_store_does_not_keep(self, set_up, settings, expected):
        server = set_up(**settings)

        assert said(examined(server.url()), "persistence") == [expected]

    def test_a_broker_and_a_store_that_keep_nothing(self, set_up):
        store = set_up(appendonly="no")
        with serving() as broker:
            report = examined(store.url(), broker.url())

        assert said(report, "persistence") == [("error", "appendonly"), ("warning", "appendonly")]

    def test_a_broker_that_keeps_nothing(self, server):
        with serving() as broker:
            report = examined(server.url(), broker.url())

        assert said(report, "persistence") == [("info", "appendonly")]


class TestEviction:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"maxmemory_policy": "allkeys-lru", "maxmemory": "64mb"}, ["error"]),
            ({"maxmemory_policy": "allkeys-random"}, ["info"]),
            ({"maxmemory_policy": "volatile-lru", "maxmemory": "64mb"}, ["warning"]),
            ({"maxmemory_policy": "noeviction", "maxmemory": "64mb"}, []),
        ],
        ids=["any", "any, without a limit", "what expires", "nothing"],
    )
    def test_what_goes_when_memory_is_full(self, set_up, settings, expected):
        server = set_up(**settings)

        found = said(examined(server.url()), "eviction")

        assert found == [(level, "maxmemory-policy") for level in expected]


def test_a_disk_that_cannot_be_written_to(tmp_path):
    missing = tmp_path / "missing"
    missing.mkdir()
    with serving(dir=str(missing)) as server:
        missing.rmdir()
        server.admin.bgsave()
        wait_for(lambda: server.admin.info("persistence")["rdb_last_bgsave_status"] == "err", 20)

        assert said(examined(server.url()), "disk") == [("error", "dir")]


@pytest.fixture
def replica(server) -> Iterator[Server]:
    with serving(replicaof=f"127.0.0.1 {server.port}") as found:
        wait_for(lambda: found.admin.info("replication")["master_link_status"] == "up", 30)
        yield found


class TestReplicas:
    def test_a_store_on_a_replica(self, replica):
        report = examined(replica.url())

        assert ("error", "saga_store_url") in said(report, "replication", "store")

    def test_a_primary_that_does_not_wait_for_its_replicas(self, set_up, replica):
        server = set_up()
        assert said(examined(server.url()), "replication") == [("info", "min-replicas-to-write")]

        set_up(min_replicas_to_write="1")
        assert said(examined(server.url()), "replication") == []


def test_a_node_of_a_cluster():
    # Without a cluster bus the node knows no other node, and yet has a cluster's rules.
    with serving(cluster_enabled="yes", cluster_port=str(free_port())) as node:
        report = examined(node.url())

    assert ("error", "saga_store_url") in said(report, "cluster", "store")


class TestUsers:
    def test_one_who_may_not_ask_for_settings(self, server):
        report = examined(server.url(user=user(server.admin, "shy", "-config")))

        (finding,) = of(report, "server-settings")
        assert (finding.level.value, finding.setting) == ("warning", "ACL SETUSER")
        assert "secret" not in finding.what
        # INFO shows the half of it.
        assert report.facts.servers[0].setting("appendonly") == "yes"
        assert of(report, "persistence") == []

    def test_one_who_may_ask_for_nothing(self, server):
        report = examined(server.url(user=user(server.admin, "mute", "-config", "-info")))

        assert said(report, "server-settings") == [("warning", "ACL SETUSER")]

    def test_one_who_may_not_run_scripts_into_the_brokers_keys(self, server):
        name = user(server.admin, "narrow", "resetkeys", "~saga:*")
        report = examined(server.url(user=name), server.url())

        (finding,) = of(report, "one-write")
        assert (finding.level.value, finding.setting) == ("info", "saga_store_url")

    def test_a_wrong_password(self, server):
        user(server.admin, "locked")
        report = examined(server.url(user="locked:guess@"))

        (finding,) = of(report, "store")
        assert (finding.level.value, finding.setting) == ("error", "saga_store_url")
        assert "guess" not in str(report.to_dict())


class TestOneWrite:
    def test_two_servers(self, server):
        with serving(**GOOD) as other:
            report = examined(server.url(), other.url())

        (finding,) = of(report, "one-write")
        assert "the broker is not on the store's server" in finding.what
        assert len(report.facts.servers) == 2

    def test_two_databases_of_one(self, server):
        assert said(examined(server.url(1), server.url(2)), "one-write") == []

    def test_the_probe_leaves_nothing_behind(self, set_up):
        server = set_up()
        server.admin.flushall()
        with serving(**GOOD) as other:
            assert not examined(server.url(), other.url()).facts.broker.one_write
            assert lasting(other) == set()
        assert examined(server.url(1), server.url(0)).facts.broker.one_write

        assert lasting(server) == set()


def lasting(server: Server) -> set[bytes]:
    """Keys that stay, but for those of Celery's remote control."""
    keys: Any = server.admin.scan_iter()
    return {key for key in keys if server.admin.ttl(key) == -1 and not key.startswith(b"_kombu")}


class TestUnavailableServers:
    def test_neither_is_there(self):
        unreachable = f"redis://:secret@127.0.0.1:{free_port()}/0"
        report = examined(unreachable, unreachable)

        assert said(report, "store", "broker") == [
            ("error", "saga_store_url"),
            ("error", "broker_url"),
        ]
        assert report.exit_code() == 2
        assert "secret" not in str(report.to_dict())

    def test_only_the_store_is_unavailable(self, server):
        report = examined(f"redis://127.0.0.1:{free_port()}/0", server.url())

        assert said(report, "store") == [("error", "saga_store_url")]
        assert report.exit_code() == 1
        assert [found.roles for found in report.facts.servers] == [("broker",)]

    def test_servers_that_take_connections_and_never_answer(self, monkeypatch):
        monkeypatch.setattr(gathering_store, "ANSWER_TIMEOUT", 1.0)
        monkeypatch.setattr(gathering_broker, "ANSWER_TIMEOUT", 1.0)
        with serving() as server:
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                report = examined(server.url(), server.url())
            finally:
                os.kill(server.process.pid, signal.SIGCONT)

        assert [finding.what for finding in of(report, "store", "broker")] == [
            "the store cannot be used: no answer within 1 seconds",
            "the broker cannot be used: no answer within 1 seconds",
        ]


class TestStores:
    def test_none(self):
        with app_on("redis://127.0.0.1") as app:
            app.conf.update(saga_store_url=None, result_backend="cache+memory://")
            report = _diagnosed(app)

        (finding,) = of(report, "store")
        assert "cannot compare and swap" in finding.what

    def test_memory(self):
        assert said(examined("memory://"), "store") == [("error", "saga_store_url")]

    def test_no_url(self):
        report = examined("http://:secret@somewhere")

        assert said(report, "store") == [("error", "saga_store_url")]
        assert "secret" not in str(report.to_dict())

    def test_the_result_backend(self, server):
        with app_on("") as app:
            app.conf.update(saga_store_url=None, result_backend=server.url(3))
            report = _diagnosed(app)

        assert of(report, "store") == []
        assert report.facts.store.url == server.url(3)


def _diagnosed(app):
    return diagnose(app, timeout=0.2)


class TestBrokers:
    def test_memory(self, server):
        assert said(examined(server.url()), "broker") == [("error", "broker_url")]

    def test_one_that_carries_no_questions(self, server, tmp_path):
        report = examined(server.url(), f"sqla+sqlite:///{tmp_path}/broker.sqlite")

        assert said(report, "broker", "workers", "one-write") == [("info", "broker_url")]

    def test_the_visibility_timeout_is_the_brokers_own(self, server, monkeypatch):
        # Shared tasks of modules that other tests have imported would be named before the engine's.
        own = {each for each in _state._on_app_finalizers if each.__module__ != "celery.app"}
        monkeypatch.setattr(_state, "_on_app_finalizers", own)
        assert examined(server.url(), server.url()).facts.broker.visibility_timeout == 3600
        options = {"visibility_timeout": 30}
        report = examined(
            server.url(), server.url(), broker_transport_options=options, task_time_limit=60
        )

        assert report.facts.broker.visibility_timeout == 30
        (finding,) = of(report, "visibility-timeout")
        assert "celery_saga.start may run for 60 s" in finding.what


def test_a_redis_server_answers_as_well(tmp_path):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with contextlib.closing(Server(program)) as server:
        found = gather_server(server.admin, server.url(), "store")

    assert found.setting("appendonly") == "no"
    assert found.run_id


def test_records_that_cannot_be_read_are_named_and_hide_no_others(server):
    server.admin.flushall()
    with app_on(server.url(1), server.url(0), task_ignore_result=True) as app:

        @app.task(name="read", shared=False)
        def read() -> None: ...

        saga = Saga("doctored", app=app)
        saga.local_step(read, read_only=True)
        saga.commit()
        newer, damaged, well = [saga.delay().id for _ in range(3)]
        with redis.Redis(unix_socket_path=server.socket, db=1) as client:
            client.hset(f"saga:execution:{newer}", "head", '{"version": 99}')
            client.hset(f"saga:execution:{damaged}", "s0", "{")

        report = diagnose(app, timeout=0.2)

    assert [each.about for each in of(report, "records")] == [(newer,), (damaged,)]
    assert "version 99" in of(report, "records")[0].what
    assert "field 's0'" in of(report, "records")[1].what
    assert (report.facts.sagas.live, report.facts.sagas.unreadable) == (1, 2)
    assert well not in report.facts.sagas.newer


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("rpc://", [("warning", "result_backend")]), ("cache+memory://", []), ("disabled://", [])],
)
def test_results_that_no_other_process_sees(server, backend, expected):
    assert said(examined(server.url(), result_backend=backend), "results") == expected
