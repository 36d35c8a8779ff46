"""Sagas that end in every way, for any app: the same on a worker, eagerly and in the process."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, current_task, shared_task
from celery.exceptions import Ignore, Reject

from celery_saga import AbortSaga, Saga, SagaContext, SagaManager, saga_info, saga_step
from tests.worker.apps.constants import QUICK_UNDO
from tests.worker.apps.journal import bodies_of, note


class Unsure(Exception):
    """It may have happened."""


RAISES: dict[str, Exception] = {
    "declined": LookupError("declined"),
    "unsure": Unsure("unsure"),
    "memory": MemoryError("no more"),
    "soft limit": SoftTimeLimitExceeded(),
    "abort": AbortSaga("no way"),
    "ignore": Ignore("ignored"),
    "reject": Reject("rejected", requeue=False),
    "requeue": Reject("later", requeue=True),
}


def times() -> int:
    """How many bodies of this step have begun, this one among them; in both directions."""
    info = saga_info()
    assert info is not None
    return bodies_of(info.step)


@shared_task
def do(value=None):
    note("began")
    return value


@shared_task(acks_late=True)
def counted(total=0):
    note("began")
    return {"total": total + 1}


@shared_task
async def waited(value=None):
    note("began")
    await asyncio.sleep(0)
    return {"waited": value}


@shared_task(acks_late=True)
def fails(how, failures=1):
    """Ends as it is told for the first ``failures`` times."""
    note("began")
    if times() <= failures:
        raise RAISES[how]


@shared_task(autoretry_for=(LookupError,), retry_kwargs={"countdown": 0, "max_retries": 2})
def autoretried(how, failures):
    note("began")
    if times() <= failures:
        raise RAISES[how]


@shared_task(bind=True, max_retries=2)
def self_retried(self, failures):
    note("began")
    if times() <= failures:
        raise self.retry(countdown=0.05, exc=LookupError("declined"))
    return self.request.retries


@shared_task
def unusable():
    note("began")
    return {"handle": object()}


@shared_task
def needs(something):
    note("began")


@shared_task
def undo(value=None):
    info = saga_info()
    note("began", forward=info.forward_key, value=value)


@shared_task
def undo_late():
    """Succeeds at its third attempt."""
    note("began")
    if saga_info().attempt < 3:
        raise ConnectionError("try again")


@shared_task
def undo_never():
    note("began")
    raise PermissionError("the shop is closed")


@shared_task(acks_late=True)
def undo_as(undo_how):
    """Ends as it is told for the first time."""
    note("began")
    if times() == 2:  # after the step's own body
        raise RAISES[undo_how]


@shared_task(bind=True, max_retries=2)
def undo_retried(self):
    note("began")
    if self.request.retries < 2:
        raise self.retry(countdown=0.05, exc=LookupError("declined"))


@shared_task
def undo_unusable():
    note("began")
    return {"handle": object()}


@shared_task(bind=True)
def replaces(self):
    note("began")
    raise self.replace(do.s())


@shared_task
def undo_needs(receipt):
    note("began", receipt=receipt)


@shared_task
def takes_long():
    """Until the deadline is over."""
    note("began")
    execution = SagaManager(current_task.app).get(saga_info().saga_id).execution
    while time.time() < execution.deadline + 0.1:
        time.sleep(0.05)


@shared_task
def cancels():
    note("began")
    SagaManager(current_task.app).get(saga_info().saga_id).cancel("by its own step")


@shared_task
def starts_another(inner="inner"):
    note("began")
    saga, saga_id = build(current_task.app, inner), f"{saga_info().saga_id}-child"
    return {"child": saga.apply_async(INNER[inner].context, saga_id=saga_id).id}


@saga_step
def in_place(context: SagaContext) -> None:
    note("began")
    context.seen = sorted(context)


@saga_step
def new_context(context: SagaContext) -> SagaContext:
    note("began")
    return SagaContext(kept=context.get("kept"), new=True)


@saga_step
def bad_context(context: SagaContext) -> Any:
    note("began")
    return 42


@saga_step
def undo_in_context(context: SagaContext) -> None:
    note("began", seen=dict(context))


@dataclass(frozen=True)
class Scenario:
    """A saga and what becomes of it.

    Args:
        steps: task, undo or ``None``, and options of the step.
        bodies: ``a b`` forward, ``B A`` back, in the order in which they begin.
        status: of the saga in the end.
        context: what it starts with.
        start: options of the start.
        workers: ``""``, or why it cannot be said without a worker.
    """

    steps: list[tuple[Any, ...]]
    bodies: str
    status: str
    context: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    workers: str = ""

    @property
    def began(self) -> list[str]:
        """As the journal has it."""
        return [f"{x.lower()}/{'c' if x.isupper() else 'f'}" for x in self.bodies.split()]


DO = (do, undo)


def _fails(
    how: str, *steps: Any, bodies: str, status: str = "COMPENSATED", **more: Any
) -> Scenario:
    return Scenario(list(steps), bodies, status, {"how": how, **more})


SCENARIOS: dict[str, Scenario] = {
    "success": Scenario([DO, (counted, undo), DO], "a b c", "COMPLETED", {"value": 5}),
    "a coroutine": Scenario([DO, (waited, undo)], "a b", "COMPLETED", {"value": 5}),
    "the first step fails": _fails("declined", (fails, undo), DO, bodies="a"),
    "a middle step fails": _fails("declined", DO, (fails, undo), DO, bodies="a b A"),
    "the last step fails": _fails("declined", DO, DO, (fails, undo), bodies="a b c B A"),
    "abort": _fails("abort", DO, (fails, undo), bodies="a b A"),
    "abort under autoretry": _fails("abort", DO, (autoretried, undo), bodies="a b A", failures=1),
    "undone although it raised": _fails(
        "declined", DO, (fails, undo, {"compensate_on_failure": True}), bodies="a b B A"
    ),
    "undone because of what it raised": _fails(
        "unsure", DO, (fails, undo, {"compensate_on_failure": Unsure}), bodies="a b B A"
    ),
    "not undone because of what it raised": _fails(
        "declined", DO, (fails, undo, {"compensate_on_failure": Unsure}), bodies="a b A"
    ),
    "autoretry recovers": _fails(
        "declined", DO, (autoretried, undo), bodies="a b b", status="COMPLETED", failures=1
    ),
    "autoretry is exhausted": _fails(
        "declined", DO, (autoretried, undo), bodies="a b b b A", failures=3
    ),
    "self.retry recovers": Scenario(
        [DO, (self_retried, undo), DO], "a b b c", "COMPLETED", {"failures": 1}
    ),
    "self.retry is exhausted": Scenario(
        [DO, (self_retried, undo)], "a b b b A", "COMPENSATED", {"failures": 3}
    ),
    "soft time limit": _fails("soft limit", DO, (fails, undo), bodies="a b B A"),
    "unusable result": Scenario([DO, (unusable, undo)], "a b B A", "COMPENSATED"),
    "ignore": _fails("ignore", DO, (fails, undo), bodies="a b A"),
    "reject": _fails("reject", DO, (fails, undo), bodies="a b A"),
    "reject and requeue": _fails(
        "requeue", DO, (fails, undo), DO, bodies="a b b b c", status="COMPLETED", failures=2
    ),
    "missing input": Scenario([DO, (needs, undo)], "a A", "COMPENSATED"),
    "an undo's missing input": Scenario(
        [(fails, undo_needs, {"returns": "receipt"})],
        "a",
        "STUCK",
        {"how": "soft limit"},
    ),
    "an undo fails and recovers": _fails(
        "declined", DO, (do, undo_late), (fails, None), bodies="a b c B B B A"
    ),
    "an undo fails for good": _fails(
        "declined",
        DO,
        (do, undo_never),
        DO,
        (fails, None),
        bodies="a b c d C B B B A",
        status="STUCK",
    ),
    **{
        f"an undo: {how}": _fails(
            "declined", (do, undo_as), (fails, None), bodies="a b A A", undo_how=how
        )
        for how in ("ignore", "reject", "requeue", "soft limit")
    },
    "an undo aborts": _fails(
        "declined",
        (do, undo_as),
        (fails, None),
        bodies="a b A",
        status="STUCK",
        undo_how="abort",
    ),
    "an undo's own retries": _fails(
        "declined", (do, undo_retried), (fails, None), bodies="a b A A A"
    ),
    "an undo's unusable result": _fails(
        "declined", (do, undo_unusable), (fails, None), bodies="a b A"
    ),
    "replace": Scenario([DO, (replaces, undo), DO], "a b A", "COMPENSATED"),
    "an undo's arguments": _fails(
        "declined", (do, undo, {"returns": "receipt"}), (fails, None), bodies="a b A", value="r"
    ),
    "context in place": Scenario([(in_place, None), DO], "a b", "COMPLETED", {"kept": 1}),
    "a new context": Scenario([(new_context, None), DO], "a b", "COMPLETED", {"kept": 1, "x": 2}),
    "a bad context": Scenario(
        [DO, (bad_context, undo_in_context)], "a b B A", "COMPENSATED", {"kept": 1}
    ),
    "an undo in context style": _fails(
        "declined", (in_place, undo_in_context), (fails, None), bodies="a b A"
    ),
    "the pivot fails": _fails("declined", DO, (fails, None, {"pivot": True}), bodies="a b A"),
    "the pivot may have happened": _fails(
        "soft limit",
        DO,
        (fails, None, {"pivot": True}),
        DO[:1],
        bodies="a b b c",
        status="COMPLETED",
    ),
    "after the pivot": _fails(
        "declined",
        DO,
        (do, None, {"pivot": True}),
        (fails, None, {"retriable": True, "retry_backoff": 0.05}),
        bodies="a b c c c",
        status="COMPLETED",
        failures=2,
    ),
    "abort after the pivot": _fails(
        "abort", DO, (do, None, {"pivot": True}), (fails, None), bodies="a b c", status="STUCK"
    ),
    "missing input after the pivot": Scenario(
        [DO, (do, None, {"pivot": True}), (needs, None)], "a b", "STUCK"
    ),
    "retriable recovers": _fails(
        "declined",
        DO,
        (fails, undo, {"retriable": True, "max_attempts": 3, "retry_backoff": 0.05}),
        bodies="a b b b",
        status="COMPLETED",
        failures=2,
    ),
    "retriable is exhausted": _fails(
        "declined",
        DO,
        (fails, undo, {"retriable": True, "max_attempts": 2, "retry_backoff": 0.05}),
        bodies="a b b A",
        failures=2,
    ),
    "deadline": Scenario([(takes_long, undo), DO], "a A", "COMPENSATED", start={"deadline": 4.0}),
    "cancelled by its own step": Scenario([DO, (cancels, undo), DO], "a b B A", "COMPENSATED"),
    "a step starts another saga": Scenario([(starts_another, undo), DO], "a b", "COMPLETED"),
    "a step starts another saga that is undone": Scenario(
        [(starts_another, undo), DO], "a b", "COMPLETED", {"inner": "inner undone"}
    ),
    "cancelled before it starts": Scenario(
        [DO, DO], "", "COMPENSATED", start={"countdown": 60}, workers="eager calls do not wait"
    ),
    "an unknown task": Scenario(
        [DO, ("nobody.knows", None, {"inputs": []})],
        "a",
        "STUCK",
        workers="Celery sends what it does not know to the broker",
    ),
}

#: Sagas that steps start.
INNER: dict[str, Scenario] = {
    "inner": Scenario([DO, DO], "a b", "COMPLETED"),
    "inner undone": _fails("declined", (do, undo_late), (fails, None), bodies="a b A A A"),
}

#: A body that runs out of memory takes the worker along, which has to be followed by another.
MEMORY = _fails("memory", DO, (fails, undo), bodies="a b B A")

EVERY = {**SCENARIOS, **INNER, "memory": MEMORY}


def build(app: Celery, name: str) -> Saga:
    """The saga of a scenario on an app."""
    scenario = EVERY[name]
    saga = Saga(name, app=app)
    for letter, (task, *rest) in zip("abcdef", scenario.steps, strict=False):
        compensation, options = rest[0] if rest else None, rest[1] if len(rest) > 1 else {}
        step = saga.local_step(task, name=letter, **options)
        if compensation is not None:
            step.on_failure(compensation, **QUICK_UNDO, max_attempts=3)
    return saga.commit()
