"""The workers: whether there are any, what they run, and whether their names are unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga.ops.doctor.facts import Facts
from celery_saga.ops.doctor.findings import Finding, Level, Where, listed


def workers(facts: Facts) -> Iterator[Finding]:
    """No worker that runs sagas, or one without a heartbeat in this store."""
    asked = facts.broker.asks and not facts.broker.problem and facts.broker.driver != "memory"
    if not asked:
        return
    instances = {worker.plugin.instance for worker in facts.workers if worker.plugin}
    silent = facts.store.alive - instances
    if silent:
        yield Finding(
            Level.INFO,
            f"{len(silent)} worker instance{'s send' if len(silent) > 1 else ' sends'} heartbeats "
            f"to the store and did not answer over the broker",
            "the checks do not cover them: they may be busy (--timeout), have ended just now, "
            "or use another broker",
            Where.APP,
            "worker_enable_remote_control",
            "True",
            tuple(sorted(silent)),
        )
    elif not any(worker.engine for worker in facts.workers):
        yield Finding(
            Level.ERROR if facts.sagas.live else Level.WARNING,
            "no worker with the plugin answers",
            f"{_blocked(facts.sagas.live)} until one comes",
            Where.WORKER,
            "--queues",
            "a worker for the queues of the steps: celery worker --queues ...",
        )
    if not facts.store.problem and facts.store.kind != "memory":
        yield from _elsewhere(facts)


def _blocked(live: int) -> str:
    if live == 1:
        return "1 live saga is blocked"
    return f"{live} live sagas are blocked" if live else "sagas that are started are blocked"


def _elsewhere(facts: Facts) -> Iterator[Finding]:
    for worker in facts.workers:
        if worker.plugin and worker.plugin.instance not in facts.store.alive:
            yield Finding(
                Level.ERROR,
                f"worker {worker.node} sends no heartbeats to the store {facts.store.url}",
                "it keeps sagas in another store, or cannot reach this one: it drops the steps "
                "that others send",
                Where.APP,
                "saga_store_url",
                "the same in every process, and so saga_key_prefix",
                (worker.node,),
            )


def plugin(facts: Facts) -> Iterator[Finding]:
    """Workers without the plugin on queues to which steps go."""
    steps = {needed.queue for needed in facts.required}
    for worker in facts.workers:
        shared = sorted(worker.queues & (steps | {facts.start_queue}))
        if worker.engine or not shared:
            continue
        taken = bool(steps & worker.queues)
        yield Finding(
            Level.ERROR if taken else Level.WARNING,
            f"worker {worker.node} without the plugin consumes the queue {listed(shared)}",
            "it runs steps without the engine, or drops those that it does not know: their "
            "sagas are blocked until the steps are sent again; it drops celery_saga.start"
            if taken
            else "it drops celery_saga.start, so sagas that it was to start do not exist",
            Where.WORKER,
            "--queues",
            "others than these; or construct SagaManager(app) on its app",
            (worker.node, *shared),
        )


def node_names(facts: Facts) -> Iterator[Finding]:
    """Workers that share a name."""
    count = Counter(worker.node for worker in facts.workers)
    for node, number in count.items():
        if number > 1:
            yield Finding(
                Level.WARNING,
                f"{number} workers are named {node}",
                "what is meant for one of them, such as a revoke, reaches both or the wrong one, "
                "and Celery's inspection shows one",
                Where.WORKER,
                "--hostname",
                "a name for each, such as worker1@%h and worker2@%h",
                (node,),
            )


#: What versions mean: package -> how bad a mix of it is, what it leads to.
_MIXED = {
    "celery_saga": (
        Level.WARNING,
        "a checkpoint that a newer one writes may be refused by an older one; let no roll-out "
        "stop half-way, and do workers first",
        "celery-saga-workflow",
    ),
    "celery": (Level.INFO, "they may treat retries, acknowledgements and ends differently", ""),
    "kombu": (Level.INFO, "they may declare queues and encode messages differently", ""),
    "python": (Level.INFO, "code that runs on one may not run on another", ""),
}


def versions(facts: Facts) -> Iterator[Finding]:
    """Different versions among the workers and this process."""
    for worker in facts.workers:
        if worker.engine and worker.plugin is None:
            yield Finding(
                Level.WARNING,
                f"worker {worker.node} has the plugin and does not report its version",
                "it was too busy to answer, or its celery_saga is older than this command",
                Where.PACKAGE,
                "celery-saga-workflow",
                facts.versions.get("celery_saga", "the same everywhere"),
                (worker.node,),
            )
    for package, (level, leads_to, distribution) in _MIXED.items():
        yield from _mixed(facts, package, level, leads_to, distribution or package)


def _mixed(
    facts: Facts, package: str, level: Level, leads_to: str, distribution: str
) -> Iterator[Finding]:
    own = facts.versions.get(package, "")
    found: dict[str, list[str]] = {own: ["this process"]}
    for worker in facts.workers:
        if worker.plugin and package in worker.plugin.versions:
            found.setdefault(str(worker.plugin.versions[package]), []).append(worker.node)
    if len(found) > 1:
        said = "; ".join(f"{version} in {listed(who)}" for version, who in sorted(found.items()))
        yield Finding(
            level,
            f"mixed versions of {package}: {said}",
            leads_to,
            Where.PACKAGE,
            distribution,
            "one version everywhere",
            tuple(f"{who} {version}" for version, each in sorted(found.items()) for who in each),
        )


def settings(facts: Facts) -> Iterator[Finding]:
    """Settings of this process that are refused, and unknown ones that look like them."""
    for name, problem in facts.wrong_settings.items():
        yield Finding(
            Level.ERROR,
            problem,
            "no worker with this configuration starts, no saga can be started, and the doctor "
            "cannot examine the store",
            Where.APP,
            name,
            problem.partition("expected ")[2].partition(", found")[0],
            (name,),
        )
    for name, nearest in facts.misspelt_settings.items():
        yield Finding(
            Level.WARNING,
            f"the setting {name} is unknown and has no effect",
            f"if {nearest} is meant, that has its default value",
            Where.APP,
            nearest,
            f"the value of {name}",
            (name,),
        )


def heartbeat(facts: Facts) -> Iterator[Finding]:
    """Heartbeats that leave no room for a late one."""
    if "saga_heartbeat_ttl" not in facts.wrong_settings:  # check "settings" says so
        yield from _heartbeat("this process", facts.settings)
    for worker in facts.workers:
        if worker.plugin:
            yield from _heartbeat(worker.node, worker.plugin.settings)


def _heartbeat(who: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    every, ttl = settings.get("saga_heartbeat"), settings.get("saga_heartbeat_ttl")
    if every is None or ttl is None or ttl >= 2 * every:
        return
    dead = ttl <= every
    yield Finding(
        Level.ERROR if dead else Level.WARNING,
        f"{who}: saga_heartbeat_ttl is {ttl:g} s, with a heartbeat every {every:g} s",
        f"a live worker counts as dead {'between two heartbeats' if dead else 'if one is late'}: "
        "its steps run again or are compensated",
        Where.APP,
        "saga_heartbeat_ttl",
        f"{3 * every:g} or more: three heartbeats",
        (who,),
    )


#: Pools that end their bodies on SIGQUIT, unless a setting has them wait. Threads are
#: waited for in any case; under gevent the handler fails.
_ABORTS = ("prefork", "solo")


def shutdown(facts: Facts) -> Iterator[Finding]:
    """Workers that abort their bodies on SIGQUIT."""
    name = "worker_soft_shutdown_timeout"
    aborting = sorted(
        worker.node
        for worker in facts.workers
        if worker.plugin
        and worker.plugin.pool in _ABORTS
        and not worker.plugin.settings.get(name, 1)
    )
    if aborting:
        yield Finding(
            Level.INFO,
            f"a SIGQUIT aborts what {listed(aborting)} run{'s' if len(aborting) == 1 else ''}",
            "the outcome of these steps is unknown: they run again, or their sagas are compensated",
            Where.APP,
            name,
            "seconds, a little more than most bodies take",
            tuple(aborting),
        )
