"""For each check of the doctor, installations with findings, and some that only look so."""

from __future__ import annotations

from dataclasses import replace

from celery_saga.ops.doctor.facts import Facts, Offset, Sagas, Server, TaskTiming
from tests.ops.installations import (
    CHARGE,
    SETTINGS,
    URL,
    VERSIONS,
    facts_with,
    foreign,
    on,
    required,
    server,
    worker,
    workers,
)

NO_REPLY = "the saga store does not answer: Connection refused"
WRONG = {"saga_heartbeat": "saga_heartbeat: expected seconds, found the str '2'"}
OFF = Offset(9.9, 10.1)
READ = replace(CHARGE, step="read", task="shop.charge", needs_compensation=False, reruns=False)
ORDERED = replace(CHARGE, models=("shop.Order",))

#: Check, case, facts -> the level and the setting of each finding of that check.
CASES: list[tuple[str, str, Facts, list[tuple[str, str]]]] = [
    (
        "store",
        "none",
        facts_with(store_problem="no store for sagas", store_kind=""),
        [("error", "saga_store_url")],
    ),
    (
        "settings",
        "wrong",
        facts_with(wrong_settings=WRONG),
        [("error", "saga_heartbeat")],
    ),
    (
        "settings",
        "misspelt",
        facts_with(misspelt_settings={"saga_hartbeat": "saga_heartbeat"}),
        [("warning", "saga_heartbeat")],
    ),
    (
        "store",
        "not asked",
        facts_with(wrong_settings=WRONG, store_problem=WRONG["saga_heartbeat"], store_kind=""),
        [],
    ),
    (
        "heartbeat",
        "reported as a wrong setting",
        facts_with(
            settings={**SETTINGS, "saga_heartbeat_ttl": 2.0},
            wrong_settings={"saga_heartbeat_ttl": "saga_heartbeat_ttl: expected 3, found 2"},
        ),
        [],
    ),
    ("store", "memory", facts_with(store_kind="memory"), [("error", "saga_store_url")]),
    ("store", "unavailable", facts_with(store_problem=NO_REPLY), [("error", "saga_store_url")]),
    (
        "broker",
        "unavailable",
        facts_with(broker_problem="Connection refused"),
        [("error", "broker_url")],
    ),
    ("broker", "memory", facts_with(broker_driver="memory"), [("error", "broker_url")]),
    ("broker", "without a fanout", facts_with(broker_asks=False), [("info", "broker_url")]),
    ("results", "rpc", facts_with(results_private=True), [("warning", "result_backend")]),
    ("persistence", "none", on(server(appendonly="no")), [("error", "appendonly")]),
    (
        "persistence",
        "snapshots",
        on(server(appendonly="no", save="900 1")),
        [("warning", "appendonly")],
    ),
    ("persistence", "fsync no", on(server(appendfsync="no")), [("warning", "appendfsync")]),
    (
        "persistence",
        "fsync everysec",
        on(server(appendfsync="everysec")),
        [("info", "appendfsync")],
    ),
    (
        "persistence",
        "of the broker alone",
        on(server("store"), server("broker", appendonly="no")),
        [("info", "appendonly")],
    ),
    (
        "persistence",
        "of both, apart",
        on(server("store", appendonly="no"), server("broker", appendonly="no")),
        [("error", "appendonly"), ("warning", "appendonly")],
    ),
    (
        "persistence",
        "a broker that keeps snapshots",
        on(server("store"), server("broker", appendonly="no", save="60 1")),
        [],
    ),
    ("persistence", "not shown", on(Server(URL, ("store",), refused="NOPERM")), []),
    (
        "persistence",
        "shown by INFO alone",
        on(Server(URL, ("store",), info={"aof_enabled": "0"}, refused="NOPERM")),
        [],
    ),
    (
        "eviction",
        "any, with a limit",
        on(server(maxmemory_policy="allkeys-lru", maxmemory="100")),
        [("error", "maxmemory-policy")],
    ),
    (
        "eviction",
        "any, without a limit",
        on(server(maxmemory_policy="allkeys-lfu")),
        [("info", "maxmemory-policy")],
    ),
    (
        "eviction",
        "any, the limit is not shown",
        on(Server(URL, ("store",), settings={"maxmemory-policy": "allkeys-lru"})),
        [("error", "maxmemory-policy")],
    ),
    (
        "eviction",
        "shown by INFO alone",
        on(Server(URL, ("broker",), info={"maxmemory_policy": "allkeys-lru", "maxmemory": "9"})),
        [("error", "maxmemory-policy")],
    ),
    (
        "eviction",
        "what expires, in the store",
        on(server(maxmemory_policy="volatile-lru", maxmemory="100")),
        [("warning", "maxmemory-policy")],
    ),
    (
        "eviction",
        "what expires, in the broker",
        on(server("store"), server("broker", maxmemory_policy="volatile-ttl", maxmemory="100")),
        [("info", "maxmemory-policy")],
    ),
    ("eviction", "what expires, without a limit", on(server(maxmemory_policy="volatile-lru")), []),
    (
        "disk",
        "append-only file",
        on(server(info={"aof_last_write_status": "err"})),
        [("error", "dir")],
    ),
    ("disk", "snapshot", on(server(info={"rdb_last_bgsave_status": "err"})), [("error", "dir")]),
    (
        "replication",
        "the store is a replica",
        on(server(info={"role": "slave"})),
        [("error", "saga_store_url")],
    ),
    (
        "replication",
        "the broker is a replica",
        on(server("broker", info={"role": "slave"})),
        [("error", "broker_url")],
    ),
    (
        "replication",
        "does not wait",
        on(server(info={"connected_slaves": "2"})),
        [("info", "min-replicas-to-write")],
    ),
    (
        "replication",
        "waits",
        on(server(info={"connected_slaves": "2"}, min_replicas_to_write="1")),
        [],
    ),
    (
        "cluster",
        "store",
        on(server("store", info={"cluster_enabled": "1"})),
        [("error", "saga_store_url")],
    ),
    (
        "server-settings",
        "refused",
        on(replace(server(), refused="NOPERM")),
        [("warning", "ACL SETUSER")],
    ),
    (
        "one-write",
        "two",
        facts_with(
            broker_one_write=False,
            broker_two_writes_because="the broker is not on the store's server",
        ),
        [("info", "saga_store_url")],
    ),
    ("one-write", "another broker", facts_with(broker_one_write=False, broker_driver="amqp"), []),
    ("workers", "none", workers(), [("error", "--queues")]),
    ("workers", "none, and no saga", replace(workers(), sagas=Sagas()), [("warning", "--queues")]),
    ("workers", "only foreign ones", workers(foreign()), [("error", "--queues")]),
    (
        "workers",
        "an instance that does not answer",
        workers(worker(), store_alive=frozenset({"instance1", "instance2"})),
        [("info", "worker_enable_remote_control")],
    ),
    (
        "workers",
        "heartbeats elsewhere",
        workers(worker(), store_alive=frozenset()),
        [("error", "saga_store_url")],
    ),
    (
        "workers",
        "the store is unavailable",
        workers(worker(), store_problem=NO_REPLY, store_alive=frozenset()),
        [],
    ),
    ("workers", "the broker is unavailable", workers(broker_problem="refused"), []),
    ("plugin", "on a queue of steps", workers(worker(), foreign()), [("error", "--queues")]),
    (
        "plugin",
        "on the queue of starts",
        replace(workers(worker(), foreign()), required=(replace(CHARGE, queue="orders"),)),
        [("warning", "--queues")],
    ),
    ("plugin", "on other queues", workers(worker(), foreign("mail@b", "mail")), []),
    (
        "node-names",
        "two of one",
        workers(worker(), worker(reported={"instance": "instance2"})),
        [("warning", "--hostname")],
    ),
    (
        "versions",
        "of the plugin",
        workers(worker(reported={"versions": {**VERSIONS, "celery_saga": "1.1.0"}})),
        [("warning", "celery-saga-workflow")],
    ),
    (
        "versions",
        "of Celery, kombu and Python",
        workers(
            worker(
                reported={
                    "versions": {
                        **VERSIONS,
                        "celery": "5.6.0",
                        "kombu": "5.6.0",
                        "python": "3.10.0",
                    }
                }
            )
        ),
        [("info", "celery"), ("info", "kombu"), ("info", "python")],
    ),
    ("versions", "not shown", workers(worker(plugin=None)), [("warning", "celery-saga-workflow")]),
    (
        "heartbeat",
        "dead between two heartbeats",
        facts_with(settings={**SETTINGS, "saga_heartbeat_ttl": 2.0}),
        [("error", "saga_heartbeat_ttl")],
    ),
    (
        "heartbeat",
        "no room, in a worker",
        workers(worker(reported={"settings": {**SETTINGS, "saga_heartbeat_ttl": 3.0}})),
        [("warning", "saga_heartbeat_ttl")],
    ),
    (
        "shutdown",
        "no soft shutdown",
        workers(worker(reported={"settings": {"worker_soft_shutdown_timeout": 0.0}})),
        [("info", "worker_soft_shutdown_timeout")],
    ),
    (
        "shutdown",
        "no soft shutdown, gevent",
        workers(
            worker(reported={"pool": "gevent", "settings": {"worker_soft_shutdown_timeout": 0.0}})
        ),
        [],
    ),
    (
        "shutdown",
        "no soft shutdown, threads",
        workers(
            worker(reported={"pool": "thread", "settings": {"worker_soft_shutdown_timeout": 0.0}})
        ),
        [],
    ),
    (
        "queues",
        "no worker, live",
        required(replace(CHARGE, queue="orders", live=2), CHARGE),
        [("error", "--queues")],
    ),
    ("queues", "no worker", required(replace(CHARGE, queue="orders")), [("warning", "--queues")]),
    (
        "queues",
        "foreign workers only",
        replace(
            workers(worker(), foreign("w2@b", "orders")),
            required=(replace(CHARGE, queue="orders"),),
        ),
        [("warning", "--queues")],
    ),
    (
        "tasks",
        "no worker, live",
        required(replace(CHARGE, task="shop.new", live=1)),
        [("error", "imports")],
    ),
    (
        "tasks",
        "no worker",
        required(replace(CHARGE, task="saga:shop.price")),
        [("warning", "imports")],
    ),
    (
        "tasks",
        "one of two",
        workers(
            worker(),
            worker("w2@a", tasks=frozenset({"shop.refund"}), reported={"instance": "instance2"}),
        ),
        [("warning", "imports")],
    ),
    (
        "definitions",
        "broken",
        facts_with(broken={"checkout": "step 'a' has no action"}),
        [("error", "local_step")],
    ),
    (
        "early-ack",
        "a task",
        required(READ, replace(READ, saga="other")),
        [("warning", "acks_late")],
    ),
    (
        "early-ack",
        "a task of others, or a function",
        required(replace(READ, declared=False)),
        [("warning", "on_lost")],
    ),
    ("early-ack", "with a compensation", required(replace(READ, needs_compensation=True)), []),
    ("early-ack", "the compensation itself", required(replace(READ, is_compensation=True)), []),
    (
        "models",
        "a worker that has not imported the saga",
        workers(worker(reported={"models": frozenset()}), required=(ORDERED,)),
        [("warning", "imports")],
    ),
    (
        "models",
        "a worker that has",
        workers(worker(reported={"models": frozenset({"shop.Order"})}), required=(ORDERED,)),
        [],
    ),
    ("models", "a worker that does not say", workers(worker(), required=(ORDERED,)), []),
    (
        "models",
        "a worker of other queues",
        workers(
            worker(queues=frozenset({"mail"}), reported={"models": frozenset()}),
            required=(ORDERED,),
        ),
        [],
    ),
    (
        "limits",
        "threads",
        replace(
            workers(worker(reported={"pool": "thread"})),
            required=(replace(CHARGE, hard_limit=9.0),),
        ),
        [("warning", "--pool")],
    ),
    (
        "limits",
        "gevent, soft",
        replace(
            workers(worker(reported={"pool": "gevent"})),
            required=(replace(CHARGE, soft_limit=9.0),),
        ),
        [("warning", "--pool")],
    ),
    (
        "limits",
        "gevent, hard",
        replace(
            workers(worker(reported={"pool": "gevent"})),
            required=(replace(CHARGE, hard_limit=9.0),),
        ),
        [],
    ),
    ("limits", "prefork", required(replace(CHARGE, hard_limit=9.0, soft_limit=8.0)), []),
    (
        "visibility-timeout",
        "a time limit",
        facts_with(timings=(TaskTiming("shop.charge", 7200.0),)),
        [("warning", "broker_transport_options")],
    ),
    (
        "visibility-timeout",
        "a step's time limit",
        required(replace(CHARGE, hard_limit=7200.0)),
        [("warning", "broker_transport_options")],
    ),
    (
        "visibility-timeout",
        "a step's, acknowledged early",
        required(replace(CHARGE, hard_limit=7200.0, late=False)),
        [],
    ),
    (
        "visibility-timeout",
        "a retry",
        facts_with(broker_visibility_timeout=60.0),
        [("warning", "broker_transport_options")],
    ),
    (
        "visibility-timeout",
        "another broker",
        facts_with(broker_visibility_timeout=None, timings=(TaskTiming("shop.charge", 7200.0),)),
        [],
    ),
    (
        "clocks",
        "a worker",
        workers(worker(), worker("w2@a", reported={"instance": "instance2", "clock": OFF})),
        [("warning", "clock")],
    ),
    (
        "clocks",
        "this process",
        facts_with(store_clock=OFF, workers=(worker(reported={"clock": OFF}),)),
        [("warning", "clock")],
    ),
    ("clocks", "the store", facts_with(store_clock=OFF), [("info", "clock")]),
    (
        "clocks",
        "without a store",
        workers(worker(reported={"clock": Offset(-10.1, -9.9)}), store_clock=None),
        [("warning", "clock")],
    ),
    (
        "clocks",
        "a slow answer proves nothing",
        workers(worker(reported={"clock": Offset(-1.0, 30.0)})),
        [],
    ),
    (
        "overdue",
        "the sweep is late",
        facts_with(sagas=Sagas(live=3, overdue={"a": 90.0, "b": 5.0})),
        [("warning", "saga_sweep_limit")],
    ),
    (
        "records",
        "of a newer version",
        facts_with(sagas=Sagas(newer={"a": "saved with version 99", "b": "saved with version 99"})),
        [("error", "celery-saga-workflow")],
    ),
    (
        "records",
        "damaged",
        facts_with(
            sagas=Sagas(newer={"a": "saved with version 99"}, damaged={"b": "field 'head'"})
        ),
        [("error", "celery-saga-workflow"), ("error", "saga")],
    ),
    (
        "apps",
        "another one in the same place",
        facts_with(store_others=frozenset({"mail (redis://10.0.0.1:6379/0, queue celery)"})),
        [("warning", "saga_key_prefix")],
    ),
    ("overdue", "no worker", replace(workers(), sagas=Sagas(live=3, overdue={"a": 90.0})), []),
    ("overdue", "a moment", facts_with(sagas=Sagas(live=3, overdue={"a": 3.0})), []),
]
