"""Runs what is on a stage: the messages one after the other, and then what time brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from celery_saga.core.failures import text_of
from celery_saga.errors import SetupError
from celery_saga.testing.kit.delivery import REQUEUED, Delivery
from celery_saga.testing.kit.faults import Body
from celery_saga.testing.kit.script import Script
from celery_saga.testing.kit.stage import Choose, Queued, Stage
from celery_saga.testing.kit.trail import Ran

#: So many deliveries of one run, and then it is taken as one that does not end.
MAX_DELIVERIES = 10_000


class Driver:
    """Delivers messages and lets time pass, in an order that does not change.

    Args:
        stage: see :class:`Stage`.
        choose: which of several messages is delivered next.
    """

    def __init__(self, stage: Stage, choose: Choose) -> None:
        self._stage, self._choose = stage, choose
        self._later: list[tuple[float, Callable[[], object]]] = []

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Call something once that time has come."""
        self._later.append((when, call))
        self._later.sort(key=lambda each: each[0])

    def drive(self, until: float | None) -> None:
        """Continue until nothing is left to do by that time; ``None``: until nothing is left.

        Raises:
            AssertionError: it does not end.
            SetupError: a step's task is not declared in this process.
        """
        stage = self._stage
        with stage.entered():
            for _ in range(MAX_DELIVERIES):
                if self._called() or self._delivered():
                    continue
                at = self._next_time()
                if at is None or (until is not None and at > until):
                    break
                stage.clock.set_forward(at)
                stage.check_due()
            else:
                raise AssertionError(self._endless())
        if until is not None:
            stage.clock.set_forward(until)

    def _next_time(self) -> float | None:
        times = [self._stage.next_time(), self._later[0][0] if self._later else None]
        return min((at for at in times if at is not None), default=None)

    def _called(self) -> bool:
        if not self._later or self._later[0][0] > self._stage.clock():
            return False
        self._later.pop(0)[1]()
        return True

    def _delivered(self) -> bool:
        """Deliver a message, if there is one to be taken now."""
        ready = self._stage.ready()
        if not ready:
            return False
        queued = ready[self._choose(ready)]
        self._stage.queued.remove(queued)
        self._deliver(queued)
        return True

    def _deliver(self, queued: Queued) -> None:
        stage, message = self._stage, queued.message
        script, direction = stage.scripts.get(queued.saga_id), ""
        if queued.ref is not None:
            direction = queued.ref.direction.value
        with _declared(stage.app, queued, script, direction):

            def replaced(body: Body) -> Body:
                return script.applied(queued.step, direction, body) if script else body

            delivery = Delivery(stage.app, message, replaced)
            began = stage.clock()
            delivery.run()
        if delivery.outcome == REQUEUED:
            stage.queued.append(queued)
        if queued.ref is not None and delivery.began:
            self._note(queued, direction, began, delivery)

    def _note(self, queued: Queued, direction: str, began: float, delivery: Delivery) -> None:
        error, since = delivery.error, self._stage.orchestrator.load(queued.saga_id).created_at
        text = "" if error is None else f"{type(error).__name__}: {text_of(error)}"
        at, inputs = began - since, delivery.inputs
        ran = Ran(queued.step, direction, at, delivery.outcome, text.removesuffix(": "), inputs)
        self._stage.trails[queued.saga_id].append(ran)

    def _endless(self) -> str:
        last = [str(ran) for trail in self._stage.trails.values() for ran in trail[-5:]]
        lines = "\n".join(last)
        return f"it does not end: {MAX_DELIVERIES} deliveries so far, the last of them\n{lines}"


@contextmanager
def _declared(app: Celery, queued: Queued, script: Script | None, direction: str) -> Iterator[None]:
    """Declare the task of a step that another service has, if the test says what it does."""
    name = queued.message.name
    if name in app.tasks:
        yield
        return
    if script is None or not script.replaces(queued.step, direction):
        verb = "compensation" if direction == "c" else "step"
        raise SetupError(
            f"step {queued.step!r}: its task {name!r} is not declared in this process: import its "
            f"module in the test, or say what it does: .{verb}({queued.step!r}).returns(...)"
        )
    declare: Any = app.task
    declare(_another_services(name), name=name, shared=False)
    try:
        yield
    finally:
        del app.tasks[name]


def _another_services(name: str) -> Body:
    """A body that is replaced each time it runs: a new one, as Celery binds it to one app."""

    def run(*args: Any, **kwargs: Any) -> Any:
        raise SetupError(f"task {name!r} is another service's")

    return run
