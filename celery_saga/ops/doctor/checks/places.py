"""Where sagas and messages are: the store, the broker, and the two together."""

from __future__ import annotations

from collections.abc import Iterator

from celery_saga.ops.doctor.facts import Facts
from celery_saga.ops.doctor.findings import Finding, Level, Where, listed


def store(facts: Facts) -> Iterator[Finding]:
    """No store, one that exists in one process, or one that cannot be used."""
    if facts.wrong_settings:
        return  # the store was not asked: check "settings" says why
    if facts.store.kind == "memory":
        yield Finding(
            Level.ERROR,
            "sagas are kept in the memory of each process",
            "no other process sees them, and they are lost when the process ends",
            Where.APP,
            "saga_store_url",
            "the URL of a Redis server, such as redis://localhost/1",
            ("memory://",),
        )
    elif facts.store.problem and facts.store.kind:
        yield Finding(
            Level.ERROR,
            f"the store cannot be used: {facts.store.problem}",
            "no saga starts, and live ones are blocked; bodies that end meanwhile report "
            "for saga_store_timeout, and then count as unknown",
            Where.APP,
            "saga_store_url",
            "the URL of a server that answers and lets this user run scripts",
            (facts.store.url,) if facts.store.url else (),
        )
    elif facts.store.problem:
        yield Finding(
            Level.ERROR,
            facts.store.problem,
            "no saga can be started",
            Where.APP,
            "saga_store_url",
            "the URL of a Redis server, such as redis://localhost/1",
            (facts.store.url,) if facts.store.url else (),
        )


def broker(facts: Facts) -> Iterator[Finding]:
    """A broker that is unavailable, exists in one process, or has no remote control of workers."""
    if facts.broker.problem:
        yield Finding(
            Level.ERROR,
            f"the broker cannot be used: {facts.broker.problem}",
            "no step is sent until it is back, and workers could not be examined",
            Where.APP,
            "broker_url",
            "the URL of a broker that answers",
            (facts.broker.url,),
        )
    elif facts.broker.driver == "memory":
        yield Finding(
            Level.ERROR,
            "the broker exists in one process only",
            "steps that another process sends reach no worker",
            Where.APP,
            "broker_url",
            "the URL of a broker, such as redis://localhost/0",
            (facts.broker.url,),
        )
    elif not facts.broker.asks:
        yield Finding(
            Level.INFO,
            f"workers cannot be asked over a broker of the kind {facts.broker.driver!r}",
            "checks of workers, queues and tasks had no facts to examine",
            Where.APP,
            "broker_url",
            "the URL of a Redis or RabbitMQ broker",
            (facts.broker.url,),
        )


def results(facts: Facts) -> Iterator[Finding]:
    """A result backend that keeps nothing for others."""
    if facts.results_private:
        yield Finding(
            Level.WARNING,
            "the result backend sends results to the process alone that sent the task",
            "AsyncResult(saga_id) stays PENDING; SagaResult and manager.get() ask the store",
            Where.APP,
            "result_backend",
            "the URL of a backend that keeps results, such as redis://localhost/1",
            ("rpc://",),
        )


def records(facts: Facts) -> Iterator[Finding]:
    """Sagas that cannot be read."""
    leads_to = "they are blocked: the sweep skips them, and no other saga waits for them"
    for found, where, setting, to in (
        (facts.sagas.newer, Where.PACKAGE, "celery-saga-workflow", "the version that saved them"),
        (facts.sagas.damaged, Where.RECORD, "saga", "mended, or deleted"),
    ):
        if found:
            ids = tuple(sorted(found))
            yield Finding(
                Level.ERROR,
                f"{_counted(len(ids))} cannot be read: {found[ids[0]]}",
                leads_to,
                where,
                setting,
                to,
                ids,
            )


def apps(facts: Facts) -> Iterator[Finding]:
    """Other apps that keep sagas in the same place."""
    others = tuple(sorted(facts.store.others))
    if others:
        prefix = facts.settings.get("saga_key_prefix")
        yield Finding(
            Level.WARNING,
            f"workers of other apps keep sagas under the prefix {prefix!r} in the store of "
            f"{facts.app or 'this app'}: {listed(others)}",
            "ids of sagas are shared, every worker sweeps, and it acts upon sagas of which its app "
            "has a task; one of which no app has a task is left alone",
            Where.APP,
            "saga_key_prefix",
            "one of its own for each app, unless they share sagas on purpose",
            others,
        )


def _counted(sagas: int) -> str:
    return "1 saga" if sagas == 1 else f"{sagas} sagas, the first of which"


def one_write(facts: Facts) -> Iterator[Finding]:
    """Steps that are sent after their checkpoint, although one write could do both."""
    on_redis = facts.store.kind == "redis" and facts.broker.driver == "redis"
    if not on_redis or facts.store.problem or facts.broker.problem or facts.broker.one_write:
        return
    yield Finding(
        Level.INFO,
        f"steps are sent after their checkpoint, not with it: {facts.broker.two_writes_because}",
        "each step costs one more round trip; where a process ends between the two, the sweep "
        "sends the step a little later",
        Where.APP,
        "saga_store_url",
        "a database of the broker's own server, for a user who may write to the broker's keys",
        (facts.store.url, facts.broker.url),
    )
