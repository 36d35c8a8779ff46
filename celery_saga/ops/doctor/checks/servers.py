"""Redis and Valkey servers: what they keep, what they evict, and whether that is known."""

from __future__ import annotations

from collections.abc import Iterator

from celery_saga.ops.doctor.facts import Facts, Server
from celery_saga.ops.doctor.findings import Finding, Level, Where


def _change(
    level: Level, server: Server, what: str, leads_to: str, setting: str, to: str
) -> Finding:
    text = f"{server.name} {what}"
    return Finding(level, text, leads_to, Where.SERVER, setting, to, (server.url,))


def persistence(facts: Facts) -> Iterator[Finding]:
    """What a restart or a power loss costs."""
    for server in facts.servers:
        if "store" in server.roles:
            yield from _store_persistence(server)
        else:
            yield from _broker_persistence(server, facts)


def _keeps_nothing(server: Server) -> bool:
    return server.setting("appendonly") == "no" and server.setting("save") == ""


def _store_persistence(server: Server) -> Iterator[Finding]:
    if _keeps_nothing(server):
        yield _change(
            Level.ERROR,
            server,
            "keeps nothing on disk (appendonly no, save '')",
            "a restart of the server loses every saga: effects stay, and are not compensated",
            "appendonly",
            "yes, with appendfsync always",
        )
    elif server.setting("appendonly") == "no" and server.setting("save") is not None:
        yield _change(
            Level.WARNING,
            server,
            f"keeps snapshots only (appendonly no, save {server.setting('save')!r})",
            f"a crash forgets all since the last one: {_forgotten('since')}",
            "appendonly",
            "yes, with appendfsync always",
        )
    elif server.setting("appendonly") == "yes":
        yield from _late_writes(server)


def _late_writes(server: Server) -> Iterator[Finding]:
    sync = server.setting("appendfsync")
    if sync == "no":
        yield _change(
            Level.WARNING,
            server,
            "leaves it to the system when writes reach the disk (appendfsync no)",
            f"a power loss can forget the last half minute: {_forgotten('in it')}",
            "appendfsync",
            "always, or at least everysec",
        )
    elif sync == "everysec":
        yield _change(
            Level.INFO,
            server,
            "writes to disk once a second (appendfsync everysec)",
            f"a power loss can forget the last second: {_forgotten('in it')}",
            "appendfsync",
            "always, if that must not be",
        )


def _forgotten(when: str) -> str:
    return f"steps run again with the same key, and a saga that was created {when} can vanish"


def _broker_persistence(server: Server, facts: Facts) -> Iterator[Finding]:
    if not _keeps_nothing(server):
        return
    both = any("store" in other.roles and _keeps_nothing(other) for other in facts.servers)
    both = both or facts.store.kind == "memory"
    yield _change(
        Level.WARNING if both else Level.INFO,
        server,
        f"keeps nothing on disk{', nor does the store' if both else ''}",
        "after a loss of both nothing is left that could continue: neither sagas nor messages"
        if both
        else "a restart loses its messages: those of sagas are sent again by the sweep, plain "
        "tasks and starts by message (celery_saga.start) are not",
        "appendonly",
        "yes",
    )


def eviction(facts: Facts) -> Iterator[Finding]:
    """What the server evicts when its memory is full."""
    for server in facts.servers:
        policy = server.setting("maxmemory-policy") or ""
        limited = server.setting("maxmemory") != "0"
        if policy.startswith("allkeys-"):
            yield _change(
                Level.ERROR if limited else Level.INFO,
                server,
                f"evicts any key when its memory is full (maxmemory-policy {policy})"
                + ("" if limited else "; maxmemory is 0, so nothing is evicted yet"),
                ("" if limited else "once there is a limit, ") + _loss_of_any(server),
                "maxmemory-policy",
                "noeviction",
            )
        elif policy.startswith("volatile-") and limited:
            yield _change(
                Level.WARNING if "store" in server.roles else Level.INFO,
                server,
                f"evicts keys that expire when its memory is full (maxmemory-policy {policy})",
                _loss_of_expiring(server),
                "maxmemory-policy",
                "noeviction",
            )


def _loss_of_any(server: Server) -> str:
    parts = []
    if "store" in server.roles:
        parts.append("live sagas are lost: their effects stay, and are not compensated")
    if "broker" in server.roles:
        parts.append(
            "queues are lost with their messages: those of sagas are sent again, others are not"
        )
    return "; ".join(parts)


def _loss_of_expiring(server: Server) -> str:
    parts = []
    if "store" in server.roles:
        parts.append(
            "ended sagas and their results are deleted before saga_result_expires: their ids are "
            "free again, and a late effect of one is not compensated; live sagas stay"
        )
    if "broker" in server.roles:
        parts.append("queues with 'expires' are deleted with their messages; others stay")
    return "; ".join(parts)


def disk(facts: Facts) -> Iterator[Finding]:
    """A server that fails to write to its disk."""
    for server in facts.servers:
        failed = [
            name
            for name in ("aof_last_write_status", "rdb_last_bgsave_status")
            if server.info.get(name, "ok") != "ok"
        ]
        if failed:
            yield _change(
                Level.ERROR,
                server,
                f"could not write to its disk ({', '.join(failed)})",
                "it refuses writes, or loses them at its next restart",
                "dir",
                "a folder on a disk that has room and may be written to",
            )


def replication(facts: Facts) -> Iterator[Finding]:
    """Replicas: one that is written to, and a primary that does not wait for any."""
    for server in facts.servers:
        role, replicas = server.info.get("role", ""), server.info.get("connected_slaves", "0")
        if role == "slave":
            yield Finding(
                Level.ERROR,
                f"{server.name} is a replica",
                "it refuses writes, or loses them when it syncs with its primary",
                Where.APP,
                "saga_store_url" if "store" in server.roles else "broker_url",
                "the URL of the primary",
                (server.url,),
            )
        elif replicas != "0" and server.setting("min-replicas-to-write") == "0":
            yield _change(
                Level.INFO,
                server,
                f"answers before its replicas have a write ({replicas} connected)",
                f"a failover can forget the last writes: {_forgotten('by them')}",
                "min-replicas-to-write",
                "1, with a short min-replicas-max-lag, which bounds the loss",
            )


def cluster(facts: Facts) -> Iterator[Finding]:
    """A store on Redis Cluster."""
    for server in facts.servers:
        if "store" in server.roles and server.info.get("cluster_enabled") == "1":
            yield Finding(
                Level.ERROR,
                f"{server.name} is a node of a cluster",
                "the keys of a saga are spread over its nodes, and no script may touch them all",
                Where.APP,
                "saga_store_url",
                "the URL of a server that is not in a cluster",
                (server.url,),
            )


def server_settings(facts: Facts) -> Iterator[Finding]:
    """Settings that the server does not show."""
    for server in facts.servers:
        if server.refused:
            yield Finding(
                Level.WARNING,
                f"{server.name} does not show its settings: {server.refused}",
                "whether it keeps sagas over a restart, and evicts none, could not be examined",
                Where.USER,
                "ACL SETUSER",
                "+config|get +info for the user of this URL, or look at appendonly, appendfsync, "
                "save and maxmemory-policy by hand",
                (server.url,),
            )
