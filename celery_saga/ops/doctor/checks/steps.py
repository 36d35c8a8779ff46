"""The steps of sagas: whether a worker can run them, and what a lost worker or a limit means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from celery_saga.ops.doctor.facts import Facts, RequiredTask, Worker
from celery_saga.ops.doctor.findings import Finding, Level, Where, listed


def definitions(facts: Facts) -> Iterator[Finding]:
    """Committed sagas that cannot be started."""
    for saga, why in facts.broken.items():
        yield Finding(
            Level.ERROR,
            f"saga {saga!r} cannot be started: {why}",
            "starting it raises this error",
            Where.STEP,
            "local_step",
            "what the error says",
            (saga,),
        )


def early_ack(facts: Facts) -> Iterator[Finding]:
    """Steps that a lost worker ends for good, and that have no compensation."""
    found: dict[tuple[str, bool], list[RequiredTask]] = {}
    for needed in facts.required:
        if not (needed.is_compensation or needed.needs_compensation or needed.reruns):
            found.setdefault((needed.task, needed.declared), []).append(needed)
    for (task, declared), required in found.items():
        steps = sorted({f"{needed.saga}/{needed.step}" for needed in required})
        yield Finding(
            Level.WARNING,
            f"task {task!r} is acknowledged before it runs, and its step has no compensation "
            f"({listed(steps)})",
            "if its worker is lost the step ends UNKNOWN and the rest of the saga is compensated; "
            "as its own effect may exist, the saga ends STUCK and waits for an operator",
            Where.TASK if declared else Where.STEP,
            "acks_late" if declared else "on_lost",
            ("True" if declared else "'rerun'")
            + ", if it is safe to run again; else give the step a compensation, or read_only=True "
            "if it changes nothing",
            (task, *steps),
        )


def queues(facts: Facts) -> Iterator[Finding]:
    """Queues of steps that no worker with the plugin consumes."""
    plugged = _plugged(facts)
    if not plugged:
        return  # check "workers" says so
    consumed = set().union(*(worker.queues for worker in plugged))
    for queue, required in _by_queue(facts.required).items():
        if queue not in consumed:
            live = max(needed.live for needed in required)
            yield Finding(
                Level.ERROR if live else Level.WARNING,
                f"no worker with the plugin consumes the queue {queue!r}, to which the steps "
                f"{listed(_steps(required))} go{_waiting(live)}",
                "their sagas are blocked there",
                Where.WORKER,
                "--queues",
                f"one that includes {queue}",
                (queue, *_steps(required)),
            )


def tasks(facts: Facts) -> Iterator[Finding]:
    """Tasks of sagas that their workers do not register."""
    for queue, required in _by_queue(facts.required).items():
        consumers = [worker for worker in _plugged(facts) if queue in worker.queues]
        for task in sorted({needed.task for needed in required}):
            without = [worker for worker in consumers if task not in worker.tasks]
            if without:
                live = max(needed.live for needed in required if needed.task == task)
                yield _unknown_task(task, queue, without, len(without) == len(consumers), live)


def _unknown_task(
    task: str, queue: str, without: list[Worker], nowhere: bool, live: int
) -> Finding:
    nodes = sorted({worker.node for worker in without})
    return Finding(
        Level.ERROR if nowhere and live else Level.WARNING,
        f"{'no worker' if nowhere else 'not every worker'} that consumes {queue!r} registers "
        f"{task!r}{_waiting(live)}",
        "the step is offered for saga_unknown_task_grace, and then its saga is STUCK"
        if nowhere
        else f"{listed(nodes)} may get its message, drop it, and the step is offered again later",
        Where.APP,
        "imports",
        f"the module of {task} on the app of {listed(nodes)}, or queues of their own for them",
        (task, *nodes),
    )


def models(facts: Facts) -> Iterator[Finding]:
    """Models of contexts that workers do not have, so that they do not validate."""
    found: dict[str, list[RequiredTask]] = {}
    for needed in facts.required:
        for model in needed.models:
            found.setdefault(model, []).append(needed)
    for model, required in found.items():
        queues = {needed.queue for needed in required}
        nodes = sorted(
            worker.node
            for worker in _plugged(facts)
            if worker.plugin and worker.plugin.models is not None
            if queues & worker.queues and model not in worker.plugin.models
        )
        if nodes:
            sagas = sorted({needed.saga for needed in required})
            yield Finding(
                Level.WARNING,
                f"{listed(nodes)} do not have {model!r}, the model of the context of "
                f"{listed(sagas)}",
                "what the steps write there is not validated",
                Where.APP,
                "imports",
                f"the modules of these sagas, or sagas.py beside the tasks, on {listed(nodes)}",
                (model, *nodes, *sagas),
            )


def limits(facts: Facts) -> Iterator[Finding]:
    """Time limits of steps in pools that do not enforce them."""
    for worker in _plugged(facts):
        pool = worker.plugin.pool if worker.plugin else ""
        hard, soft = pool in ("thread", "solo"), pool in ("thread", "solo", "gevent")
        idle = [
            needed
            for needed in facts.required
            if needed.queue in worker.queues
            and ((hard and needed.hard_limit) or (soft and needed.soft_limit))
        ]
        if idle:
            yield Finding(
                Level.WARNING,
                f"the {pool} pool of {worker.node} does not enforce the "
                f"{'' if hard else 'soft '}time limits of {listed(_steps(idle))}",
                "a body that hangs runs on, and its saga waits for it",
                Where.WORKER,
                "--pool",
                "prefork",
                (worker.node, *_steps(idle)),
            )


def _plugged(facts: Facts) -> list[Worker]:
    return [worker for worker in facts.workers if worker.engine]


def _by_queue(required: Iterable[RequiredTask]) -> dict[str, list[RequiredTask]]:
    found: dict[str, list[RequiredTask]] = {}
    for needed in required:
        if needed.queue:  # otherwise an exchange decides, and the broker alone knows
            found.setdefault(needed.queue, []).append(needed)
    return found


def _steps(required: Iterable[RequiredTask]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            f"{needed.saga}/{needed.step}{' (compensation)' if needed.is_compensation else ''}"
            for needed in required
        )
    )


def _waiting(live: int) -> str:
    if not live:
        return ""
    return f"; {live} live sagas need it" if live > 1 else "; 1 live saga needs it"
