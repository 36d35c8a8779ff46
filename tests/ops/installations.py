"""Facts of installations: one without findings, and functions that change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_saga.ops.doctor.facts import (
    BrokerFacts,
    Facts,
    Offset,
    Plugin,
    RequiredTask,
    Sagas,
    Server,
    StoreFacts,
    TaskTiming,
    Worker,
)

URL = "redis://:**@10.0.0.1:6379/0"
VERSIONS = {"celery_saga": "1.2.0", "celery": "5.7.0", "kombu": "5.7.0", "python": "3.12.1"}
SETTINGS = {"saga_heartbeat": 2.0, "saga_heartbeat_ttl": 6.0, "worker_soft_shutdown_timeout": 30}
KEEPS_ALL = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
}
CHARGE = RequiredTask("checkout", "charge", "shop.charge", "celery", needs_compensation=True)
REFUND = RequiredTask(
    "checkout", "charge", "shop.refund", "celery", is_compensation=True, needs_compensation=True
)


def plugin(instance: str = "instance1", **changes: Any) -> Plugin:
    reported = Plugin(instance, True, "prefork", VERSIONS, SETTINGS, Offset(-0.01, 0.01))
    return replace(reported, **changes)


def worker(node: str = "w1@a", **changes: Any) -> Worker:
    """A worker without findings; ``reported``: changes to what it reports of its plugin."""
    reported = changes.pop("reported", {})
    tasks = frozenset({"shop.charge", "shop.refund", "celery_saga.start"})
    found = Worker(node, tasks, frozenset({"celery"}), True, plugin(**reported))
    return replace(found, **changes)


def foreign(node: str = "old@b", *queues: str) -> Worker:
    """A worker without the plugin."""
    return Worker(node, frozenset({"shop.mail"}), frozenset(queues or ("celery",)))


def server(*roles: str, info: dict[str, str] | None = None, **settings: str) -> Server:
    changed = {name.replace("_", "-"): value for name, value in settings.items()}
    reported = {"role": "master", "connected_slaves": "0", "cluster_enabled": "0", **(info or {})}
    return Server(URL, roles or ("store", "broker"), "run1", {**KEEPS_ALL, **changed}, reported)


#: An installation without findings.
OK = Facts(
    app="shop",
    settings={**SETTINGS, "saga_sweep_limit": 100},
    versions=VERSIONS,
    store=StoreFacts(URL, "redis", clock=Offset(-0.01, 0.01), alive=frozenset({"instance1"})),
    broker=BrokerFacts(URL, "redis", visibility_timeout=3600.0, one_write=True),
    servers=(server(),),
    workers=(worker(),),
    required=(CHARGE, REFUND),
    timings=(TaskTiming("shop.charge", 30.0, 600.0),),
    sagas=Sagas(live=3),
)


def facts_with(**changes: Any) -> Facts:
    """Those without findings, with changes; ``store_`` and ``broker_`` begin those of the two."""
    for part in ("store", "broker"):
        own = {name: changes.pop(name) for name in list(changes) if name.startswith(f"{part}_")}
        stripped = {name.removeprefix(f"{part}_"): value for name, value in own.items()}
        changes[part] = replace(getattr(OK, part), **stripped)
    return replace(OK, **changes)


def on(*servers: Server) -> Facts:
    return facts_with(servers=servers)


def required(*found: RequiredTask) -> Facts:
    return facts_with(required=found)


def workers(*found: Worker, **changes: Any) -> Facts:
    alive = frozenset(each.plugin.instance for each in found if each.plugin)
    return facts_with(workers=found, **{"store_alive": alive, **changes})
