"""Sagas that end in every way, for any app: one table of what bodies may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from celery import Celery, current_task, shared_task

from celery_saga import Saga, saga_info
from tests.worker.apps import bodies as tasks
from tests.worker.apps.bodies import compensation, do, fails
from tests.worker.apps.constants import QUICK_COMPENSATION
from tests.worker.apps.journal import note


@shared_task
def starts_another(inner="inner"):
    note("began")
    saga, saga_id = build(current_task.app, inner), f"{saga_info().saga_id}-child"
    return {"child": saga.apply_async(INNER[inner].context, saga_id=saga_id).id}


@dataclass(frozen=True)
class Scenario:
    """A saga and what becomes of it.

    Args:
        steps: task, compensation or ``None``, and options of the step.
        bodies: ``a b`` forward, ``B A`` back, in the order in which they begin.
        status: of the saga in the end.
        context: what it starts with.
        start: options of the start.
        workers: ``""``, or why it cannot be said without a worker.
        says: words of the errors that are kept.
        ends: the context in the end, if it is given here.
        last: what the last body was called with, and saw.
        attempts: of the last bodies, each with its number.
    """

    steps: list[tuple[Any, ...]]
    bodies: str
    status: str
    context: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    workers: str = ""
    says: tuple[str, ...] = ()
    ends: dict[str, Any] | None = None
    last: dict[str, Any] = field(default_factory=dict)
    attempts: tuple[int, ...] = ()

    @property
    def began(self) -> list[str]:
        """As the journal has it."""
        return [f"{x.lower()}/{'c' if x.isupper() else 'f'}" for x in self.bodies.split()]


DO = (do, compensation)


#: What a scenario expects.
EXPECTED = ("says", "ends", "last", "attempts")


def _fails(
    how: str, *steps: Any, bodies: str, status: str = "COMPENSATED", **more: Any
) -> Scenario:
    expected = {name: more.pop(name) for name in EXPECTED if name in more}
    return Scenario(list(steps), bodies, status, {"how": how, **more}, **expected)


def _compensation_without_success(way: str, bodies: str = "a b c B B B A", *says: str) -> Scenario:
    """One that does the same in each of its three attempts."""
    return Scenario(
        [DO, (tasks.late, compensation), (fails, None)],
        bodies,
        "STUCK",
        {"how": "declined", "ways": {"b/c": way}},
        says=says,
    )


SCENARIOS: dict[str, Scenario] = {
    "success": Scenario(
        [DO, (tasks.counted, compensation), DO], "a b c", "COMPLETED", {"value": 5}
    ),
    "a coroutine": Scenario([DO, (tasks.waited, compensation)], "a b", "COMPLETED", {"value": 5}),
    "the first step fails": _fails("declined", (fails, compensation), DO, bodies="a"),
    "a middle step fails": _fails("declined", DO, (fails, compensation), DO, bodies="a b A"),
    "the last step fails": _fails("declined", DO, DO, (fails, compensation), bodies="a b c B A"),
    "steps without a compensation": _fails(
        "declined",
        DO,
        (do, None),
        DO,
        (fails, compensation),
        bodies="a b c d C A",
        says=("declined",),
    ),
    "abort": _fails("abort", DO, (fails, compensation), bodies="a b A"),
    "abort under autoretry": _fails(
        "abort", DO, (tasks.autoretried, compensation), bodies="a b A", failures=1
    ),
    "compensated although it raised": _fails(
        "declined", DO, (fails, compensation, {"compensate_on_failure": True}), bodies="a b B A"
    ),
    "compensated because of what it raised": _fails(
        "unsure",
        DO,
        (fails, compensation, {"compensate_on_failure": tasks.Unsure}),
        bodies="a b B A",
    ),
    "compensated because of the class of what it raised": _fails(
        "very unsure",
        DO,
        (fails, compensation, {"compensate_on_failure": tasks.Unsure}),
        bodies="a b B A",
    ),
    "not compensated because of what it raised": _fails(
        "declined",
        DO,
        (fails, compensation, {"compensate_on_failure": tasks.Unsure}),
        bodies="a b A",
    ),
    "autoretry recovers": _fails(
        "declined",
        DO,
        (tasks.autoretried, compensation),
        bodies="a b b",
        status="COMPLETED",
        failures=1,
    ),
    "autoretry is exhausted": _fails(
        "declined", DO, (tasks.autoretried, compensation), bodies="a b b b A", failures=3
    ),
    "self.retry recovers": Scenario(
        [DO, (tasks.self_retried, compensation), DO], "a b b c", "COMPLETED", {"failures": 1}
    ),
    "self.retry is exhausted": Scenario(
        [DO, (tasks.self_retried, compensation)], "a b b b A", "COMPENSATED", {"failures": 3}
    ),
    "soft time limit": _fails("soft limit", DO, (fails, compensation), bodies="a b B A"),
    "unusable result": Scenario(
        [DO, (tasks.unusable, compensation)],
        "a b B A",
        "COMPENSATED",
        says=("UnserializableValue",),
    ),
    "ignore": _fails("ignore", DO, (fails, compensation), bodies="a b A"),
    "reject": _fails("reject", DO, (fails, compensation), bodies="a b A"),
    "reject and requeue": _fails(
        "requeue", DO, (fails, compensation), DO, bodies="a b b b c", status="COMPLETED", failures=2
    ),
    "missing input": Scenario(
        [DO, (tasks.needs, compensation)],
        "a A",
        "COMPENSATED",
        says=("MissingInput", "'something'"),
    ),
    "a compensation's missing input": Scenario(
        [(fails, tasks.compensation_needs, {"returns": "receipt"})],
        "a",
        "STUCK",
        {"how": "soft limit"},
        says=("'receipt'",),
    ),
    "a compensation fails and recovers": _fails(
        "declined",
        DO,
        (do, tasks.compensation_late),
        (fails, None),
        bodies="a b c B B B A",
        attempts=(1, 2, 3, 1),
    ),
    "a compensation fails for good": _fails(
        "declined",
        DO,
        (do, tasks.compensation_never),
        DO,
        (fails, None),
        bodies="a b c d C B B B A",
        status="STUCK",
        says=("declined", "PermissionError", "the shop is closed"),
    ),
    **{
        f"a compensation: {how}": _fails(
            "declined",
            (do, tasks.compensation_as),
            (fails, None),
            bodies="a b A A",
            compensation_how=how,
        )
        for how in ("ignore", "reject", "requeue", "soft limit")
    },
    "a compensation aborts": _fails(
        "declined",
        (do, tasks.compensation_as),
        (fails, None),
        bodies="a b A",
        status="STUCK",
        compensation_how="abort",
        says=("declined", "no way"),
    ),
    "a compensation ignores without success": _compensation_without_success("ignores"),
    "a compensation rejects without success": _compensation_without_success("rejects"),
    "a compensation replaces without success": _compensation_without_success(
        "replaces", "a b c B B B A", "self.replace()"
    ),
    "a compensation's own retries without success": _compensation_without_success(
        "retries without success", "a b c B B B B B B A"
    ),
    "a compensation's autoretry": _fails(
        "declined",
        (do, tasks.compensation_autoretried),
        (fails, None),
        bodies="a b A A A",
        attempts=(1, 2, 3),
    ),
    "a compensation's own retries": _fails(
        "declined", (do, tasks.compensation_retried), (fails, None), bodies="a b A A A"
    ),
    "a compensation's unusable result": _fails(
        "declined", (do, tasks.compensation_unusable), (fails, None), bodies="a b A"
    ),
    "replace": Scenario(
        [DO, (tasks.replaces, compensation), DO], "a b A", "COMPENSATED", says=("self.replace()",)
    ),
    "a compensation's arguments": _fails(
        "declined",
        (do, tasks.compensation_with, {"returns": "receipt"}),
        (fails, None),
        bodies="a b A",
        value="r",
        last={"receipt": "r", "other": "default", "forward_key": "<saga>/a/f/0"},
        ends={"how": "declined", "value": "r", "receipt": "r"},
    ),
    "context in place": Scenario([(tasks.in_place, None), DO], "a b", "COMPLETED", {"kept": 1}),
    "a new context": Scenario(
        [(tasks.new_context, None), DO], "a b", "COMPLETED", {"kept": 1, "x": 2}
    ),
    "a bad context": Scenario(
        [DO, (tasks.bad_context, tasks.compensation_in_context)],
        "a b B A",
        "COMPENSATED",
        {"kept": 1},
        says=("'b'", "a SagaContext, a mapping, None or True", "int"),
    ),
    "a context that cannot be stored": Scenario(
        [DO, (tasks.unusable_context, compensation)],
        "a b B A",
        "COMPENSATED",
        says=("UnserializableValue",),
    ),
    "a compensation in context style": _fails(
        "declined",
        (tasks.in_place, tasks.compensation_in_context),
        (fails, None),
        bodies="a b A",
        last={"seen": {"how": "declined", "seen": ["how"]}},
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
        [DO, (do, None, {"pivot": True}), (tasks.needs, None)], "a b", "STUCK"
    ),
    "retriable recovers": _fails(
        "declined",
        DO,
        (fails, compensation, {"retriable": True, "max_attempts": 3, "retry_backoff": 0.05}),
        bodies="a b b b",
        status="COMPLETED",
        failures=2,
    ),
    "retriable is exhausted": _fails(
        "declined",
        DO,
        (fails, compensation, {"retriable": True, "max_attempts": 2, "retry_backoff": 0.05}),
        bodies="a b b A",
        failures=2,
    ),
    "deadline": Scenario(
        [(tasks.takes_long, compensation), DO], "a A", "COMPENSATED", start={"deadline": 4.0}
    ),
    "cancelled by its own step": Scenario(
        [DO, (tasks.cancels, compensation), DO], "a b B A", "COMPENSATED"
    ),
    "a step starts another saga": Scenario(
        [(starts_another, compensation), DO], "a b", "COMPLETED"
    ),
    "a step starts another saga that is compensated": Scenario(
        [(starts_another, compensation), DO], "a b", "COMPLETED", {"inner": "inner compensated"}
    ),
    "cancelled before it starts": Scenario(
        [DO, DO], "", "COMPENSATED", start={"countdown": 60}, workers="eager calls do not wait"
    ),
    "an unknown task": Scenario(
        [DO, ("unknown.task", None, {"inputs": []})],
        "a",
        "STUCK",
        workers="Celery sends what it does not know to the broker",
    ),
}

#: Sagas that steps start.
INNER: dict[str, Scenario] = {
    "inner": Scenario([DO, DO], "a b", "COMPLETED"),
    "inner compensated": _fails(
        "declined", (do, tasks.compensation_late), (fails, None), bodies="a b A A A"
    ),
}

#: A body that runs out of memory takes the worker along, which has to be followed by another.
MEMORY = _fails("memory", DO, (fails, compensation), bodies="a b B A")

EVERY = {**SCENARIOS, **INNER, "memory": MEMORY}


def build(app: Celery, name: str) -> Saga:
    """The saga of a scenario on an app."""
    scenario = EVERY[name]
    saga = Saga(name, app=app)
    for letter, (task, *rest) in zip("abcdef", scenario.steps, strict=False):
        compensation, options = rest[0] if rest else None, rest[1] if len(rest) > 1 else {}
        step = saga.local_step(task, name=letter, **options)
        if compensation is not None:
            step.on_failure(compensation, **QUICK_COMPENSATION, max_attempts=3)
    return saga.commit()
