"""Small builders for tests of stores: plans, executions, claims, things done at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from celery_saga.core.decide import decide
from celery_saga.core.events import Started, StepSucceeded
from celery_saga.core.execution import Claim, Direction, SagaExecution, StepRef
from celery_saga.core.plan import Call, Input, Plan, PlanStep
from celery_saga.core.ports import Refused, Store


def found_by(store: Store, *asked: Any) -> list[str]:
    """The ids that ``store.find`` answers with."""
    return [each.saga_id for each in store.find(*asked)]


def make_plan(steps: int = 3, saga: str = "contract") -> Plan:
    """A plan of steps that all have a compensation."""
    return Plan(
        saga,
        tuple(
            PlanStep(
                f"step{index}",
                Call(f"tasks.do{index}", inputs=(Input("order", ("order",), required=False),)),
                Call(f"tasks.compensate{index}", max_attempts=5, backoff=0.5),
            )
            for index in range(steps)
        ),
    )


def make_execution(store: Store, **values: Any) -> SagaExecution:
    """A started execution which is not saved yet."""
    saga_id = f"contract-{uuid.uuid4()}"
    new = SagaExecution.create(saga_id, make_plan(), values, at=store.now())
    return decide(new, Started(store.now())).execution


def create(store: Store, **values: Any) -> SagaExecution:
    """A started execution, saved."""
    return store.create(make_execution(store, **values), uuid.uuid4().hex)[0]


def save(store: Store, before: SagaExecution, after: SagaExecution) -> SagaExecution | None:
    """Save under a token of its own."""
    return store.save(before, after, uuid.uuid4().hex)


def claim(
    store: Store, execution: SagaExecution, instance: str = "instance", retries: int = 0
) -> SagaExecution | Refused:
    """Claim the ref that is due, under a token of its own."""
    (ref,) = execution.active
    mine = Claim(uuid.uuid4().hex, instance, retries)
    return store.claim(execution.saga_id, ref, mine, run_id=execution.run_id)


def succeed(store: Store, execution: SagaExecution, **update: Any) -> SagaExecution:
    """The claimed step succeeds, and that is saved."""
    (ref,) = execution.active
    step = execution.steps[ref.path]
    assert step.claim is not None
    event = StepSucceeded(store.now(), ref, step.claim.token, update)
    saved = save(store, execution, decide(execution, event).execution)
    assert saved is not None
    return saved


def granted(answer: SagaExecution | Refused) -> SagaExecution:
    """The execution of a claim that was granted."""
    assert not isinstance(answer, Refused), answer.reason
    return answer


def claim_of_the_past(store: Store, execution: SagaExecution) -> SagaExecution | Refused:
    """A delivery of the last step, after the saga ended."""
    last = len(execution.steps) - 1
    ref = StepRef((last,), Direction.FORWARD, execution.steps[last].epoch)
    return store.claim(execution.saga_id, ref, Claim("late", "instance"))


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """The answers of ``count`` threads that make a call at the same moment."""
    barrier, answers = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait()
        answers.append(call(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == count, "a thread failed"
    return answers


def until(condition: Callable[[], bool], attempts: int = 1000) -> None:
    """Call the condition until it is true."""
    pause = threading.Event()
    for _ in range(attempts):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it never came true")
