"""The checks: each a pure function of the gathered facts, known by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from celery_saga.ops.doctor.checks.fleet import (
    heartbeat,
    node_names,
    plugin,
    settings,
    shutdown,
    versions,
    workers,
)
from celery_saga.ops.doctor.checks.places import apps, broker, one_write, records, results, store
from celery_saga.ops.doctor.checks.servers import (
    cluster,
    disk,
    eviction,
    persistence,
    replication,
    server_settings,
)
from celery_saga.ops.doctor.checks.steps import (
    definitions,
    early_ack,
    limits,
    models,
    queues,
    tasks,
)
from celery_saga.ops.doctor.checks.times import clocks, overdue, visibility_timeout
from celery_saga.ops.doctor.facts import Facts
from celery_saga.ops.doctor.findings import Finding

Check = Callable[[Facts], Iterable[Finding]]

#: All of them, in the order in which they are reported.
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "settings": settings,
        "store": store,
        "broker": broker,
        "results": results,
        "persistence": persistence,
        "eviction": eviction,
        "disk": disk,
        "replication": replication,
        "cluster": cluster,
        "server-settings": server_settings,
        "one-write": one_write,
        "workers": workers,
        "plugin": plugin,
        "node-names": node_names,
        "versions": versions,
        "heartbeat": heartbeat,
        "shutdown": shutdown,
        "queues": queues,
        "tasks": tasks,
        "models": models,
        "definitions": definitions,
        "early-ack": early_ack,
        "limits": limits,
        "visibility-timeout": visibility_timeout,
        "clocks": clocks,
        "overdue": overdue,
        "records": records,
        "apps": apps,
    }
)
