"""Times that must fit: clocks, and how long messages and sagas wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from celery_saga.ops.doctor.facts import Facts, Offset
from celery_saga.ops.doctor.findings import Finding, Level, Where, listed

#: Seconds by which clocks may differ.
CLOCKS_MAY_DIFFER = 2.0

#: Seconds by which a sweep may be late.
SWEEPS_MAY_BE_LATE = 60.0


def clocks(facts: Facts) -> Iterator[Finding]:
    """Clocks of workers and of this process that differ from the store's."""
    here = Offset(0.0, 0.0)
    clocks = {"this process": here}
    for worker in facts.workers:
        if worker.plugin:
            clocks[worker.node] = worker.plugin.clock
    truth, store = facts.store.clock or here, facts.store.clock is not None
    off = {who: clock.since(truth) for who, clock in clocks.items()}
    wrong = {who: apart for who, apart in off.items() if apart.least > CLOCKS_MAY_DIFFER}
    if store and len(clocks) > 1 and len(wrong) == len(clocks):
        yield _of_the_store(facts.store.url, wrong)
        return
    for who, apart in wrong.items():
        yield Finding(
            Level.WARNING,
            f"the clock of {who} is {_apart(apart)} {'the store' if store else 'this process'}'s",
            "the engine goes by the store's time; 'eta', 'countdown' and 'expires' of Celery's own "
            "messages go by the workers', and come too early or too late by as much",
            Where.MACHINE,
            "clock",
            "kept by NTP (chrony, systemd-timesyncd)",
            (who,),
        )


def _of_the_store(url: str, wrong: Mapping[str, Offset]) -> Finding:
    most = max(wrong.values(), key=lambda apart: apart.least)
    return Finding(
        Level.INFO,
        f"all clocks that were read differ from the store's, one is {_apart(most)} it",
        "times in checkpoints are the store's: they do not fit those in logs",
        Where.MACHINE,
        "clock",
        "kept by NTP on the machine of the store",
        (url,),
    )


def _apart(offset: Offset) -> str:
    side = "ahead of" if offset.low > 0 else "behind"
    return f"at least {offset.least:.1f} s {side}"


def visibility_timeout(facts: Facts) -> Iterator[Finding]:
    """A broker that delivers messages again while their task still runs or waits."""
    seconds = facts.broker.visibility_timeout
    if seconds is None or facts.broker.problem:
        return
    runs = {each.task: each.limit for each in facts.timings if (each.limit or 0) > seconds}
    for needed in facts.required:
        longest = max(needed.hard_limit or 0, needed.soft_limit or 0)
        if needed.late and longest > max(seconds, runs.get(needed.task) or 0):
            runs[needed.task] = longest
    rests = {each.task: each.countdown for each in facts.timings}
    rests = {task: rest for task, rest in rests.items() if (rest or 0) > seconds}
    if not runs and not rests:
        return
    longest = max(value or 0 for value in (*runs.values(), *rests.values()))
    said = [f"{task} may run for {limit:g} s" for task, limit in runs.items()]
    said += [f"{task} may wait {rest:g} s for a retry" for task, rest in rests.items()]
    yield Finding(
        Level.WARNING,
        f"the broker delivers a message again after {seconds:g} s, and {listed(said)}",
        "the second copy of a step is dropped, and with it the message that would bring the step "
        "back, so the sweep does that; tasks outside of sagas run twice",
        Where.APP,
        "broker_transport_options",
        f"{{'visibility_timeout': ...}} of more than {longest:g}",
        tuple(dict.fromkeys((*runs, *rests))),
    )


def overdue(facts: Facts) -> Iterator[Finding]:
    """Sagas that are due for longer than a sweep should take."""
    late = {
        saga_id: seconds
        for saga_id, seconds in facts.sagas.overdue.items()
        if seconds > SWEEPS_MAY_BE_LATE
    }
    if not late or not any(worker.engine for worker in facts.workers):
        return  # without workers nothing is swept: check "workers" says so
    limit = facts.settings["saga_sweep_limit"]
    worst = tuple(sorted(late, key=lambda saga_id: -late[saga_id]))
    yield Finding(
        Level.WARNING,
        f"the sweep is late: by {max(late.values()):.0f} s for {listed(worst)}",
        "their lost steps, retries and deadlines come late; the workers' logs say if one "
        "cannot be read",
        Where.APP,
        "saga_sweep_limit",
        f"more than {limit}",
        worst,
    )
